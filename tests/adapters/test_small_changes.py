"""What a training step does to a weight is often less than a step of bfloat16; it must reach the output all the same.

Measured is what a small change does to a layer's output in bfloat16, against the change in exact numbers: the share of
it that is there (its projection on it) and the noise beside it, both held to a float32 kernel that is rounded once.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from ditask_jax.adapters.dora import DoRA
from ditask_jax.adapters.lora import LoRA
from ditask_jax.adapters.mtlora import MTLoRA
from ditask_jax.adapters.site import Site
from ditask_jax.adapters.svf import SVF
from ditask_jax.heads.hrnet import Pointwise
from ditask_jax.linalg import Factors, factorize
from ditask_jax.nn import Context, Frozen, LayerInfo, Linear, Scope, flatten, prepare_adapters, split_state, unflatten
from ditask_jax.nn.conv import Conv

IN, OUT, TASKS, DRAWS = 96, 384, ("a", "b"), 16


def site(role: str, shape: tuple[int, int], parts: int = 1, behind: int = 1, block: int = 0) -> Site:
    """A dense layer `behind` blocks before the end of its stage."""
    info = LayerInfo(f"blocks/{block}/{role}", role, parts, 0, block, behind == 0, False, 64)
    return Site(info, shape, TASKS, 1, 2, behind, False)


# Role, shape, parts, whether streams split here, tokens: fewer and more of these than the layer has outputs.
LAYERS = {
    "wide": (site("fc1", (IN, OUT)), 1, 512),
    "narrow": (site("fc2", (OUT, IN)), 1, 512),
    "few tokens": (site("fc1", (IN, OUT)), 1, 128),
    "packed": (site("qkv", (IN, 3 * IN), parts=3), 1, 512),
    "fan out": (site("proj", (IN, OUT), behind=0, block=1), 1, 512),
    "streams": (site("fc1", (IN, OUT), behind=0, block=1), 3, 512),
}


@functools.cache
def kernel_and_factors(shape: tuple[int, int], parts: int) -> tuple[np.ndarray, Factors]:
    """Decomposed once for all layers of a shape: that takes longer than all else they do."""
    kernel = np.random.default_rng(1).standard_normal(shape) * shape[0] ** -0.5
    return kernel, factorize(kernel.astype(np.float32), parts)


class Layer:
    """A dense layer with free gains of its singular values, over kernels drawn anew, and what it is compared with."""

    def __init__(self, name: str, execution: str):
        self.site, self.entering, self.tokens = LAYERS[name]
        self.method = SVF(execution=execution, dropout=0.0)
        self.plan = self.method.plan_layer(self.site)
        self.streams = self.plan.streams or ("shared",)
        self.kernel, self.factors = kernel_and_factors(self.site.shape, self.site.info.parts)
        self.parts = split_state(self.attached(*self.scaled(1.0)))
        self.run = jax.jit(self._run)
        self.reference = jax.jit(lambda x, kernel: x @ kernel.astype(x.dtype))

    def attached(self, kernel: np.ndarray, factors: Factors) -> Linear:
        linear = Linear(*self.site.shape, Scope(), self.site.info, use_bias=False)
        linear.adapter = self.method.attach(linear, self.plan, factors, 0)
        linear.kernel = Frozen(jnp.asarray(kernel))
        if self.plan.execution == "factored":
            del linear.kernel
        return linear

    def _run(self, trainable, frozen, x):
        linear = self.parts.merge(trainable, frozen, {})
        context = prepare_adapters(linear, Context(train=False, dtype=jnp.bfloat16))
        return linear(x, self.streams if self.entering > 1 else ("shared",), context)

    def moved(self, trainable, relative: float):
        return jax.tree.map(lambda value: jnp.full(value.shape, relative, value.dtype), trainable)

    def scaled(self, by: float) -> tuple[np.ndarray, Factors]:
        """A kernel that rounds in other places, without a decomposition of its own."""
        left, values, right = self.factors
        return (by * self.kernel).astype(np.float32), Factors(left, (by * values).astype(np.float32), right)

    def draw(self, number: int):
        """A kernel, its layer taken apart, its factors in double precision, and an input."""
        rng = np.random.default_rng(number)
        kernel, factors = self.scaled(2 ** rng.random())
        x = jnp.asarray(rng.standard_normal((self.entering, self.tokens, self.site.shape[0])), jnp.bfloat16)
        exact = [np.asarray(factor, np.float64) for factor in factors]
        return kernel, split_state(self.attached(kernel, factors)), exact, x

    def measure(self, relative: float, number: int) -> dict[str, np.ndarray]:
        """Share and noise of every stream, `[2, S]`, ours and the reference's."""
        kernel, parts, factors, x = self.draw(number)
        moved = np.concatenate([(u * (relative * s)) @ v for u, s, v in zip(*factors, strict=True)], axis=1)
        found = difference(*(self.run(self.moved(parts.trainable, by), parts.frozen, x) for by in (relative, 0.0)))
        rounded = difference(*(self.reference(x, (kernel + by * moved).astype(np.float32)) for by in (1.0, 0.0)))
        exact = np.broadcast_to(np.asarray(x, np.float64) @ moved, found.shape)
        rounded = np.broadcast_to(rounded, found.shape)
        return {"ours": share_and_noise(found, exact), "reference": share_and_noise(rounded, exact)}


def difference(after: jax.Array, before: jax.Array) -> np.ndarray:
    return np.asarray(after, np.float64) - np.asarray(before, np.float64)


def share_and_noise(found: np.ndarray, exact: np.ndarray) -> np.ndarray:
    square = np.sum(exact**2, axis=(1, 2))
    share = np.sum(found * exact, axis=(1, 2)) / square
    beside = found - share[:, None, None] * exact
    return np.stack([share, np.sqrt(np.sum(beside**2, axis=(1, 2)) / square)])


@functools.cache
def layer(name: str, execution: str) -> Layer:
    return Layer(name, execution)


every_layer = pytest.mark.parametrize("name", LAYERS)
every_way = pytest.mark.parametrize("execution", ["factored", "materialised"])


@every_way
@every_layer
@pytest.mark.parametrize("relative", [3e-3, 5e-2])
def test_changes_of_a_spectrum_reach_the_output_in_bfloat16(name, execution, relative):
    found = layer(name, execution).measure(relative, 0)
    share, noise = found["ours"]
    assert np.all((share > 0.97) & (share < 1.03))
    assert np.all(noise < 1.02 * found["reference"][1])


@every_way
@every_layer
@pytest.mark.parametrize("relative", [3e-4, 1e-3])
def test_changes_below_a_step_of_bfloat16_reach_the_output_on_average(name, execution, relative):
    drawn = [layer(name, execution).measure(relative, draw) for draw in range(DRAWS)]
    ours, reference = (np.stack([draw[which] for draw in drawn]) for which in ("ours", "reference"))
    mean, spread = ours[:, 0].mean(0), ours[:, 0].std(0)
    assert np.all((mean > 0.95) & (mean < 1.05))
    # Two estimates from sixteen draws; where the kernel itself is what is rounded, both are the same number.
    assert np.all(spread < 1.02 * reference[:, 0].std(0))
    assert np.all(ours[:, 1].mean(0) < 1.02 * reference[:, 1].mean(0))


@every_way
def test_gradients_of_a_spectrum_in_bfloat16_are_those_of_the_rounded_inputs(execution):
    """Sums over tokens are taken in float32: nothing but the rounding of what is summed is left."""
    made = layer("wide", execution)
    _, parts, factors, x = made.draw(0)
    weights = jnp.asarray(np.random.default_rng(9).standard_normal((1, made.tokens, OUT)), jnp.bfloat16)
    loss = lambda trainable: jnp.sum((made.run(trainable, parts.frozen, x) * weights).astype(jnp.float32))
    found = jax.jit(jax.grad(loss))(made.moved(parts.trainable, 0.0))["adapter"]["gain_shared"]
    (left,), (values,), (right,) = factors
    exact = values * np.sum((np.asarray(x[0], np.float64) @ left) * (np.asarray(weights[0], np.float64) @ right.T), 0)
    assert np.linalg.norm(found[0] - exact) < 5e-3 * np.linalg.norm(exact)


def cosines(value: jax.Array) -> jax.Array:
    return 1e-4 * jnp.cos(jnp.arange(value.size, dtype=jnp.float32)).reshape(value.shape)


@pytest.mark.parametrize(
    ("method", "name", "moved"),
    [
        (LoRA(dropout=0.0), "b_shared", cosines),
        (MTLoRA(dropout=0.0), "b_a", cosines),
        (DoRA(dropout=0.0), "magnitude_shared", lambda value: 1e-3 * value),
        (LoRA(dropout=0.0), "bias", lambda value: jnp.full_like(value, 1e-3)),
    ],
    ids=["lora", "mtlora", "dora", "bias"],
)
def test_small_changes_of_other_methods_reach_the_output_in_bfloat16(method, name, moved):
    where = LAYERS["streams" if isinstance(method, MTLoRA) else "wide"][0]
    linear = Linear(IN, OUT, Scope(), where.info)
    plan = method.plan_layer(where)
    linear.adapter = method.attach(linear, plan, None, 0)
    streams = plan.streams or ("shared",)
    parts = split_state(linear)
    x = np.random.default_rng(0).standard_normal((len(streams), 512, IN)).astype(jnp.bfloat16)

    @functools.partial(jax.jit, static_argnums=1)
    def run(trainable, dtype):
        return parts.merge(trainable, parts.frozen, {})(jnp.asarray(x), streams, Context(train=False, dtype=dtype))

    flat = flatten(parts.trainable)
    path = name if name == "bias" else f"adapter/{name}"
    after = unflatten(flat | {path: flat[path] + moved(flat[path])}, parts.trainable)
    found, exact = (difference(run(after, t), run(parts.trainable, t)) for t in (jnp.bfloat16, jnp.float32))
    moves = np.sum(exact**2, axis=(1, 2)) > 0
    share, _ = share_and_noise(found[moves], exact[moves])
    assert np.all((share > 0.95) & (share < 1.05))


def _layer_with_adapter(execution: str) -> nnx.Module:
    made = layer("wide", execution)
    linear = Linear(IN, OUT, Scope(), made.site.info)
    linear.adapter = made.method.attach(linear, made.plan, made.factors, 0)
    return linear


def _layer_of_streams() -> nnx.Module:
    linear = Linear(IN, OUT, Scope(), LAYERS["wide"][0].info)
    linear.kernel = Frozen(jnp.stack([linear.kernel[...]] * 2))
    linear.merged_streams = TASKS
    return linear


def _dense(linear, x, context):
    return linear(x[None], ("shared",), prepare_adapters(linear, context))[0]


# How a layer is made, and how it is called on `[tokens, IN]`.
WITH_BIAS = {
    "plain": (lambda: Linear(IN, OUT, Scope(), LAYERS["wide"][0].info), _dense),
    "factored": (lambda: _layer_with_adapter("factored"), _dense),
    "materialised": (lambda: _layer_with_adapter("materialised"), _dense),
    "merged": (_layer_of_streams, _dense),
    "one merged stream": (_layer_of_streams, lambda linear, x, context: linear.of_stream(x[None], 1, context)[0]),
    "patches": (
        lambda: Conv(IN // 4, OUT, 2, 2, 0, Scope()),
        lambda conv, x, context: conv(x.reshape(-1, 2, 2, IN // 4), context),
    ),
    "windows that overlap": (
        lambda: Conv(IN // 4, OUT, 3, 2, 1, Scope()),
        lambda conv, x, context: conv(x.reshape(-1, 2, 2, IN // 4), context),
    ),
    "head": (
        lambda: Pointwise(IN, OUT, Scope()),
        lambda head, x, context: head(x[None, None], context),
    ),
    "logits": (
        lambda: Pointwise(IN, OUT, Scope()),
        lambda head, x, context: head.wide(x[None, None], context),
    ),
}


@pytest.mark.parametrize("start", [0.0, 0.75])
@pytest.mark.parametrize("name", WITH_BIAS)
def test_small_changes_of_a_bias_reach_the_output_in_bfloat16(name, start):
    """The layer's sum is rounded once, with its bias: neither alone lies on the narrow dtype's grid before."""
    make, call = WITH_BIAS[name]
    parts = split_state(make())
    x = np.random.default_rng(0).standard_normal((512, IN)).astype(jnp.bfloat16)

    @functools.partial(jax.jit, static_argnums=1)
    def run(bias, dtype):
        trainable = parts.trainable | {"bias": jnp.full(OUT, bias, jnp.float32)}
        return call(parts.merge(trainable, parts.frozen, {}), jnp.asarray(x), Context(train=False, dtype=dtype))

    found, exact = (difference(run(start + 1e-3, t), run(start, t)) for t in (jnp.bfloat16, jnp.float32))
    assert 0.95 < np.sum(found * exact) / np.sum(exact**2) < 1.05
