"""The index domain against difw's float64 and float32 backends (`cpab*.npz`)."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.cpab import Tessellation, affine_basis, spectrum_displacements, vertex_basis
from tests.cpab.oracle import exact_flow
from tests.cpab.rows import evaluate_theta
from tests.parity.golden import Golden, find


def _cases():
    cases = []
    for path in find("cpab"):
        names = [key.removesuffix("/theta") for key in np.load(path).files if key.endswith("/theta")]
        sizes = {np.load(path)[f"{name}/theta"].shape[-1] for name in names}
        # The full tests and .ci/run do every size.
        marks = {size: () if size == max(sizes) else pytest.mark.slow for size in sizes}
        cases += [pytest.param(path, size, id=f"{path.stem}-K{size}", marks=marks[size]) for size in sorted(sizes)]
    return cases


@pytest.mark.parametrize("path", find("cpab"), ids=lambda path: path.stem)
def test_bases(path):
    for cells, basis in Golden(path).under("B/").items():
        if re.fullmatch(r"\d+", cells):
            np.testing.assert_allclose(affine_basis(Tessellation(int(cells))), basis, atol=1e-6)


@pytest.mark.parametrize(("path", "size"), _cases())
def test_warped_spectra(path, size):
    golden, tess = Golden(path), Tessellation(size + 1)
    names = [key.removesuffix("/theta") for key in golden if key.endswith("/theta") and golden[key].shape[-1] == size]
    thetas = [jnp.asarray(golden[f"{name}/theta"]) for name in names]
    spectra = [golden[f"{name}/S"][None] for name in names]
    cotangents = [golden[f"{name}/cotangent"] for name in names]
    order = [np.argsort(-spectrum[0], kind="stable") for spectrum in spectra]
    assert all((np.diff(places) > 0).all() for places in order)

    @jax.jit
    def run(thetas):
        def total(thetas):
            changes = [change[0, 0] for change in spectrum_displacements(thetas, spectra, tess, "index")]
            return sum(
                jnp.sum(change * cotangent) for change, cotangent in zip(changes, cotangents, strict=True)
            ), changes

        return jax.grad(total, has_aux=True)(thetas)

    gradients, changes = run(thetas)
    for name, theta, spectrum, change, gradient in zip(names, thetas, spectra, changes, gradients, strict=True):
        grid = np.linspace(0, 1, spectrum.shape[1])
        phi = golden[f"{name}/phi64"]
        moved = evaluate_theta(np.asarray(theta), grid.astype(np.float32), tess)[0][0]
        assert np.abs(moved + grid - phi).max() <= 1e-6, name
        exact = exact_flow(vertex_basis(tess) @ np.asarray(theta[0], float), grid)[0]
        np.testing.assert_allclose(exact, phi, atol=1e-9)
        assert np.abs(spectrum[0] + change - golden[f"{name}/S_warped"]).max() <= 5e-6 * spectrum[0, 0], name
        expected = golden[f"{name}/grad_theta"]
        assert np.linalg.norm(gradient - expected) <= 1e-3 * np.linalg.norm(expected), name
