"""Predictions on arrays: those of the model, whatever sizes come, with the streams of the asked tasks alone."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import ditask_jax as dj
from ditask_jax.adapters.storage import save_adapter
from ditask_jax.errors import ConfigError, DataError, WeightsError
from ditask_jax.nn.linear import linears
from ditask_jax.nn.state import split_state
from ditask_jax.prediction.restoring import build_adapted
from ditask_jax.prediction.subset import for_tasks
from ditask_jax.tasks import tasks
from ditask_jax.training.step import make_predict
from tests.prediction.made_run import STEP, made_run
from tests.training.small import NAME, OPTIONS, two_stages

TASKS = tasks("semseg+normals+depth", dataset="scenes")
SIZES = [(32, 32), (50, 20), (17, 90)]


@pytest.fixture(scope="module", autouse=True)
def small_backbone():
    with two_stages():
        yield


def made_model(method, seed=0):
    model = dj.create_model(NAME, TASKS, image_size=32, widths=(4, 4))
    dj.wrap(model, method, seed=seed)
    return model


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (*size, 3), np.uint8) for size in SIZES]


@pytest.fixture(scope="module")
def model():
    # Away from the start, so that streams differ.
    return made_model(dj.DiTASK(shared_cells=4, task_cells=4, init="upstream", headroom=1.5))


@pytest.fixture(scope="module")
def merged(model):
    return dj.merge(model)


@pytest.fixture(scope="module")
def everything(merged, pictures):
    return dj.Predictor(merged, TASKS, batch_size=4)(pictures)


def test_sizes_types_and_units(everything, pictures):
    for image, found in zip(pictures, everything, strict=True):
        size = image.shape[:2]
        assert {name: (value.shape, value.dtype) for name, value in found.items()} == {
            "semseg": (size, np.uint8),
            "normals": ((*size, 3), np.float32),
            "depth": (size, np.float32),
        }
        assert found["semseg"].max() < TASKS[0].num_outputs
        np.testing.assert_allclose(np.linalg.norm(found["normals"], axis=-1), 1, atol=1e-4)
        assert (found["depth"] >= 0).all()


def test_a_picture_of_the_networks_size_is_predicted_as_in_evaluation(model, everything, pictures):
    parts = split_state(model)
    forward = jax.jit(make_predict(parts))
    logits = forward(parts.trainable, parts.frozen, parts.stats, jnp.asarray(pictures[0][None]))
    for task in TASKS:
        expected = np.asarray(task.decode(logits[task.name]))[0]
        np.testing.assert_allclose(everything[0][task.name], expected, atol=1e-4)


def test_fewer_tasks_run_fewer_streams_and_change_nothing(merged, everything, pictures):
    one = for_tasks(merged, ["depth"])
    streams = {linear.merged_streams for linear in linears(one.backbone)}
    assert streams <= {(), ("shared", "depth"), ("depth",)}
    assert len(streams) > 1
    for whole, part in zip(linears(merged.backbone), linears(one.backbone), strict=True):
        if part.merged_streams:
            assert part.kernel.shape[0] == len(part.merged_streams) < whole.kernel.shape[0]
            row = whole.merged_streams.index("depth")
            assert np.array_equal(part.kernel[...][-1], whole.kernel[...][row])
    assert set(one.heads) == set(one.necks) == {"depth"}
    # The model itself is as it was.
    assert set(merged.heads) == {task.name for task in TASKS}
    found = dj.Predictor(merged, TASKS, only="depth", batch_size=4)(pictures)
    for some, all_of_them in zip(found, everything, strict=True):
        assert set(some) == {"depth"}
        np.testing.assert_allclose(some["depth"], all_of_them["depth"], atol=1e-4)


def test_tiles_of_a_picture_of_the_networks_size_are_the_picture(merged, everything, pictures):
    predictor = dj.Predictor(merged, TASKS, only="depth", tile=True, batch_size=4)
    [same, small] = predictor([pictures[0], pictures[0][:9, :20]])
    np.testing.assert_allclose(same["depth"], everything[0]["depth"], atol=1e-4)
    assert small["depth"].shape == (9, 20)


def test_grey_pictures_and_wrong_arrays(merged):
    predictor = dj.Predictor(merged, TASKS, only=("depth",), batch_size=4)
    grey = np.arange(32 * 32, dtype=np.uint32).astype(np.uint8).reshape(32, 32)
    [a, b] = predictor([grey, np.repeat(grey[..., None], 3, axis=2)])
    assert np.array_equal(a["depth"], b["depth"])
    for wrong in (np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3), np.float32), np.zeros((0, 4, 3), np.uint8)):
        with pytest.raises(DataError, match=r"expected uint8 \[H, W, 3\]"):
            predictor([wrong])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"only": "dept"}, "the model was not made for 'dept'. Did you mean 'depth'"),
        ({"only": ""}, "tasks: none given"),
        ({"batch_size": 0}, "batch_size: got 0"),
        ({"overlap": 1.5}, "overlap: got 1.5"),
    ],
)
def test_wrong_options(model, options, message):
    with pytest.raises(ConfigError, match=message):
        dj.Predictor(model, TASKS, **options)


def test_tasks_of_another_model(model):
    with pytest.raises(ConfigError, match="was made for semseg normals depth, got the tasks depth"):
        dj.Predictor(model, TASKS[2:])


def test_from_an_adapter(model, everything, pictures, tmp_path):
    save_adapter(tmp_path / "whole", model)
    predictor = dj.Predictor.from_adapter(tmp_path / "whole", only="depth", batch_size=4)
    assert predictor.source == "adapter whole"
    for found, expected in zip(predictor(pictures), everything, strict=True):
        np.testing.assert_allclose(found["depth"], expected["depth"], atol=1e-4)
    assert build_adapted(tmp_path / "whole")[1][0].class_names[1] == "class 1"
    assert build_adapted(tmp_path / "whole", dataset="scenes")[1] == TASKS


def test_an_adapter_without_heads_is_refused(model, tmp_path):
    save_adapter(tmp_path / "part", model, groups="adapters")
    with pytest.raises(WeightsError, match=r"saved without .*heads.*; save it with groups"):
        dj.Predictor.from_adapter(tmp_path / "part")


def test_from_a_run(pictures, tmp_path):
    folder = made_run(tmp_path / "run", *OPTIONS)
    predictor = dj.Predictor.from_run(folder, only="semseg", batch_size=2)
    assert predictor.source == f"ditask on scenes, step {STEP}"
    assert [found["semseg"].shape for found in predictor(pictures)] == SIZES


METHODS = [
    dj.MTLoRA(shared_rank=2, task_rank=2),
    dj.MTLoRA(shared_rank=2, task_rank=2, mode="addition"),
    dj.LoRA(rank=2),
    dj.Adapter(bottleneck=2),
    dj.SVF(),
    dj.Full(),
]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS, ids=lambda method: f"{method.name}-{getattr(method, 'mode', '')}")
def test_every_method_can_be_cut_down_to_a_task(method, pictures):
    model = made_model(method)
    whole = dj.Predictor(model, TASKS, batch_size=4)(pictures)
    for name in ("semseg", "depth"):
        part = dj.Predictor(model, TASKS, only=name, batch_size=4)(pictures)
        for found, expected in zip(part, whole, strict=True):
            np.testing.assert_allclose(found[name], expected[name], atol=1e-4)
