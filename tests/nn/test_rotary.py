"""Rotary positions, LayerScale, gates and biases of parts: against plain NumPy, and what they promise."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.nn import LayerInfo, LayerScale, Linear, Scope, rotary_tables, rotate
from ditask_jax.nn.context import Context
from ditask_jax.nn.products import gated_silu

RNG = np.random.default_rng(0)
GRID, LEADING, WIDTH = (3, 2), 2, 8
INFO = LayerInfo("x", "qkv", 3, 0, 0, False, False, 4)


def test_pairs_of_channels_turn_as_complex_numbers():
    """Token by token: the angle of a pair is its coordinate in -1..1 times two pi over its period."""
    x = RNG.standard_normal((1, 2, 3, LEADING + 6, WIDTH)).astype(np.float32)
    got = np.asarray(rotate(jnp.asarray(x), *map(jnp.asarray, rotary_tables(GRID, LEADING, WIDTH, 100.0))))
    pairs = x[..., : WIDTH // 2] + 1j * x[..., WIDTH // 2 :]
    for token in range(x.shape[-2]):
        row, column = divmod(token - LEADING, GRID[1])
        places = [(row + 0.5) / GRID[0] * 2 - 1, (column + 0.5) / GRID[1] * 2 - 1]
        periods = [1.0, 10.0]  # 100 to the powers 0 and 4/8
        angles = np.array([2 * np.pi * place / period for place in places for period in periods])
        turn = np.exp(1j * angles) if token >= LEADING else np.ones(4)
        expected = pairs[..., token, :] * turn
        np.testing.assert_allclose(got[..., token, :4] + 1j * got[..., token, 4:], expected, atol=1e-6)


def test_products_of_queries_and_keys_depend_on_differences_of_places():
    q, k = (RNG.standard_normal((1, WIDTH)).astype(np.float32).repeat(4, 0) for _ in range(2))
    tables = [jnp.asarray(table) for table in rotary_tables((1, 4), 0, WIDTH, 100.0)]
    products = np.asarray(rotate(jnp.asarray(q), *tables) @ rotate(jnp.asarray(k), *tables).T)
    for offset in range(-3, 4):
        along = np.diagonal(products, offset)
        np.testing.assert_allclose(along, along[0], atol=1e-5)
    assert np.ptp(products) > 0.1


def test_the_backward_pass_turns_back():
    x, towards = (jnp.asarray(RNG.standard_normal((2, LEADING + 6, WIDTH)), jnp.float32) for _ in range(2))
    tables = [jnp.asarray(table) for table in rotary_tables(GRID, LEADING, WIDTH, 100.0)]
    out, pull = jax.vjp(lambda x: rotate(x, *tables), x)
    (gradient,) = pull(towards)
    np.testing.assert_allclose(jnp.vdot(gradient, x), jnp.vdot(towards, out), rtol=1e-5)
    np.testing.assert_allclose(pull(out)[0], x, atol=1e-6)
    _, tangent = jax.jvp(lambda x: rotate(x, *tables), (x,), (towards,))
    np.testing.assert_allclose(tangent, rotate(towards, *tables), atol=1e-6)
    assert rotate(x.astype(jnp.bfloat16), *tables).dtype == jnp.bfloat16


def test_layer_scale_and_gates_keep_the_dtype_and_compute_wider():
    scale = LayerScale(3, 1e-5, Scope())
    x = jnp.asarray(RNG.standard_normal((2, 1, 4, 3)), jnp.bfloat16)
    wide = np.asarray(x, np.float32)
    assert scale(x).dtype == jnp.bfloat16
    np.testing.assert_array_equal(scale(x), jnp.asarray(wide * np.float32(1e-5), jnp.bfloat16))
    gate, value = wide[:, 0, :, :1], wide[:, 0, :, 1:2]
    expected = gate / (1 + np.exp(-gate)) * value
    np.testing.assert_allclose(gated_silu(jnp.asarray(wide[:, 0, :, :2])), expected, atol=1e-6)


@pytest.mark.parametrize("parts", [None, (0, 2), (1,)])
def test_a_bias_of_parts_is_zero_elsewhere(parts):
    layer = Linear(4, 6, Scope(), INFO, True, parts)
    given = np.arange(1.0, 1 + (6 if parts is None else 2 * len(parts)), dtype=np.float32)
    assert layer.bias.shape == given.shape
    layer.bias[...] = jnp.asarray(given)
    expected = np.zeros(6, np.float32)
    at = [2 * part + i for part in (range(3) if parts is None else parts) for i in range(2)]
    expected[at] = given
    out = layer(jnp.zeros((1, 1, 4)), ("shared",), Context(train=False))
    np.testing.assert_array_equal(out[0, 0], expected)
