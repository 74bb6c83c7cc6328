"""Laws of every registered method: they are found in the registry, none is listed by hand."""

import jax
import jax.numpy as jnp
import pytest

from ditask_jax.adapters import DiTASK, make_plan, merge, method_class, method_names, wrap
from ditask_jax.errors import ConfigError
from ditask_jax.model import create_model
from ditask_jax.nn import Context, flatten, split_state
from tests.adapters.cases import IMAGES, SIZE, Wrapped, largest_difference, task_list

METHODS = method_names()
every_method = pytest.mark.parametrize("name", METHODS)


def build(name: str, *tasks: str) -> Wrapped:
    method = method_class(name)()
    if name == "ditask":
        method = DiTASK(shared_cells=8, task_cells=5)
    return Wrapped(method, *tasks)


@pytest.fixture(scope="module")
def wrapped(request):
    return build(request.param)


each_wrapped = pytest.mark.parametrize("wrapped", METHODS, indirect=True)


def test_the_registry_is_not_empty():
    assert {"ditask", "full", "frozen"} <= set(METHODS)


@each_wrapped
def test_identity_at_the_start(wrapped):
    base = create_model("swin_test", task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4))
    parts = split_state(base)
    plain = jax.jit(lambda x: parts.merge(parts.trainable, parts.frozen, parts.stats)(x, Context(train=False)))(IMAGES)
    assert largest_difference(plain, jax.jit(wrapped.logits)()) < 1e-5


@each_wrapped
def test_plan_counts_what_trains(wrapped):
    counted = sum(value.size for value in flatten(wrapped.parts.trainable).values())
    assert wrapped.plan.trainable_total == counted
    backbone = {path: v for path, v in flatten(wrapped.parts.trainable).items() if path.startswith("backbone/")}
    assert wrapped.plan.trainable_backbone == sum(value.size for value in backbone.values())


@each_wrapped
def test_every_trainable_leaf_gets_a_gradient(wrapped):
    context = Context(train=True, key=jax.random.key(0))

    def loss(trainable):
        logits = wrapped.logits(trainable, context)
        # Weights by position and channel, so that no symmetry cancels a gradient.
        weights = {k: jax.random.normal(jax.random.key(len(k)), v.shape) for k, v in logits.items()}
        return sum(jnp.mean(weights[k] * logits[k] ** 2) for k in logits)

    gradients = flatten(jax.jit(jax.grad(loss))(wrapped.random_trainable()))
    norms = {path: float(jnp.abs(g).max()) for path, g in gradients.items()}
    typical = sorted(norms.values())[len(norms) // 2]
    # A constant in front of BatchNorm is taken out again by its mean. That is the head's own bias and, as nothing but
    # bias-free 1x1 products and resizes stand between, the bias that ends the last block.
    before_batch_norm = ("widen/bias", "stages/3/blocks/1/mlp/fc2/bias")
    dead = [path for path, norm in norms.items() if norm < 1e-6 * typical and not path.endswith(before_batch_norm)]
    assert not dead


@each_wrapped
def test_merged_equals_forward_and_merging_twice_changes_nothing(wrapped):
    trainable = wrapped.random_trainable()
    model = wrapped.parts.merge(trainable, wrapped.parts.frozen, wrapped.parts.stats)
    once = merge(model)
    twice = merge(once)
    context = Context(train=False)

    def run(model):
        parts = split_state(model)
        return jax.jit(lambda x: parts.merge(parts.trainable, parts.frozen, parts.stats)(x, context))(IMAGES)

    forward = jax.jit(wrapped.logits)(trainable)
    merged = run(once)
    assert largest_difference(forward, merged) < 1e-5
    assert largest_difference(merged, run(twice)) == 0


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
    method = DiTASK(shared_cells=8, task_cells=5) if name == "ditask" else method_class(name)()
    abstract = create_model("swin_test", task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4), abstract=True)
    assert make_plan(abstract, method) == wrapped.plan
