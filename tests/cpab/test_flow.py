"""The closed-form flow against a float64 solution of its differential equation."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.cpab import (
    Tessellation,
    displacement,
    displacement_and_slope,
    flow_derivative,
    inverse,
    transform,
    vertex_basis,
    vertex_velocities,
)
from ditask_jax.cpab.arithmetic import power_of_two, split, times_integer
from ditask_jax.cpab.flow import flow
from ditask_jax.cpab.tessellation import cell_velocities
from tests.cpab.oracle import exact_flow, ode_flow
from tests.cpab.rows import evaluate, evaluate_theta

CELLS = (2, 4, 5, 16, 32, 64, 128)


_transform = jax.jit(transform, static_argnums=2)


def _points(cells, random):
    borders = np.arange(cells + 1) / cells
    near = np.float32(borders[1:-1])
    below, above = np.nextafter(near, np.float32(0)), np.nextafter(near, np.float32(1))
    return np.unique(
        np.concatenate([np.linspace(0, 1, 65), borders, random.random(40), below, above]).astype(np.float32)
    )


def _thetas(size, random):
    signs = (-1.0) ** np.arange(size)
    rows = [np.zeros(size), 10 * signs, np.full(size, 10.0), np.full(size, -10.0), random.uniform(-10, 10, size)]
    rows += [scale * random.standard_normal(size) for scale in (1e-6, 0.1, 1, 3)]
    return np.stack(rows).astype(np.float32)


def _check(moved, gradient, growth, velocities, x, zero_boundary, basis):
    """Forward and gradient errors of one field against the oracle, which takes float64."""
    phi, by_velocity, by_x = exact_flow(velocities, x.astype(float))
    bound = 1e-6 if zero_boundary else 3e-6 * np.maximum(1, np.abs(phi))
    assert (np.abs(moved - (phi - x)) <= bound).all()
    exact = by_velocity @ basis
    assert np.abs(gradient - exact).max() <= 1e-5 * np.abs(exact).max()
    assert np.abs(growth - by_x).max() <= 1e-5 * by_x.max()


@pytest.mark.parametrize("zero_boundary", [True, False])
@pytest.mark.parametrize("cells", CELLS)
def test_flow_and_gradient_match_the_oracle(cells, zero_boundary):
    tess, random = Tessellation(cells, zero_boundary), np.random.default_rng(cells)
    basis, x = vertex_basis(tess), _points(cells, random)
    thetas = _thetas(tess.theta_size, random)
    results = evaluate_theta(thetas, x, tess)
    for theta, moved, growth, gradient in zip(thetas, *results, strict=True):
        _check(moved, gradient, growth, basis @ theta.astype(float), x, zero_boundary, basis)


@pytest.mark.parametrize("cells", [5, 32])
def test_vanishing_slopes_and_velocities(cells):
    random = np.random.default_rng(cells)
    x = _points(cells, random)
    vertex = np.arange(cells + 1)
    fields = [np.full(cells + 1, 0.05) * sign for sign in (1, -1)]
    fields += [0.05 + slope * vertex / cells for slope in (1e-2, 1e-4, 1e-6, 2e-7, 1e-8, -1e-6)]
    fields += [
        np.where(vertex % 3 == 0, 0.0, 0.3),
        np.where(vertex > cells // 2, 1e-30, 0.2),
        np.full(cells + 1, 1e-12),
    ]
    fields += [np.where(vertex % 2, 1e-7, -1e-7), 3 * (0.5 - vertex / cells), np.where(vertex == 1, 1.0, 0.0)]
    fields = np.stack(fields).astype(np.float32)
    # In cells per unit time, as two words: a float32 product by 5 would round.
    high = (fields.astype(float) * cells).astype(np.float32)
    low = (fields.astype(float) * cells - high).astype(np.float32)
    for field, moved, growth, gradient in zip(fields, *evaluate(high, low, x), strict=True):
        vanishing = (field * cells == 0)[None, :] & (np.abs(x[:, None] - vertex / cells) < 1e-9)
        use = ~vanishing.any(axis=1) | (field == 0).all()
        phi, by_velocity, _ = exact_flow(field.astype(float), x.astype(float))
        assert (np.abs(moved - (phi - x)) <= 3e-6 * np.maximum(1, np.abs(phi))).all()
        exact = by_velocity / cells
        assert np.abs(gradient - exact)[use].max() <= 1e-5 * np.abs(exact).max()
        assert np.isfinite(gradient).all()
        assert np.isfinite(growth).all()


@pytest.mark.parametrize(("cells", "zero_boundary"), [(4, True), (5, False), (16, True), (32, False)])
def test_oracle_agrees_with_scipy(cells, zero_boundary):
    random = np.random.default_rng(7)
    tess = Tessellation(cells, zero_boundary)
    velocities = vertex_basis(tess) @ random.normal(0, 2, tess.theta_size)
    x = np.concatenate([random.random(4), np.arange(3) / cells, [1.0]])
    phi, by_velocity, by_x = exact_flow(velocities, x)
    np.testing.assert_allclose(phi, ode_flow(velocities, x), atol=1e-9)
    for index in random.choice(cells + 1, 3, replace=False):
        shift = np.zeros(cells + 1)
        shift[index] = 1e-6
        difference = (exact_flow(velocities + shift, x)[0] - exact_flow(velocities - shift, x)[0]) / 2e-6
        moving = ~np.isclose(velocities[np.minimum((x * cells).round().astype(int), cells)], 0)
        np.testing.assert_allclose(by_velocity[moving, index], difference[moving], atol=1e-6)
    inner = x[:4]
    difference = (exact_flow(velocities, inner + 1e-7)[0] - exact_flow(velocities, inner - 1e-7)[0]) / 2e-7
    np.testing.assert_allclose(by_x[:4], difference, rtol=1e-5)


def test_float64_is_accurate_to_float64():
    random = np.random.default_rng(3)
    with jax.enable_x64(True):
        tess = Tessellation(16)
        thetas = random.normal(0, 2, (4, tess.theta_size))
        x = random.random(100)
        moved, growth, gradient = evaluate_theta(thetas, x, tess)
    for theta, row, rate, jacobian in zip(thetas, moved, growth, gradient, strict=True):
        phi, by_velocity, by_x = exact_flow(vertex_basis(tess) @ theta, x)
        np.testing.assert_allclose(row + x, phi, atol=1e-12)
        np.testing.assert_allclose(jacobian, by_velocity @ vertex_basis(tess), atol=1e-10 * np.abs(by_velocity).max())
        np.testing.assert_allclose(rate, by_x, rtol=1e-10)


def test_identity_is_exact():
    for tess in (Tessellation(5), Tessellation(5, zero_boundary=False, basis="sparse")):
        x = jnp.linspace(0, 1, 37)
        assert (_transform(jnp.zeros(tess.theta_size), x, tess) == x).all()


def test_derivatives_of_every_kind_agree():
    tess, x = Tessellation(6), jnp.array([0.05, 0.37, 0.62, 0.9])
    theta = jnp.array([0.9, -1.2, 0.4, 2.0, -0.7])

    @jax.jit
    def derivatives(theta):
        function = lambda theta, x: transform(theta, x, tess)
        hessian = jax.jacfwd(jax.jacrev(lambda theta: function(theta, x)))(theta)
        by_x = jax.vmap(jax.grad(lambda point: function(theta, point[None])[0]))(x)
        formulas = (
            displacement_and_slope(vertex_velocities(theta, tess), x)[1],
            flow_derivative(vertex_velocities(theta, tess), x),
        )
        return jax.jacfwd(function)(theta, x), jax.jacrev(function)(theta, x), hessian, by_x, formulas

    forward, reverse, hessian, by_x, formulas = derivatives(theta)
    np.testing.assert_allclose(forward, reverse, rtol=1e-5, atol=1e-7)
    for formula in formulas:
        np.testing.assert_allclose(by_x, formula, rtol=1e-5)
    basis = vertex_basis(tess)

    def exact_jacobian(theta):
        return exact_flow(basis @ theta, np.asarray(x, float))[1] @ basis

    step = 1e-5
    for k in range(tess.theta_size):
        shift = step * np.eye(tess.theta_size)[k]
        point = np.asarray(theta, float)
        exact = (exact_jacobian(point + shift) - exact_jacobian(point - shift)) / (2 * step)
        np.testing.assert_allclose(np.asarray(hessian)[:, :, k], exact, atol=2e-4 * np.abs(exact).max())


def test_inverse_and_time():
    tess = Tessellation(16)
    theta = jnp.asarray(np.random.default_rng(0).normal(0, 1, tess.theta_size), jnp.float32)
    x = jnp.linspace(0, 1, 37)
    timed = jax.jit(lambda theta, x, time: transform(theta, x, tess, time=time))
    there = timed(theta, x, 1.0)
    np.testing.assert_allclose(jax.jit(inverse, static_argnums=2)(theta, there, tess), x, atol=2e-6)
    np.testing.assert_allclose(timed(theta, there, -1.0), x, atol=2e-6)
    np.testing.assert_allclose(timed(theta, timed(theta, x, 0.5), 0.5), there, atol=1e-6)


def test_batches_broadcast():
    random = np.random.default_rng(1)
    velocities = jnp.asarray(random.normal(0, 0.3, (3, 1, 9)), jnp.float32)
    x = jnp.asarray(random.random((2, 5)), jnp.float32)
    batched = jax.jit(displacement)(velocities, x)
    assert batched.shape == (3, 2, 5)
    np.testing.assert_allclose(batched[2, 1], jax.jit(displacement)(velocities[2, 0], x[1]), atol=1e-7)
    low = jax.eval_shape(displacement, velocities.astype(jnp.bfloat16), x.astype(jnp.bfloat16))
    assert low.dtype == jnp.float32


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_powers_of_two_are_exact_over_the_whole_range(dtype):
    limits = np.finfo(dtype)
    exponents = np.arange(limits.minexp, limits.maxexp)
    exact = np.ldexp(dtype(1), exponents)
    with jax.enable_x64(True):
        for run in (power_of_two, jax.jit(power_of_two)):
            found = np.asarray(run(jnp.asarray(np.concatenate([exact, -exact]))))
            assert found.dtype == dtype
            np.testing.assert_array_equal(found, np.concatenate([exact, exact]))
            for fraction in (1 + limits.eps, 1.5, 2 - limits.eps):
                above = np.append(exact[1:], exact[-1])  # there is none above the largest
                np.testing.assert_array_equal(run(jnp.asarray(exact * dtype(fraction))), above)
            small = np.array([0, -0.0, limits.smallest_subnormal, limits.tiny / 2], dtype)
            np.testing.assert_array_equal(run(jnp.asarray(small)), 1)


@pytest.mark.parametrize("basis", ["rref", "sparse"])
def test_velocities_are_free_of_rounding_at_any_scale(basis):
    """Scaling theta by a power of two scales both words and changes no bit, and together they hold the exact sum."""
    tess, random = Tessellation(20, basis=basis), np.random.default_rng(1)
    exponents = np.arange(-90, 20)
    theta = random.uniform(-1, 1, tess.theta_size).astype(np.float32)
    thetas = np.ldexp(theta, exponents[:, None])
    high, low = (np.asarray(words) for words in jax.jit(cell_velocities, static_argnums=1)(thetas, tess))
    for words in (high, low):
        np.testing.assert_array_equal(words, np.ldexp(words[-1], exponents[:, None] - exponents[-1]))
    exact = vertex_basis(tess) * tess.num_cells @ theta.astype(float)
    found = np.ldexp(high.astype(float) + low, -exponents[:, None])
    np.testing.assert_allclose(found, np.tile(exact, (len(found), 1)), rtol=0, atol=2**-33 * tess.theta_size)


def test_products_of_split_numbers_are_free_of_rounding():
    random = np.random.default_rng(2)
    value = np.ldexp(random.uniform(-1, 1, 500), random.integers(-40, 40, 500)).astype(np.float32)
    upper, lower = (np.asarray(part) for part in jax.jit(split)(value))
    np.testing.assert_array_equal(upper.astype(float) + lower, value.astype(float))
    for part in (upper, lower):
        # Numbers of at most 12 digits: every product of two of them is a float32 number.
        product = np.outer(part, upper[:50])
        np.testing.assert_array_equal(product.astype(float), np.outer(part.astype(float), upper[:50].astype(float)))
    for factor in (3, 64, 1000, 4095):
        high, low = jax.jit(times_integer, static_argnums=2)(value, np.zeros_like(value), factor)
        np.testing.assert_array_equal(np.asarray(high, float) + np.asarray(low, float), value.astype(float) * factor)


def test_a_thousand_cells_keep_the_gradient():
    """What single words cannot do: numbers of the gradient were wrong by 1e-3 of the largest there."""
    tess, random = Tessellation(1000), np.random.default_rng(1000)
    basis, x = vertex_basis(tess), random.random(24).astype(np.float32)
    theta = (10 * (-1.0) ** np.arange(tess.theta_size)).astype(np.float32)

    @jax.jit
    def run(theta):
        high, low = cell_velocities(theta, tess)
        moved, pull = jax.vjp(lambda high: flow(high, low, x, jnp.zeros_like(x))[0], high)
        return moved, jax.vmap(lambda cotangent: pull(cotangent)[0])(jnp.eye(len(x)))

    moved, by_velocity = run(theta)
    phi, exact, _ = exact_flow(basis @ theta.astype(float), x.astype(float))
    np.testing.assert_allclose(moved + x, phi, atol=1e-6)
    exact, gradient = exact @ basis, np.asarray(by_velocity, float) @ (basis * tess.num_cells)
    assert np.abs(gradient - exact).max() <= 1e-5 * np.abs(exact).max()
