"""What is computed again is not kept: on CPUs too, where XLA drops the barriers of `jax.checkpoint`."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.nn import Context
from ditask_jax.nn.remat import rematerialised
from ditask_jax.training.profiling import program_memory, program_work

BLOCKS, TOKENS, CHANNELS = 6, 512, 16


def _loss(kernels, x, key, remat):
    context = Context(train=True, remat=remat)
    for kernel in kernels:

        def block(x, streams, context, kernel=kernel):
            hidden = jax.nn.gelu(x @ kernel) * jax.random.bernoulli(key, shape=(kernel.shape[1],)).reshape(1, 1, 1, -1)
            return x + jnp.sin(hidden) @ kernel.T, (*streams, "task") if len(streams) == 1 else streams

        x, streams = rematerialised(block, x, ("shared",), context)
        assert streams == ("shared", "task")
    return jnp.sum(x * x)


def _compiled(remat):
    kernels = [jax.random.normal(jax.random.key(i), (CHANNELS, 32 * CHANNELS)) / 8 for i in range(BLOCKS)]
    x = jax.random.normal(jax.random.key(9), (1, 1, TOKENS, CHANNELS))
    arguments = kernels, x, jax.random.key(3)
    function = jax.jit(jax.value_and_grad(lambda *given: _loss(*given, remat), argnums=(0, 1)))
    program = function.lower(*arguments).compile()
    return program, program(*arguments)


@pytest.mark.parametrize("remat", ["dots", "blocks"])
def test_gradients_stay(remat):
    (value, gradients), (expected, wanted) = _compiled(remat)[1], _compiled("none")[1]
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5 * float(jnp.abs(b).max())), gradients, wanted)


def test_blocks_are_computed_again_when_their_gradient_comes():
    kept, again = _compiled("none")[0], _compiled("blocks")[0]
    assert program_work(again)["flops"] > 1.1 * program_work(kept)["flops"]
    assert program_memory(again)["temporary"] < 0.5 * program_memory(kept)["temporary"]


def test_evaluation_computes_once():
    def forward(x):
        return rematerialised(lambda x, *rest: (x + 1, rest[0]), x, ("shared",), Context(train=False, remat="blocks"))

    assert "custom_vjp" not in str(jax.make_jaxpr(lambda x: forward(x)[0])(1.0))
