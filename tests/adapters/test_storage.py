"""Adapter files: outputs come back exactly, everything wrong is named, and switching compiles nothing."""

import json

import jax
import numpy as np
import pytest

from ditask_jax.adapters import DiTASK, Full, merge, wrap
from ditask_jax.adapters.merging import stacked, unstacked
from ditask_jax.adapters.method_registry import method_class
from ditask_jax.adapters.storage import (
    ARRAYS,
    DESCRIPTION,
    adapter_groups,
    load_adapter,
    read_description,
    save_adapter,
)
from ditask_jax.errors import CheckpointError, DitaskError, WeightsError
from ditask_jax.model import create_model
from ditask_jax.nn import flatten, split_state
from ditask_jax.training.step import make_predict
from ditask_jax.weight_files import read_weights, write_weights
from tests.adapters.cases import IMAGES, Wrapped, task_list
from tests.conversion.test_robustness import MUTATIONS, check_one_line, mutate

METHOD = DiTASK(shared_cells=4, task_cells=4)


def wrapped(method=METHOD, *tasks, **options):
    return Wrapped(method, *tasks, **options)


def trained(seed: int = 1, method=METHOD):
    """A wrapped model, and a state that training could have left."""
    case = wrapped(method)
    stats = jax.tree.map(lambda value: value + 0.25 * seed, case.parts.stats)
    return case, (case.random_trainable(seed=seed), None, stats)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Two adapters of one model, and what they predict."""
    folder = tmp_path_factory.mktemp("adapters")
    states = {}
    for seed in (1, 2):
        case, state = trained(seed)
        save_adapter(folder / str(seed), case.model, state)
        states[str(seed)] = state
    return folder, states


def test_outputs_come_back_and_switching_compiles_nothing(saved):
    folder, states = saved
    case = wrapped()
    predict = jax.jit(make_predict(case.parts))
    expected = {
        name: predict(trainable, case.parts.frozen, stats, IMAGES) for name, (trainable, _, stats) in states.items()
    }
    compiled = predict._cache_size()
    for name in ("1", "2", "1"):
        state = load_adapter(folder / name, case.model)
        got = predict(state.trainable, case.parts.frozen, state.stats, IMAGES)
        for task, logits in expected[name].items():
            np.testing.assert_array_equal(np.asarray(got[task]), np.asarray(logits))
    assert predict._cache_size() == compiled == 1
    assert not np.array_equal(expected["1"]["depth"], expected["2"]["depth"])


def test_the_folder_describes_itself(saved):
    folder, _ = saved
    assert sorted(path.name for path in (folder / "1").iterdir()) == [DESCRIPTION, ARRAYS]
    body = read_description(folder / "1")
    case = wrapped()
    assert body["method"]["name"] == "ditask"
    assert body["method"]["options"]["shared_cells"] == 4
    assert body["model"]["tasks"] == {"semseg": 5, "depth": 1}
    assert {group: entry["numbers"] for group, entry in body["groups"].items()} == adapter_groups(case.model)
    assert {"ditask_jax", "jax", "flax"} <= body["versions"].keys()


def test_groups_can_be_chosen(saved, tmp_path):
    case, state = trained(3)
    save_adapter(tmp_path / "thetas", case.model, state, groups="adapters")
    assert (tmp_path / "thetas" / ARRAYS).stat().st_size < (saved[0] / "1" / ARRAYS).stat().st_size / 2
    other = wrapped()
    before = flatten(split_state(other.model).trainable)
    after = flatten(load_adapter(tmp_path / "thetas", other.model).trainable)
    wanted = flatten(state[0])
    for path, value in after.items():
        np.testing.assert_array_equal(value, wanted[path] if "/adapter/" in path else before[path])
    with pytest.raises(WeightsError, match="unknown name 'thetas'"):
        save_adapter(tmp_path / "x", case.model, state, groups=["thetas"])
    save_adapter(tmp_path / "two", case.model, state, groups=("norms", "adapters"))
    assert set(read_description(tmp_path / "two")["groups"]) == {"norms", "adapter shared", "adapter task"}


def test_thetas_take_a_few_kilobytes(saved, tmp_path):
    """With a tensor for each theta, names, offsets and hashes would be most of a file."""
    case, state = trained(3)
    folder = save_adapter(tmp_path / "thetas", case.model, state, groups="adapters")
    numbers = sum(group["numbers"] for group in read_description(folder)["groups"].values())
    layers = read_description(folder)["arrays"]["count"]
    assert layers > 30
    assert (folder / ARRAYS).stat().st_size - 4 * numbers < 1000 + 50 * layers
    tensors, metadata = read_weights(folder / ARRAYS)
    assert set(tensors) == {f"adapter/theta_{stream}/float32_3" for stream in ("shared", "semseg", "depth")}
    assert set(unstacked(tensors, metadata["rows"], "it")) == {n for n in flatten(state[0]) if "/adapter/" in n}


THETAS = {f"backbone/{layer}/adapter/theta_shared": np.zeros(3, np.float32) for layer in ("fc1", "fc2")}
STACK = "adapter/theta_shared/float32_3"


@pytest.mark.parametrize(
    "rows",
    [
        "",
        "[]",
        "{",
        '{"x": 3}',
        "[" * 100_000,
        json.dumps({STACK: "backbone/fc1"}),
        json.dumps({STACK: "backbone/fc1 backbone/fc1"}),
        json.dumps({STACK: "a b c"}),
        json.dumps({STACK: "backbone/fc1 backbone/fc2", "adapter/none/float32_3": "backbone/fc1"}),
        json.dumps({STACK: "backbone/fc1 heads"}),
        json.dumps({"heads/bias": "backbone/fc1"}),
    ],
)
def test_rows_that_do_not_fit_their_stacks(rows):
    tensors, _ = stacked({**THETAS, "heads/bias": np.zeros(()), "heads/adapter/x/theta_shared": np.zeros(2)})
    tensors["heads/adapter/theta_shared"] = np.zeros(3)
    with pytest.raises(WeightsError, match=r"does not say which layers|rows for \d layers, or some are twice"):
        unstacked(tensors, rows, "it")


def test_files_of_the_first_format_are_still_read(saved, tmp_path):
    from ditask_jax.adapters.storage import FIRST_FORMAT, _hash

    copy = _copy(saved, tmp_path / "x")
    tensors, metadata = read_weights(copy / ARRAYS)
    write_weights(copy / ARRAYS, unstacked(tensors, metadata["rows"], "it"), kind=FIRST_FORMAT)
    body = read_description(copy)
    body |= {"format": FIRST_FORMAT, "arrays": {"checksum": read_weights(copy / ARRAYS)[1]["checksum"]}}
    (copy / DESCRIPTION).write_text(json.dumps(body | {"sha256": _hash(body)}))
    got = load_adapter(copy, wrapped().model)
    for path, value in flatten(saved[1]["1"][0]).items():
        np.testing.assert_array_equal(flatten(got.trainable)[path], value)


MISMATCHES = {
    "method: 'ditask' in the file, 'full' in the model": lambda: wrapped(Full()),
    "shared_cells: 4 in the file, 8 in the model": lambda: wrapped(DiTASK(shared_cells=8, task_cells=4)),
    "domain: value in the file, index in the model": lambda: wrapped(DiTASK(4, 4, domain="index")),
    "headroom: 1.0 in the file, 2.0 in the model": lambda: wrapped(DiTASK(4, 4, headroom=2.0)),
    r"tasks: .*'depth': 1.* in the file, .*'sal': 1.* in the model": lambda: wrapped(METHOD, "semseg", "sal"),
    "backbone: made on random weights of another seed .* the model has other weights": lambda: wrapped(METHOD, seed=5),
    "backbone: swin_test in the file, swin_test_deep in the model": lambda: wrapped(METHOD, backbone="swin_test_deep"),
}


@pytest.mark.parametrize("message", MISMATCHES)
def test_mismatches_are_named_and_change_nothing(saved, message):
    case = MISMATCHES[message]()
    before = flatten(split_state(case.model).trainable)
    with pytest.raises(WeightsError, match=message):
        load_adapter(saved[0] / "1", case.model)
    after = flatten(split_state(case.model).trainable)
    assert all(np.array_equal(before[path], after[path]) for path in before)


def test_options_without_effect_may_differ(saved):
    case = wrapped(DiTASK(shared_cells=4, task_cells=4, dropout=0.5, init="upstream", execution="materialised"))
    load_adapter(saved[0] / "1", case.model)


@pytest.mark.parametrize("name", ["lora", "mtlora", "adapter", "svf", "bitfit", "full"])
def test_every_method_can_be_saved(name, tmp_path):
    case, state = trained(1, method_class(name)())
    save_adapter(tmp_path / "x", case.model, state)
    other = wrapped(method_class(name)())
    got = load_adapter(tmp_path / "x", other.model)
    for mine, theirs in ((got.trainable, state[0]), (got.stats, state[2])):
        theirs = flatten(theirs)
        assert all(np.array_equal(value, theirs[path]) for path, value in flatten(mine).items())


def test_only_wrapped_models_have_adapters(saved, tmp_path):
    case, state = trained()
    with pytest.raises(WeightsError, match="the model is not wrapped, or merged already"):
        save_adapter(tmp_path / "x", merge(case.model))
    with pytest.raises(CheckpointError, match="values of another model: no backbone/patch_embed"):
        save_adapter(tmp_path / "x", case.model, ({}, {}))
    with pytest.raises(CheckpointError, match=r"expected what trainer.fit returned"):
        save_adapter(tmp_path / "x", case.model, 3)
    (tmp_path / "file").write_text("x")
    with pytest.raises(WeightsError, match="is a file; give a folder"):
        save_adapter(tmp_path / "file", case.model, state)
    with pytest.raises(WeightsError, match=r"is no folder. Did you mean '1'"):
        load_adapter(saved[0] / "11", case.model)


def _copy(saved, folder):
    folder.mkdir()
    for path in (saved[0] / "1").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_a_pair_must_belong_together(saved, tmp_path):
    copy = _copy(saved, tmp_path / "x")
    (copy / ARRAYS).write_bytes((saved[0] / "2" / ARRAYS).read_bytes())
    with pytest.raises(WeightsError, match=r"is not the file that adapter.json describes"):
        load_adapter(copy, wrapped().model)
    (copy / ARRAYS).unlink()
    with pytest.raises(WeightsError, match=r"no file .* an adapter is a folder with"):
        load_adapter(copy, wrapped().model)


@pytest.mark.parametrize("name", [ARRAYS, DESCRIPTION])
def test_links_are_refused(saved, tmp_path, name):
    copy = _copy(saved, tmp_path / "x")
    (copy / name).unlink()
    (copy / name).symlink_to(saved[0] / "1" / name)
    with pytest.raises(WeightsError, match="is a symbolic link"):
        load_adapter(copy, wrapped().model)


def test_a_well_hashed_description_of_something_else(saved, tmp_path):
    from ditask_jax.adapters.storage import _hash

    copy = _copy(saved, tmp_path / "x")
    body = json.loads((copy / DESCRIPTION).read_text())
    body.pop("sha256")
    for change in ({"groups": 3}, {"method": {"name": 1}}, {"arrays": []}, {"format": "other"}, {"backbone": {}}):
        wrong = body | change
        (copy / DESCRIPTION).write_text(json.dumps(wrong | {"sha256": _hash(wrong)}))
        with pytest.raises(WeightsError, match=r"has no usable|has format"):
            load_adapter(copy, wrapped().model)


@pytest.mark.parametrize("count", [MUTATIONS // 10, pytest.param(MUTATIONS, marks=pytest.mark.slow)])
def test_no_mutated_adapter_loads_with_other_numbers(tmp_path, count):
    """Thetas alone, so that descriptions and numbers are hit alike; files are read as `load_adapter` does."""
    case, state = trained(4)
    save_adapter(tmp_path / "x", case.model, state, groups="adapters")
    expected = load_adapter(tmp_path / "x", case.model)
    whole = {name: (tmp_path / "x" / name).read_bytes() for name in (ARRAYS, DESCRIPTION)}
    rng = np.random.default_rng(0)
    loaded = 0
    for number in range(count):
        name = (ARRAYS, DESCRIPTION)[number % 2]
        (tmp_path / "x" / name).write_bytes(mutate(whole[name], rng))
        try:
            got = load_adapter(tmp_path / "x", case.model)
        except DitaskError as error:
            check_one_line(error)
        else:
            loaded += 1
            same = jax.tree.map(np.array_equal, got.trainable, expected.trainable)
            assert all(jax.tree.leaves(same))
        (tmp_path / "x" / name).write_bytes(whole[name])
    assert loaded < count // 10


def test_a_vit_is_read_where_the_adapter_was_trained(tmp_path):
    def built(taps):
        model = create_model("vit_test", task_list("depth"), 32, widths=(4, 4), taps=taps)
        wrap(model, DiTASK(shared_cells=8, task_cells=4))
        return model

    save_adapter(tmp_path / "adapter", built((1, 4)))
    load_adapter(tmp_path / "adapter", built((1, 4)))
    with pytest.raises(WeightsError, match=r"taps: \[1, 4\] in the file, \[2, 4\] in the model"):
        load_adapter(tmp_path / "adapter", built((2, 4)))
