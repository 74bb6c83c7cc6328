"""Laws of every registered method: they are found in the registry, none is listed by hand."""

import dataclasses
import functools
import math
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters import DiTASK, make_plan, merge, method_class, method_names, wrap
from ditask_jax.backbones import create_backbone, list_models
from ditask_jax.errors import ConfigError
from ditask_jax.model import create_model
from ditask_jax.nn import Context, Linear, flatten, linears, split_state
from ditask_jax.nn.state import ModelState
from tests.adapters.cases import (
    IMAGES,
    LATER,
    SIZE,
    Wrapped,
    by_method,
    compiled_logits,
    largest_difference,
    task_list,
)

METHODS = method_names()
every_method = pytest.mark.parametrize("name", by_method(METHODS))
# One of each kind, of test size. Swin meets every law below in full, the others those at the end.
BACKBONES = list_models("*_test")
OTHERS = [name for name in BACKBONES if name != "swin_test"]
# What a DINOv2 has beyond a ViT, a DINOv3 has too, which meets a method that compiles fast.
SPREAD = [name for name in OTHERS if not name.startswith("dino")]


def grid(*quick: str, spread: bool = False):
    """Every method on every other kind of backbone; by default some on all and, if asked, any other on one of them.

    A method never sees a backbone, only its dense layers, so that the rest of the grid is left to the slow tests.
    """
    for number, name in enumerate(sorted(METHODS, key=lambda name: name in LATER)):
        for backbone in OTHERS:
            here = spread and backbone == SPREAD[number % len(SPREAD)] and name not in LATER
            here |= (name, backbone) == ("svf" if spread else "full", "dinov3_test")
            soon = here or (name in quick and backbone in SPREAD)
            yield pytest.param(name, backbone, marks=[] if soon else [pytest.mark.slow], id=f"{name}-{backbone}")


def make_method(name: str, backbone: str = "swin_test"):
    """The method with few parameters; beside the first backbone with one tessellation, which compiles faster."""
    if name == "ditask":
        return DiTASK(shared_cells=8 if backbone == "swin_test" else 5, task_cells=5)
    return method_class(name)()


def build(name: str, *tasks: str, backbone: str = "swin_test") -> Wrapped:
    return Wrapped(make_method(name, backbone), *tasks, backbone=backbone)


def random_like(x, seed: int) -> np.ndarray:
    """Normal numbers of a shape, made outside of any trace."""
    return np.random.default_rng(seed).standard_normal(x.shape).astype(np.float32)


@pytest.fixture(scope="module")
def wrapped(request):
    return build(request.param)


each_wrapped = pytest.mark.parametrize("wrapped", by_method(METHODS), indirect=True)


def each_whole(*quick: str):
    """By default these methods; test_method_laws.py has the same law of every one on a model of three blocks."""
    chosen = [name if name in quick else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
    return pytest.mark.parametrize("wrapped", chosen, indirect=True)


def test_the_registry_is_not_empty():
    assert {"ditask", "full", "frozen"} <= set(METHODS)


@functools.cache
def plain_logits():
    """Logits of the model before anything is attached."""
    return compiled_logits(
        split_state(create_model("swin_test", task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4)))
    )


@each_whole("ditask", "full")
def test_identity_at_the_start(wrapped):
    assert largest_difference(plain_logits(), compiled_logits(wrapped.parts)) < 1e-5


@each_wrapped
def test_plan_counts_what_trains(wrapped):
    counted = sum(value.size for value in flatten(wrapped.parts.trainable).values())
    assert wrapped.plan.trainable_total == counted
    backbone = {path: v for path, v in flatten(wrapped.parts.trainable).items() if path.startswith("backbone/")}
    assert wrapped.plan.trainable_backbone == sum(value.size for value in backbone.values())


@each_whole("full")
def test_every_trainable_leaf_gets_a_gradient(wrapped):
    context = Context(train=True, key=jax.random.key(0))

    def loss(trainable, frozen):
        # Frozen weights are an argument, as in training: constants would be computed with while compiling.
        logits = wrapped.parts.merge(trainable, frozen, wrapped.parts.stats)(jnp.asarray(IMAGES), context)
        # Weights by position and channel, so that no symmetry cancels a gradient.
        return sum(jnp.mean(random_like(logits[k], len(k)) * logits[k] ** 2) for k in logits)

    gradients = flatten(jax.jit(jax.grad(loss))(wrapped.random_trainable(), wrapped.parts.frozen))
    norms = {path: float(np.abs(g).max()) for path, g in gradients.items()}
    typical = sorted(norms.values())[len(norms) // 2]
    # A constant in front of BatchNorm is taken out again by its mean. That is the head's own bias and, as nothing but
    # bias-free 1x1 products and resizes stand between, the bias that ends the last block.
    before_batch_norm = r".*(/widen/bias|/stages/3/blocks/1/mlp/fc2/(bias|.*/\w*bias\w*))"
    dead = [path for path, norm in norms.items() if norm < 1e-6 * typical and not re.fullmatch(before_batch_norm, path)]
    assert not dead


@each_whole("ditask", "full")
def test_merged_equals_forward_and_merging_twice_changes_nothing(wrapped):
    trainable = wrapped.random_trainable()
    model = wrapped.parts.merge(trainable, wrapped.parts.frozen, wrapped.parts.stats)
    once = merge(model)
    twice = merge(once)
    forward, merged = compiled_logits(wrapped.parts, trainable), compiled_logits(split_state(once))
    assert largest_difference(forward, merged) < 1e-5
    assert largest_difference(merged, compiled_logits(split_state(twice))) == 0


@every_method
def test_wrapping_twice_is_refused_where_adapters_exist(name):
    wrapped = build(name)
    if not wrapped.plan.layers:
        return  # nothing occupies the slots
    with pytest.raises(ConfigError, match="has adapters already"):
        wrap(wrapped.model, method_class(name)())


@every_method
def test_plan_of_an_abstract_model_is_the_plan(name):
    wrapped = build(name)
    abstract = create_model("swin_test", task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4), abstract=True)
    assert make_plan(abstract, make_method(name)) == wrapped.plan


@functools.partial(jax.jit, static_argnums=0)
def _features(graphdef, trainable, frozen, stats):
    model = ModelState(graphdef, {}, {}, {}).merge(trainable, frozen, stats)
    return model.features(model.normalise(jnp.asarray(IMAGES)), Context(train=False))


def features(parts, trainable):
    """Features of every task and stage: what adapters act on, without the heads that are the same everywhere."""
    return _features(parts.graphdef, trainable, parts.frozen, parts.stats)


@pytest.mark.parametrize(("name", "backbone"), list(grid(spread=True)))
def test_identity_counts_and_merging_on_every_backbone(name, backbone):
    wrapped = build(name, backbone=backbone)
    abstract = create_model(backbone, task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4), abstract=True)
    assert make_plan(abstract, make_method(name, backbone)) == wrapped.plan
    start, moved = wrapped.parts.trainable, wrapped.random_trainable()
    counted = sum(v.size for path, v in flatten(start).items() if path.startswith("backbone/"))
    assert wrapped.plan.trainable_backbone == counted
    forward = functools.partial(features, wrapped.parts)
    assert largest_difference(plain_features(backbone), forward(start)) < 1e-5
    if wrapped.plan.layers:
        merged = split_state(merge(wrapped.parts.merge(moved, wrapped.parts.frozen, wrapped.parts.stats)))
        got = features(merged, merged.trainable)
        assert largest_difference(forward(moved), got) < 1e-5
        assert largest_difference(forward(start), got) > 1e-3


@pytest.mark.parametrize(("name", "backbone"), list(grid("full")))
def test_every_leaf_of_every_backbone_gets_a_gradient(name, backbone):
    wrapped = build(name, backbone=backbone)

    def loss(trainable, frozen):
        maps = features(dataclasses.replace(wrapped.parts, frozen=frozen), trainable)
        return sum(jnp.mean(random_like(x, x.size) * x**2) for x in jax.tree.leaves(maps))

    gradients = flatten(jax.jit(jax.grad(loss))(wrapped.random_trainable(), wrapped.parts.frozen))
    norms = {path: float(np.abs(g).max()) for path, g in gradients.items() if path.startswith("backbone/")}
    assert norms or name == "frozen"
    typical = sorted(norms.values())[len(norms) // 2] if norms else 0.0
    assert [path for path, norm in norms.items() if norm < 1e-6 * typical] == []


@functools.cache
def plain_features(backbone: str):
    """Features of the model before anything is attached."""
    parts = split_state(create_model(backbone, task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4)))
    return features(parts, parts.trainable)


@pytest.mark.parametrize("backbone", BACKBONES)
def test_what_is_adapted_where(backbone):
    """Every dense layer of every block has a plan, with all its parts and the positions that it sees."""
    model = create_model(backbone, task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4), abstract=True)
    layers = {l.info.path: l for l in linears(model.backbone)}
    plan = make_plan(model, DiTASK())
    assert {p.info.path for p in plan.layers} == {path for path, l in layers.items() if l.info.role != "reduction"}
    gated = {"fc1": 2} if backbone == "dinov3_test" else {}
    for path, layer in layers.items():
        last = path.rsplit("/", 1)[1]
        assert layer.info.parts == ({"qkv": 3, "kv": 2} | gated).get(last, 1)
        assert layer.info.role == {"q": "qkv", "kv": "qkv"}.get(last, last)
    assert {path: layer.info.tokens for path, layer in layers.items()} == tokens_seen(backbone)


def tokens_seen(backbone: str) -> dict[str, int]:
    """Positions in what really enters each dense layer, found by tracing a backbone."""
    model = create_backbone(backbone, SIZE)
    seen = {}
    forward = Linear.__call__

    def spy(self, x, *args):
        seen[self.info.path] = math.prod(x.shape[1:-1])
        return forward(self, x, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Linear, "__call__", spy)
        jax.eval_shape(lambda: [x for x, _ in model(jnp.zeros((1, SIZE, SIZE, 3)), Context(train=False))])
    return seen
