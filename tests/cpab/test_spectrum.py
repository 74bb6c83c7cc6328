"""Whole spectra: identity, order, range, headroom, batching."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditask_jax.cpab import (
    SpectrumPoints,
    Tessellation,
    affine_basis,
    deformed_singular_values,
    prepare_spectrum,
    spectrum_displacement,
    spectrum_displacements,
    transform,
    vertex_basis,
)
from ditask_jax.errors import ConfigError
from tests.cpab.oracle import exact_flow

SIGMA = -np.sort(-np.random.default_rng(0).gamma(1.0, 1.0, (3, 24)), axis=-1).astype(np.float32)
TIES = np.array([2.0, 2.0, 1.0, 1.0, 1.0, 1e-3, 1e-20, 0.0] * 3, np.float32)
SPECTRA = np.concatenate([SIGMA, -np.sort(-TIES)[None], np.zeros((1, 24), np.float32)])
CASES = [("value", 1.0), ("value", 1.5), ("index", 1.0)]


def _compiled(tess, domain, headroom):
    spectrum = prepare_spectrum(SPECTRA, domain, headroom)

    @jax.jit
    def values_and_gradient(theta):
        def total(theta):
            change = spectrum_displacement(theta[None, :], spectrum, tess)
            values = deformed_singular_values(theta[None, :], spectrum, tess)
            return jnp.sum(values * jnp.arange(1.0, 25)[None, :]), (values, change)

        gradient, results = jax.grad(total, has_aux=True)(theta)
        return *results, gradient

    return values_and_gradient


@pytest.fixture(
    scope="module", params=[(CASES[0], True), (CASES[1], True), (CASES[1], False), (CASES[2], False)], ids=str
)
def case(request):
    (domain, headroom), zero_boundary = request.param
    tess = Tessellation(5, zero_boundary)
    return tess, domain, headroom, _compiled(tess, domain, headroom)


def test_any_theta_keeps_order_range_and_finite_gradients(case):
    tess, domain, headroom, compiled = case
    # Powers of two are float32 numbers; the last covers nearly all of them.
    numbers = st.one_of([st.floats(-size, size, width=32) for size in (1.0, 16.0, 2.0**14, 2.0**127)])

    @settings(max_examples=80, deadline=None, database=None, derandomize=True)
    @given(st.lists(numbers, min_size=tess.theta_size, max_size=tess.theta_size))
    def check(theta):
        values, change, gradient = (np.asarray(array) for array in compiled(np.array(theta, np.float32)))
        low = SPECTRA[:, -1:] if domain == "index" else 0 * SPECTRA[:, :1]
        high = SPECTRA[:, :1] * np.float32(headroom)
        slack = 4 * np.spacing(high)
        assert (values >= low - slack).all()
        assert (values <= high + slack).all()
        assert (np.diff(values, axis=-1) <= 0).all()
        # Two neighbours, and each is rounded twice, by half a spacing at most: the change, and its sum with the value.
        assert (np.diff(SPECTRA + change, axis=-1) <= 2 * np.spacing(high)).all()
        assert (values[-1] == 0).all()
        assert np.isfinite(gradient).all()

    check()


def test_identity_is_exact(case):
    tess, _, _, compiled = case
    values, change, gradient = compiled(np.zeros(tess.theta_size, np.float32))
    np.testing.assert_array_equal(values, SPECTRA)
    assert (change == 0).all()
    assert np.abs(gradient).max() > 1e-3


def test_headroom_frees_the_largest_singular_value():
    tess = Tessellation(8)
    theta = jnp.asarray(np.random.default_rng(5).normal(0, 1, 7), jnp.float32)
    change = jax.jit(lambda spectrum: spectrum_displacement(theta, spectrum, tess))
    pinned, free = (change(prepare_spectrum(SIGMA, "value", headroom)) for headroom in (1.0, 1.25))
    assert (pinned[:, 0] == 0).all()
    assert (jnp.abs(pinned[:, 1:]) > 0).all()
    assert (jnp.abs(free) > 0).all()
    ortho = np.linalg.qr(np.random.default_rng(0).normal(size=(24, 24)))[0]
    ranks = [
        np.linalg.matrix_rank((ortho * np.asarray(change[0], float)) @ ortho.T, tol=1e-7) for change in (pinned, free)
    ]
    assert ranks == [23, 24]


def test_value_domain_is_the_scaled_transform():
    tess = Tessellation(6)
    theta = jnp.asarray(np.random.default_rng(2).normal(0, 1, 5), jnp.float32)
    scale = 2 * SIGMA[:, :1]
    values = jax.jit(lambda theta: deformed_singular_values(theta, prepare_spectrum(SIGMA, "value", 2.0), tess))(theta)
    expected = scale * jax.jit(transform, static_argnums=2)(theta, SIGMA / scale, tess)
    np.testing.assert_allclose(values, expected, rtol=2e-6, atol=1e-6)


def test_index_domain_reads_later_entries_where_the_velocity_is_positive():
    tess = Tessellation(4)
    values = jax.jit(lambda theta: deformed_singular_values(theta, prepare_spectrum(SIGMA[0], "index"), tess))(
        jnp.ones(3)
    )
    phi = exact_flow(vertex_basis(tess) @ np.ones(3), np.arange(24) / 23)[0]
    expected = np.interp(phi * 23, np.arange(24), SIGMA[0])
    np.testing.assert_allclose(values, expected, atol=1e-5)
    assert (values <= SIGMA[0] + 1e-6).all()


@pytest.mark.parametrize(
    ("domain", "headroom"),
    [case if case == ("value", 1.5) else pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:]],
)
def test_one_call_for_all_layers_equals_one_call_each(domain, headroom):
    tess, random = Tessellation(6), np.random.default_rng(4)
    shapes = [(2, 3, 16), (1, 1, 1), (1, 1, 40), (1, 2, 16)]
    thetas = [jnp.asarray(random.normal(0, 1, (s, 5)), jnp.float32) for s, _, _ in shapes]
    spectra = [-np.sort(-random.random((p, r)), axis=-1).astype(np.float32) for _, p, r in shapes]

    def together(thetas, spectra):
        return spectrum_displacements(thetas, spectra, tess, domain, headroom)

    def alone(theta, spectrum):
        return spectrum_displacement(theta[:, None, :], prepare_spectrum(spectrum, domain, headroom), tess)

    def waves(changes):
        return sum(jnp.sum(jnp.sin(40 * change)) for change in changes), changes

    @jax.jit
    def both(thetas, spectra):
        joint = jax.grad(lambda thetas: waves(together(thetas, spectra)), has_aux=True)
        return joint(thetas), [alone(theta, spectrum) for theta, spectrum in zip(thetas[1:], spectra[1:], strict=True)]

    (gradients, joint), single = both(thetas, spectra)
    first_gradient, [first] = jax.jit(jax.grad(lambda theta: waves([alone(theta, spectra[0])]), has_aux=True))(
        thetas[0]
    )
    for shape, a, b in zip(shapes, joint, [first, *single], strict=True):
        assert a.shape == shape
        np.testing.assert_allclose(a, b, atol=3e-7)
    np.testing.assert_allclose(gradients[0], first_gradient, atol=2e-5 * np.abs(first_gradient).max())


def test_low_precision_theta_is_computed_in_float32():
    change = jax.eval_shape(
        lambda theta: spectrum_displacement(theta, prepare_spectrum(SIGMA), Tessellation(4)), jnp.ones(3, jnp.bfloat16)
    )
    assert change.dtype == jnp.float32


def test_prepared_spectra_are_pytrees():
    spectrum = prepare_spectrum(SIGMA, "index")
    doubled = jax.tree.map(lambda array: 2 * array, spectrum)
    assert isinstance(doubled, SpectrumPoints)
    assert doubled.domain == "index"
    np.testing.assert_array_equal(doubled.singular_values, 2 * SIGMA)
    assert repr(spectrum) == "SpectrumPoints(shape=(3, 24), domain='index')"
    assert spectrum_displacements([], [], Tessellation(4)) == []


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: Tessellation(1), "num_cells: got 1, expected an integer of at least 2"),
        (lambda: Tessellation(True), "num_cells: got True, expected an integer of at least 2"),
        (lambda: Tessellation(4097), "num_cells: got 4097, expected at most 4096"),
        (lambda: Tessellation(4, basis="rrf"), "unknown name 'rrf'. Did you mean 'rref'"),
        (lambda: prepare_spectrum(SIGMA, "indx"), "Did you mean 'index'"),
        (lambda: prepare_spectrum(SIGMA, headroom=0.5), "headroom: got 0.5, expected a number of at least 1"),
        (lambda: prepare_spectrum(SIGMA, "index", 2.0), "domain 'index' has no headroom"),
        (lambda: prepare_spectrum(SIGMA, headroom=np.inf), "headroom: got inf, expected a number of at least 1"),
        (lambda: prepare_spectrum(SIGMA[:, ::-1]), "descending"),
        (lambda: prepare_spectrum(np.float32([[1.0, -1.0]])), "none negative"),
        (lambda: prepare_spectrum(np.float32([[np.inf, 1.0]])), "expected finite values"),
        (lambda: transform(jnp.ones(4), jnp.ones(2), Tessellation(4)), "expected a last axis of 3 for 4 cells"),
        (lambda: spectrum_displacements([jnp.ones(3)], [SIGMA], Tessellation(4)), "expected \\[streams, 3\\]"),
        (lambda: spectrum_displacements([], [SIGMA], Tessellation(4)), "1 spectra for 0 thetas"),
    ],
)
def test_bad_input_is_named(call, message):
    with pytest.raises(ConfigError, match=message):
        call()


@pytest.mark.parametrize("basis", ["rref", "sparse"])
@pytest.mark.parametrize("zero_boundary", [True, False])
def test_bases_span_continuous_fields(basis, zero_boundary):
    tess = Tessellation(6, zero_boundary, basis)
    affine = affine_basis(tess).reshape(6, 2, -1)
    inner = np.arange(1, 6)[:, None] / 6
    np.testing.assert_allclose(
        affine[:-1, 0] * inner + affine[:-1, 1], affine[1:, 0] * inner + affine[1:, 1], atol=1e-12
    )
    assert np.linalg.matrix_rank(vertex_basis(tess)) == tess.theta_size == (5 if zero_boundary else 7)
    assert (np.abs(vertex_basis(tess)[[0, -1]]).max() == 0) == zero_boundary
