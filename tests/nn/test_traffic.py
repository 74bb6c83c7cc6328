"""What the compiled forms keep and compute: the layers' speed on CPUs, told without a clock."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.nn.linear import apply_kernel
from ditask_jax.nn.norm import normalise


@pytest.mark.parametrize("shape", [(5, 4096, 96), (1, 2, 64, 64, 96)])
def test_the_gradient_of_a_norm_keeps_no_statistics_as_large_as_its_input(shape):
    def loss(x, scale, bias, kernel):
        return jnp.sum(jnp.sin(normalise(x * 1.01, scale, bias) @ kernel))

    array = lambda *sides: jax.ShapeDtypeStruct(sides, jnp.float32)
    arguments = array(*shape), array(96), array(96), array(96, 96)
    with jax.default_device(jax.devices("cpu")[0]):
        program = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(*arguments).compile()
    # Two arrays of the input's size; with spreads written out for every channel, four.
    assert program.memory_analysis().temp_size_in_bytes < 2.5 * 4 * np.prod(shape)


def test_a_fan_out_is_the_product_of_every_stream_and_so_is_its_gradient():
    x = jax.random.normal(jax.random.key(0), (1, 2, 7, 6))
    kernels = jax.random.normal(jax.random.key(1), (3, 6, 4))
    weights = jax.random.normal(jax.random.key(2), (3, 2, 7, 4))
    each = lambda x, kernels: jnp.stack([x[0] @ kernel for kernel in kernels])
    np.testing.assert_allclose(apply_kernel(x, kernels), each(x, kernels), rtol=1e-5, atol=1e-6)
    gradient = lambda product: jax.grad(lambda *both: jnp.sum(product(*both) * weights), argnums=(0, 1))(x, kernels)
    for ours, plain in zip(gradient(apply_kernel), gradient(each), strict=True):
        np.testing.assert_allclose(ours, plain, rtol=1e-5, atol=1e-5)


def test_what_is_not_finite_stays_so_in_a_norm():
    x = jnp.ones((2, 4)).at[0, 0].set(jnp.inf)
    found = normalise(x, jnp.ones(4), jnp.zeros(4))
    assert jnp.isnan(found[0]).any()
    assert jnp.isfinite(found[1]).all()
