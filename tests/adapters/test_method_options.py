"""Options of methods from configurations: per stage, per task, and what is wrong with them in one line."""

import dataclasses
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from configs import pascal_swin_tiny, table6
from ditask_jax.adapters import DiTASK, LoRA, MTLoRA, make_plan, method_class, method_names
from ditask_jax.adapters.storage import method_from_record, method_options
from ditask_jax.config import from_json, load_config, to_json
from ditask_jax.errors import ConfigError
from ditask_jax.nn import Context, flatten
from ditask_jax.nn.linear import Linear, pick_streams
from ditask_jax.training.experiment import build_method as method_of_config
from ditask_jax.training.optim.optimizer import treatment
from tests.adapters.micro import Micro, method_of, options_for, plain_model

SMOKE = "configs/smoke.py"


def loaded(*overrides: str):
    return load_config(SMOKE, list(overrides))


def test_options_by_stage_and_task_come_through_configuration_and_json():
    config = loaded("method.shared_cells=3,4,5,6", "method.task_cells={'semseg': 4, 'depth': (2, 3, 4, 5)}")
    for again in (config, from_json(to_json(config))):
        method = method_of_config(again)
        assert method == DiTASK(
            shared_cells=(3, 4, 5, 6), task_cells={"semseg": 4, "depth": (2, 3, 4, 5)}, dropout=method.dropout
        )
    assert method.cells("theta_shared", 1) == 4
    assert [method.cells("theta_depth", stage) for stage in range(4)] == [2, 3, 4, 5]
    low = method_of_config(loaded("method.name=mtlora", "method.task_rank={'semseg': 1, 'depth': 2}"))
    assert (low.rank("semseg", 3), low.rank("depth", 0), low.rank("shared", 0)) == (1, 2, 4)


# Another value of every option of every method.
OTHERS = {
    "shared_cells": 3,
    "task_cells": 5,
    "shared_layers": ("fc1",),
    "task_layers": ("fc1",),
    "task_blocks": 2,
    "domain": "index",
    "headroom": 1.5,
    "init": "upstream",
    "execution": "factored",
    "rank": 6,
    "shared_rank": 3,
    "task_rank": 5,
    "scale": 1.5,
    "shared_scale": 2.5,
    "task_scale": 3.5,
    "scale_trains": True,
    "layers": ("proj",),
    "mode": "matrixv2",
    "bottleneck": 7,
    "split_qkv": True,
    "bandwidth": 3,
    "inner_start": 0.2,
    "projection_seed": 1,
    "shared_reflections": 4,
    "task_reflections": 6,
    "form": "lora",
    "share": 0.5,
    "floor": 3,
    "momentum": 0.5,
    "penalty": 0.5,
    "reductions": False,
    "dropout": 0.25,
    "unfrozen": ("norms",),
}


@pytest.mark.parametrize("name", method_names())
def test_defaults_in_python_are_those_of_the_configuration(name):
    """Field by field, without an exception; and each field does come from the configuration."""
    method = method_class(name)
    config = load_config("configs/base.py", [f"method.name={name}"], check=False)
    assert {option.name for option in dataclasses.fields(method)} | {"name"} == set(config.method)
    assert dataclasses.asdict(method.from_config(config.method)) == dataclasses.asdict(method())
    changed = set()
    for option, value in OTHERS.items():
        if option not in config.method:
            continue
        other = load_config("configs/base.py", {"method.name": name, f"method.{option}": value}, check=False)
        found = dataclasses.asdict(method.from_config(other.method))
        changed |= {field for field, default in dataclasses.asdict(method()).items() if found[field] != default}
    assert changed == {field.name for field in dataclasses.fields(method)}


@pytest.mark.parametrize("name", ["lora", "dora", "mtlora"])
def test_low_rank_methods_have_rank_4_and_scale_1(name):
    """In Python and in every configuration that claims no published row."""
    stated = lambda method: {v for f, v in dataclasses.asdict(method).items() if f.endswith(("rank", "scale"))}
    assert stated(method_class(name)()) == {4, 1.0}
    for path in sorted(pathlib.Path("configs").glob("*.py")):
        config = load_config(path, [f"method.name={name}"], check=False)
        assert stated(method_of_config(config)) == {4, 1.0}, path


def test_published_rows_state_their_ranks_and_scales():
    """The rows of the paper do not depend on what the defaults are."""
    for file in (pascal_swin_tiny, table6):
        for variant, changes in file.VARIANTS.items():
            method = changes.get("method.name", "ditask")
            if method in ("lora", "dora", "mtlora"):
                kinds = ("shared_", "task_") if method == "mtlora" else ("",)
                stated = {f"method.{kind}{option}" for kind in kinds for option in ("rank", "scale")}
                assert stated <= set(changes), variant
                assert {changes[name] for name in stated if name.endswith("scale")} == {4.0}
    ranks = {
        variant: (changes.get("method.rank", changes.get("method.shared_rank")), changes.get("method.task_rank"))
        for variant, changes in pascal_swin_tiny.VARIANTS.items()
        if variant.startswith(("lora_r", "mtlora"))
    }
    rows = {f"lora_r{r}": (r, None) for r in (4, 8)} | {f"mtlora_r{r}": (r, 4) for r in (16, 32, 64)}
    assert ranks == rows


@pytest.mark.parametrize("name", method_names())
def test_options_survive_as_plain_data(name):
    """What an adapter file stores builds the same plan again, though JSON knows no tuples."""
    options = options_for(name, {"shared_cells": (3, 4), "task_cells": {"depth": (2, 3)}})
    method = method_of(name, *(f"{field}={value}" for field, value in options.items()))
    again = method_from_record(name, method_options(method))
    assert make_plan(plain_model("depth"), again) == make_plan(plain_model("depth"), method)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("method.task_cells={'semseg': 1}", "method.task_cells: got {'semseg': 1}, expected an integer from 2 up"),
        ("method.task_cells={}", "method.task_cells: got {}, expected an integer from 2 up"),
        ("method.shared_cells={'semseg': 4}", "method.shared_cells: got {'semseg': 4}, expected an integer from 2 up"),
        ("method.shared_cells=3,1", "method.shared_cells: got (3, 1), expected an integer from 2 up, or one per stage"),
        ("method.name=lora method.rank=0", "method.rank: got 0, expected an integer from 1 up"),
        ("method.name=mtlora method.task_scale=big", "method.task_scale: got 'big', expected a number"),
        ("method.name=adapter method.bottleneck=2.5", "method.bottleneck: got 2.5, expected an integer from 1 up"),
        ("method.task_blocks=0", "method.task_blocks: got 0, expected an integer from 1 up"),
        ("method.name=mtlora method.mode=matrix2", "method.mode: unknown name 'matrix2'. Did you mean 'matrixv2'?"),
        ("method.unfrozen=norms,norms", "method.unfrozen: got ('norms', 'norms'), expected each group once"),
        ("optimizer.surgery=pcgrat", "optimizer.surgery: unknown name 'pcgrat'. Did you mean 'pcgrad'?"),
    ],
)
def test_wrong_values_are_named(override, message):
    with pytest.raises(ConfigError) as caught:
        loaded(*re.split(" (?=method)", override))
    assert str(caught.value).startswith(f"config: {message}")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (DiTASK(shared_cells=(3, 4, 5)), r"shared_cells: got 3 values, expected one, or one per stage \(2\)"),
        (DiTASK(task_cells={"sal": 4}), "task_cells: no entry for depth; give every task a value"),
        (DiTASK(unfrozen=("norm",)), "method.unfrozen: unknown name 'norm'. Did you mean 'norms'"),
        (DiTASK(task_blocks=0), "task_blocks: got 0, expected an integer from 1 up"),
        (MTLoRA(task_rank={"depth": (1, 0)}), "task_rank: got .*, expected an integer from 1 up"),
        (MTLoRA(task_layers=("qkv",)), "method.task_layers: unknown name 'qkv'"),
        (LoRA(scale=float("nan")), "method.scale: got nan, expected a number"),
        (LoRA(layers=("fc3",)), "method.layers: unknown name 'fc3'"),
    ],
)
def test_options_that_do_not_fit_the_model_are_named(method, message):
    with pytest.raises(ConfigError, match=message):
        make_plan(plain_model("depth"), method)


def test_streams_persist_and_end_where_nothing_reads_them():
    """The shared stream reaches MTLoRA's last reader, and ends with DiTASK's first task layer of the last stage."""
    tasks = ("semseg", "depth")
    both = ("shared", *tasks)
    leaving = lambda method: {
        plan.info.path.removeprefix("backbone/stages/"): plan.streams
        for plan in make_plan(plain_model(*tasks), method).layers
        if plan.streams
    }
    ditask = leaving(method_of("ditask", "method.task_blocks=2"))
    assert {path for path in ditask if path.startswith("0/")} == {
        "0/blocks/0/attn/proj",
        "0/blocks/0/mlp/fc1",
        "0/blocks/0/mlp/fc2",
    }
    assert all(streams == (both if path.startswith("0/") else tasks) for path, streams in ditask.items())
    assert len(ditask) == 3 + 2 * 3
    mtlora = leaving(method_of("mtlora", "method.task_blocks=2"))
    assert mtlora.pop("1/blocks/1/mlp/fc2") == tasks
    assert set(mtlora.values()) == {both}
    last = [p for p in make_plan(plain_model(*tasks), method_of("mtlora")).layers if p.info.last_in_model][-1]
    assert set(last.parameters) == {"a_semseg", "b_semseg", "a_depth", "b_depth"}


def test_streams_that_leave_are_picked_by_name():
    x = np.arange(3.0).reshape(3, 1)
    names = ("shared", "a", "b")
    assert pick_streams(x, names, names) is x
    assert pick_streams(x, names, ("a", "b")).tolist() == [[1.0], [2.0]]
    assert pick_streams(x, names, ("b", "shared")).tolist() == [[2.0], [0.0]]
    assert pick_streams(x[:1], ("shared",), ("a", "b")).shape == (1, 1)


def test_weight_decay_spares_vectors_and_follows_the_switch_for_spectra():
    for name, decayed in (("svf", "gain"), ("ditask", "theta")):
        declared = flatten(Micro(method_of(name), "depth").parts.declared)
        for switch in (True, False):
            options = {"decay_thetas": switch, "decay_bias_tables": True}
            found = {treatment(leaf, options).decays for path, leaf in declared.items() if f"/{decayed}_" in path}
            assert found == {switch}
    declared = flatten(Micro(method_of("dora"), "depth").parts.declared)
    masks = {
        path.rsplit("/", 1)[1]: treatment(leaf, {}).decays for path, leaf in declared.items() if "/adapter/" in path
    }
    assert masks == {"a_shared": True, "b_shared": True, "magnitude_shared": False}


def test_dropout_of_low_rank_methods_spares_the_frozen_product_and_task_inputs():
    """At the start, where `b` is zero, dropout can only show in what is added: nothing."""
    micro = Micro(method_of("lora", "method.dropout=0.5"), "depth")
    layer: Linear = next(l for _, l in _linears(micro))
    x = jnp.asarray(np.random.default_rng(0).standard_normal((1, 4, layer.inputs)), jnp.float32)
    draws = [layer(x, ("shared",), Context(train=True, key=jax.random.key(seed))) for seed in (0, 1)]
    np.testing.assert_array_equal(draws[0], draws[1])
    layer.adapter.b_shared[...] = layer.adapter.b_shared[...] + 1
    draws = [layer(x, ("shared",), Context(train=True, key=jax.random.key(seed))) for seed in (0, 1)]
    assert np.abs(np.asarray(draws[0] - draws[1])).max() > 1e-2


def _linears(micro: Micro):
    from ditask_jax.nn import linears

    return ((layer.info.path, layer) for layer in linears(micro.model.backbone) if layer.adapter is not None)
