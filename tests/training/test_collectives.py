"""What crosses between devices in a step: sums of what trains and of statistics, in float32, and nothing else."""

import collections
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import configs.base
import ditask_jax as dj
from ditask_jax.adapters.wrap import wrap
from ditask_jax.nn import flatten
from ditask_jax.nn.state import split_state
from ditask_jax.training import sharding as meshes
from ditask_jax.training.optim.optimizer import make_optimizer
from ditask_jax.training.sharding import make_mesh, pack
from ditask_jax.training.step import Passage, make_gradients, make_predict, make_train_step
from tests.training.small import two_stages

BATCH, SIZE = 8, 32
TASKS = dj.create_tasks("semseg+depth", dataset="scenes")
# Sums of BatchNorm over the batch: mean and variance, and their gradients.
NORM_SUMS = 4


@pytest.fixture(scope="module")
def parts():
    with two_stages() as name:
        model = dj.create_model(name, TASKS, image_size=SIZE, widths=(4, 4), drop_path_rate=0.3)
    # More layers of the same kind are only more to compile.
    method = dj.DiTASK(4, 4, shared_layers=("qkv", "fc2"), task_layers=("fc2",), dropout=0.1, execution="materialised")
    wrap(model, method, examples=BATCH)
    return split_state(model)


def _shapes(tree):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _batch():
    labels = {
        t.name: jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, *t.label_spec.shape((1, 1))[2:]), t.label_spec.dtype)
        for t in TASKS
    }
    image = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), np.uint8)
    return {"image": image, "labels": labels, "valid": jax.ShapeDtypeStruct((BATCH,), np.bool_)}


def _numbers(tree) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _equations(jaxpr):
    """All equations of a traced program, those of inner programs too."""
    for equation in jaxpr.eqns:
        yield equation
        for inner in jax.tree.leaves(equation.params, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
            inner = getattr(inner, "jaxpr", inner)
            if hasattr(inner, "eqns"):
                yield from _equations(inner)


def _collectives(function, *arguments) -> list[tuple[str, str, int]]:
    """Name, dtype and numbers of everything that a traced program asks of other devices."""
    named = re.compile("psum|pmax|pmin|all_gather|all_to_all|ppermute|reduce_scatter|pbroadcast")
    found = []
    for equation in _equations(jax.make_jaxpr(function)(*arguments).jaxpr):
        if named.match(equation.primitive.name):
            found += [(equation.primitive.name, v.aval.dtype.name, v.aval.size) for v in equation.outvars]
    return found


@pytest.mark.parametrize("surgery", ["none", "pcgrad"])
@pytest.mark.parametrize(
    "passage", [Passage(), Passage(remat="blocks"), Passage(accumulate=2), Passage(per_shard=True)], ids=str
)
def test_only_what_trains_and_statistics_are_summed(parts, passage, surgery):
    """In float32, though products are in bfloat16; whole kernels and activations stay where they are."""
    gradients = make_gradients(parts, TASKS, make_mesh(4), 0, jnp.bfloat16, surgery, passage)
    values = map(_shapes, (parts.trainable, parts.stats, parts.frozen))
    found = _collectives(gradients, *values, _batch(), jax.ShapeDtypeStruct((), np.int32))
    assert {(name, dtype) for name, dtype, _ in found} == {("psum", "float32")}
    sums = (1 if passage.per_shard else NORM_SUMS) * _numbers(parts.stats) // (1 if passage.per_shard else 2)
    assert sum(size for *_, size in found) == _numbers(parts.trainable) + sums
    assert len(found) < 20


def test_inference_asks_nothing_of_other_devices(parts):
    predict = make_predict(parts, jnp.bfloat16, make_mesh(4))
    image = jax.ShapeDtypeStruct((BATCH, SIZE, SIZE, 3), np.uint8)
    assert _collectives(predict, *map(_shapes, (parts.trainable, parts.frozen, parts.stats)), image) == []


def test_the_compiled_step_adds_nothing(parts, monkeypatch):
    """With spread weights and blocks computed again; the compiler partitions the losses, and they are scalars."""
    monkeypatch.setattr(meshes, "_SMALLEST_SPREAD", 64)
    optimizer = make_optimizer(configs.base.get_config().optimizer, lambda step: 1e-3, parts.declared)
    mesh, passage = make_mesh(4, fsdp=2), Passage(remat="blocks")
    step = make_train_step(parts, TASKS, optimizer, mesh, 0, jnp.bfloat16, passage=passage)
    trainable, stats, frozen = map(_shapes, (parts.trainable, parts.stats, parts.frozen))
    state = trainable, jax.eval_shape(optimizer.init, trainable), stats
    text = step.lower(*state, frozen, _batch(), jax.ShapeDtypeStruct((), np.int32)).compile().as_text()
    found = collections.defaultdict(list)
    for shapes, name in re.findall(
        r"= (.*?) (all-reduce|all-gather|all-to-all|collective-\w+|reduce-scatter|ragged-all-to-all)(?:-start)?\(", text
    ):
        found[name] += [
            (dtype, math.prod(map(int, filter(None, axes.split(",")))))
            for dtype, axes in re.findall(r"([a-z]\w*)\[([\d,]*)\]", shapes)
        ]
    assert set(found) == {"all-reduce", "all-gather"}
    numbers = [size for _, size in found["all-reduce"] if size > 1]
    assert sum(numbers) == _numbers(parts.trainable) + NORM_SUMS * _numbers(parts.stats) // 2
    assert len(found["all-reduce"]) < 40
    assert {dtype for dtype, size in found["all-reduce"] if size > 1} == {"f32"}
    spread = [
        leaf.size
        for leaf, place in zip(
            jax.tree.leaves(frozen), jax.tree.leaves(meshes.frozen_shardings(mesh, frozen)), strict=True
        )
        if not place.is_fully_replicated
    ]
    # Each once, and unused ones not at all.
    left = collections.Counter(spread)
    left.subtract(size for _, size in found["all-gather"])
    assert min(left.values()) >= 0
    assert len(found["all-gather"]) > len(spread) // 2


def test_small_arrays_travel_as_one():
    tree = {"a": jnp.arange(6.0).reshape(2, 3), "b": jnp.arange(3), "c": jnp.zeros((512, 256)), "d": jnp.float32(7)}
    packed, unpack = pack(tree)
    assert sorted(leaf.shape for leaf in packed) == [(3,), (7,), (512, 256)]
    back = unpack(packed)
    assert flatten(jax.tree.map(jnp.shape, back)) == flatten(jax.tree.map(jnp.shape, tree))
    jax.tree.map(np.testing.assert_array_equal, back, tree)
    assert jax.tree.map(jnp.result_type, back) == jax.tree.map(jnp.result_type, tree)
