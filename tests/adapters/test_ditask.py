"""DiTASK: execution modes, streams, switches, randomness, and the published parameter counts."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters import DiTASK, make_plan
from ditask_jax.config import load_config
from ditask_jax.errors import ConfigError
from ditask_jax.model import create_model
from ditask_jax.nn import Context, flatten, linears, prepare_adapters
from ditask_jax.training.build import describe_plan
from tests.adapters.cases import IMAGES, SIZE, Wrapped, compiled_logits, largest_difference, task_list

SMALL = DiTASK(shared_cells=8, task_cells=5, dropout=0.0)


@pytest.mark.slow  # the laws of methods compare the ways on a smaller model
def test_execution_modes_agree():
    outputs, gradients = {}, {}
    for execution in ("materialised", "factored", "auto"):
        wrapped = Wrapped(dataclasses.replace(SMALL, execution=execution))
        trainable = wrapped.random_trainable()

        def loss(trainable, frozen, parts=wrapped.parts):
            logits = parts.merge(trainable, frozen, parts.stats)(jnp.asarray(IMAGES), Context(train=False))
            return sum(jnp.mean(v**2) for v in logits.values()), logits

        step = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (_, outputs[execution]), gradients[execution] = step(trainable, wrapped.parts.frozen)
    for execution in ("factored", "auto"):
        assert largest_difference(outputs["materialised"], outputs[execution]) < 1e-5
        assert largest_difference(gradients["materialised"], gradients[execution]) < 1e-5


@pytest.mark.slow  # so do they this
def test_adding_a_task_changes_nothing_for_the_others():
    """Values and random numbers of the old streams stay: dropout, drop path and weights are functions of names."""
    method = dataclasses.replace(SMALL, dropout=0.2)
    context = Context(train=True, key=jax.random.key(3))
    two = Wrapped(method, "semseg", "depth", drop_path_rate=0.4)
    three = Wrapped(method, "semseg", "sal", "depth", drop_path_rate=0.4)
    a, b = (compiled_logits(case.parts, context=context) for case in (two, three))
    assert largest_difference(a, {name: b[name] for name in a}) < 1e-6


@pytest.mark.parametrize("tasks", [("depth",), ("semseg", "depth"), tuple(task for task in "abcdef")], ids=len)
def test_streams_fan_out_in_the_last_block_of_every_stage(tasks):
    model = create_model("swin_test", _entries(tasks), SIZE, widths=(4, 4, 4, 4), abstract=True)
    plan = make_plan(model, SMALL)
    for layer in plan.layers:
        info = layer.info
        fans_out = info.last_in_stage and info.role != "qkv"
        expected = () if not fans_out else tasks if info.last_in_model else ("shared", *tasks)
        assert layer.streams == expected
        own = {name for name in layer.parameters if name != "theta_shared"}
        assert own == ({f"theta_{task}" for task in tasks} if fans_out else set())
        assert ("theta_shared" in layer.parameters) == (not (fans_out and info.last_in_model))


def _entries(names):
    from types import SimpleNamespace

    return [SimpleNamespace(name=name, num_outputs=1) for name in names]


@pytest.mark.parametrize(
    ("shared", "task"),
    [
        ((), ("proj", "fc1", "fc2")),
        (("qkv", "proj", "fc1", "fc2"), ()),
        (("qkv",), ("fc1",)),
        (("fc1", "fc2"), ("fc2",)),
        ((), ()),
    ],
)
def test_layers_are_switchable(shared, task):
    wrapped = Wrapped(dataclasses.replace(SMALL, shared_layers=shared, task_layers=task))
    roles = {
        name.removeprefix("theta_"): {l.info.role for l in wrapped.plan.layers if name in l.parameters}
        for name in ("theta_shared", "theta_semseg")
    }
    assert roles == {"shared": set(shared), "semseg": set(task)}
    logits = jax.eval_shape(wrapped.logits)
    assert logits["semseg"].shape == (2, SIZE, SIZE, 5)
    if not task and not shared:
        assert all(layer.adapter is None for layer in linears(wrapped.model.backbone))


def test_headroom_frees_the_largest_singular_value():
    for headroom, moves in ((1.0, False), (1.5, True)):
        wrapped = Wrapped(dataclasses.replace(SMALL, headroom=headroom, shared_cells=5))
        trainable = wrapped.random_trainable(scale=2.0)

        @jax.jit  # operation by operation a flow compiles hundreds of times
        def prepare(trainable, frozen, parts=wrapped.parts):
            model = parts.merge(trainable, frozen, parts.stats)
            return prepare_adapters(model.backbone, Context(train=False)).prepared

        prepared = prepare(trainable, wrapped.parts.frozen)
        first = np.concatenate([np.abs(np.asarray(delta)[..., 0]).ravel() for delta in prepared.values()])
        assert (first.max() > 1e-3) == moves
        assert moves or (first == 0).all()


def test_upstream_start_is_not_the_identity_and_is_seeded():
    method = dataclasses.replace(SMALL, init="upstream", domain="index")
    first, again = (flatten(Wrapped(method).parts.trainable) for _ in range(2))
    thetas = [path for path in first if "theta" in path]
    assert thetas
    for path in thetas:
        values = np.asarray(first[path])
        assert 0 < np.abs(values).max() <= values.size**-0.5
        np.testing.assert_array_equal(values, again[path])


def test_frozen_weights_have_no_slot_in_the_trainable_tree():
    wrapped = Wrapped(SMALL)
    for path in flatten(wrapped.parts.trainable):
        if path.startswith("backbone/"):
            allowed = ("theta_", "norm", "patch_embed", "reduction", "relative_position_bias_table")
            assert any(word in path for word in allowed), path


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"domain": "rank"}, "method.domain.*Known: value index"),
        ({"shared_layers": ("qvk",)}, "Did you mean 'qkv'"),
        ({"task_layers": ("qkv",)}, "method.task_layers"),
        ({"headroom": 0.9}, "headroom"),
        ({"headroom": 2.0, "domain": "index"}, "headroom"),
        ({"shared_cells": 1}, "shared_cells"),
        ({"task_cells": {"semseg": 4}}, "no entry for depth"),
        ({"execution": "fast"}, "method.execution"),
        ({"dropout": 1.0}, "dropout"),
    ],
)
def test_impossible_options_are_named(changes, message):
    model = create_model("swin_test", task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4), abstract=True)
    with pytest.raises(ConfigError, match=message):
        make_plan(model, dataclasses.replace(SMALL, **changes))


PASCAL = "configs/pascal_swin_tiny.py"


@pytest.mark.parametrize(
    ("source", "overrides", "live", "upstream"),
    [
        (PASCAL, (), (1_605_405, 3_552_029), (1_608_618, 3_555_242)),
        (PASCAL, ("method.task_cells=4",), (1_602_525, 3_549_149), (1_602_858, 3_549_482)),
        (f"{PASCAL}:full", (), (27_517_818, 29_464_442), (27_517_818, 29_464_442)),
        (f"{PASCAL}:frozen", (), (0, 1_946_624), (0, 1_946_624)),
        (PASCAL, ("method.shared_cells=16", "method.task_cells=16"), None, (1_601_706, 3_548_330)),
        (PASCAL, ("method.shared_cells=128", "method.task_cells=128"), None, (1_617_834, 3_564_458)),
        (PASCAL, ("tasks=semseg",), None, (1_604_082, None)),
        (PASCAL, ("tasks=semseg", "method.task_cells=4"), None, (1_602_642, None)),
    ],
)
def test_published_counts(source, overrides, live, upstream):
    plan = describe_plan(load_config(source, overrides))
    if live:
        assert (plan.trainable_backbone, plan.trainable_total) == live
    assert plan.upstream["trainable_backbone"] == upstream[0]
    if upstream[1]:
        assert plan.upstream["trainable_total"] == upstream[1]


@pytest.mark.parametrize(
    ("backbone", "published"),
    [
        ("swin_small_patch4_window7", {"128/64": 1_663_578, "64/4": 1_648_794}),
        ("swin_base_patch4_window7", {"128/64": 2_899_144, "64/4": 2_884_360}),
        ("swin_large_patch4_window7", {"128/64": 6_402_468, "64/4": 6_387_684}),
    ],
)
def test_published_counts_of_larger_backbones(backbone, published):
    for cells, count in published.items():
        shared, task = cells.split("/")
        overrides = (f"backbone.name={backbone}", f"method.shared_cells={shared}", f"method.task_cells={task}")
        assert describe_plan(load_config(PASCAL, overrides)).upstream["trainable_backbone"] == count


def test_dropout_falls_on_the_shared_stream_only():
    wrapped = Wrapped(dataclasses.replace(SMALL, dropout=0.5))
    draws = [Context(train=True, key=jax.random.key(seed)) for seed in (0, 0, 1)]
    first, same, other = (compiled_logits(wrapped.parts, context=context) for context in draws)
    assert largest_difference(first, same) == 0
    assert largest_difference(first, other) > 1e-3
