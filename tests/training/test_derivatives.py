"""The whole model of a configuration, differentiated forwards and twice."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.config import load_config
from ditask_jax.nn import Context
from ditask_jax.training.experiment import build_experiment
from ditask_jax.training.step import make_loss

from .small import OPTIONS, two_stages

# Both executions; more layers of the same kinds are only more to compile.
FEW_LAYERS = ("method.shared_layers=qkv", "method.task_layers=fc2")


def dot(left, right) -> float:
    pairs = zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True)
    return sum(float(np.vdot(np.asarray(a, np.float64), np.asarray(b, np.float64))) for a, b in pairs)


def along(start, direction, by: float):
    """In NumPy, where JAX would compile a sum for every shape."""
    return jax.tree.map(lambda a, b: np.asarray(a) + np.float32(by) * np.asarray(b), start, direction)


@pytest.fixture(scope="module")
def smoke():
    """The smoke model with every number moved off its start, an image and a direction of length 1."""
    with two_stages():
        experiment = build_experiment(load_config("configs/smoke.py", [*OPTIONS, *FEW_LAYERS]))
    assert {"factored", "materialised"} <= {layer.execution for layer in experiment.plan.layers}
    rng = np.random.default_rng(0)
    draw = lambda value: rng.standard_normal(value.shape).astype(value.dtype)
    start = along(experiment.parts.trainable, jax.tree.map(draw, experiment.parts.trainable), 0.1)
    direction = jax.tree.map(draw, start)
    direction = along(jax.tree.map(np.zeros_like, start), direction, dot(direction, direction) ** -0.5)
    images = rng.integers(0, 256, (2, 32, 32, 3), np.uint8)
    return experiment, start, direction, images


def features_loss(experiment, images, remat: str = "none"):
    """A smooth function of everything that trains in the backbone: differences of it tell its derivatives."""
    context = Context(train=True, key=jax.random.key(0), remat=remat)

    def loss(trainable):
        model = experiment.parts.merge(trainable, experiment.parts.frozen, experiment.parts.stats)
        maps = model.features(model.normalise(jnp.asarray(images)), context)
        return sum(
            jnp.mean(jnp.sin(x + jnp.cos(jnp.arange(x.size, dtype=x.dtype)).reshape(x.shape)))
            for x in jax.tree.leaves(maps)
        )

    return loss


def both_derivatives(loss):
    """Jitted: gradient, tangent, and the Hessian times the direction."""

    def run(at, direction):
        gradient, product = jax.jvp(jax.grad(loss), (at,), (direction,))
        return gradient, jax.jvp(loss, (at,), (direction,))[1], product

    return jax.jit(run)


@pytest.mark.slow
def test_forwards_and_twice(smoke):
    experiment, start, direction, images = smoke
    run = both_derivatives(features_loss(experiment, images))
    gradient, tangent, product = run(start, direction)
    np.testing.assert_allclose(tangent, dot(gradient, direction), rtol=1e-3, atol=1e-5)
    step = 3e-3
    after, before = (run(along(start, direction, sign * step), direction)[0] for sign in (1, -1))
    measured = jax.tree.map(lambda a, b: (a - b) / (2 * step), after, before)
    apart = along(measured, product, -1.0)
    assert dot(apart, apart) < 0.03**2 * dot(product, product)


@pytest.mark.slow
@pytest.mark.parametrize("remat", ["dots", "blocks"])
def test_what_is_computed_again_has_the_same_derivatives(smoke, remat):
    experiment, start, direction, images = smoke
    wanted = both_derivatives(features_loss(experiment, images))(start, direction)
    found = both_derivatives(features_loss(experiment, images, remat))(start, direction)
    for ours, plain in zip(found, wanted, strict=True):
        apart = along(ours, plain, -1.0)
        assert dot(apart, apart) < 1e-6 * dot(plain, plain)


@pytest.mark.slow
def test_the_loss_of_a_step_forwards_and_twice(smoke):
    """With heads and losses, which are not smooth: the two orders of differentiation are compared."""
    experiment, start, direction, images = smoke
    labels = {"semseg": np.zeros((2, 32, 32), np.int32), "depth": np.ones((2, 32, 32), np.float32)}
    batch = {"image": images, "labels": labels, "valid": np.ones(2, bool), "index": np.arange(2)}
    whole = make_loss(experiment.parts, experiment.tasks, experiment.dtype)
    loss = lambda trainable: whole(
        trainable, experiment.parts.frozen, experiment.parts.stats, batch, jax.random.key(0)
    )[0]
    gradient, tangent, product = both_derivatives(loss)(start, direction)
    np.testing.assert_allclose(tangent, dot(gradient, direction), rtol=1e-3, atol=1e-5)
    other = jax.jit(jax.grad(lambda at: jax.jvp(loss, (at,), (direction,))[1]))(start)
    apart = along(other, product, -1.0)
    assert dot(apart, apart) < 1e-6 * dot(product, product)
