"""The CPAB core against difw, an exact closed form and the authors' layer, at the tolerances of the files' README."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.cpab import (
    Tessellation,
    affine_basis,
    deformed_singular_values,
    prepare_spectrum,
    spectrum_displacements,
    vertex_basis,
)
from ditask_jax.factors import factorize
from tests.cpab.rows import evaluate, evaluate_theta
from tests.parity.golden import Golden, find_core

PARTS = {3: 3, 2: 2}  # outputs / inputs -> column blocks (q, k, v or k, v), each with a spectrum of its own


def _tessellations(*names):
    """(file, cells, zero boundary) of every tessellation of the files of a name, beside which those of others are."""
    cases = []
    for path in find_core(*names):
        found = {re.search(r"_N(\d+)_zb([01])", key).groups() for key in np.load(path).files if "_zb" in key}
        cases += [
            (path, int(cells), bool(int(zero)))
            for cells, zero in sorted(found, key=lambda pair: (int(pair[0]), pair[1]))
        ]
    # By default the fewest, the most and the paper's number of cells; the full tests and .ci/run do all.
    sizes = {cells for _, cells, _ in cases}
    soon = {min(sizes, default=0), max(sizes, default=0), 64}
    marks = {cells: () if cells in soon else pytest.mark.slow for cells in sizes}
    name = lambda path, cells, zero: f"{path.parent.name}-N{cells}-zb{int(zero)}"
    return [pytest.param(*case, id=name(*case), marks=marks[case[1]]) for case in cases]


@functools.cache
def _open(path):
    golden = Golden(path)
    return {name: golden[name] for name in golden}


def _scales(golden, cells, zero_boundary, prefix):
    stem = f"{prefix}_N{cells}_zb{int(zero_boundary)}_s"
    return sorted({re.fullmatch(r"([^_]+).*", key[len(stem) :])[1] for key in golden if key.startswith(stem)})


def _is_strong(key):
    """Whether theta was drawn at a scale above 1, where maps contract strongly."""
    scale = key.rpartition("_s")[2]
    return scale.replace(".", "", 1).isdigit() and float(scale) > 1


def _pointwise():
    """Those of the files with spectra, of their own or beside them."""
    with_spectra = lambda path: Golden(path).has("S_p") or (path.parent / "transform_data.npz").exists()
    return [case for case in _tessellations("pointwise", "flow") if with_spectra(case.values[0])]


def _fewest_and_most(path):
    cells = [case.values[1] for case in _pointwise() if case.values[0] == path]
    return min(cells), max(cells)


@pytest.mark.parametrize("path", find_core("bases"), ids=lambda path: path.parent.name)
def test_bases(path):
    golden = _open(path)
    for key in golden:
        if match := re.fullmatch(r"B_(rref|sparse)_N(\d+)_zb([01])", key):
            tess = Tessellation(int(match[2]), match[3] == "1", match[1])
            np.testing.assert_allclose(affine_basis(tess), golden[key], atol=1e-12, err_msg=key)
            if (constraint := golden.get(f"L_N{match[2]}_zb{match[3]}")) is not None:
                np.testing.assert_allclose(constraint @ affine_basis(tess), 0, atol=1e-12)


@pytest.mark.parametrize("path", find_core("bases"), ids=lambda path: path.parent.name)
def test_flow_of_every_basis(path):
    """Any basis, ours or not, through its vertex velocities."""
    golden = _open(path)
    checked = 0
    for key in [key for key in golden if key.startswith("theta_")]:
        name = key.removeprefix("theta_")
        affine = (golden[f"B_{name}"] @ golden[key]).reshape(-1, 2)
        cells = len(affine)
        left = np.arange(cells) / cells
        speeds = cells * np.append(affine[:, 0] * left + affine[:, 1], affine[-1].sum())
        high = speeds.astype(np.float32)
        x, phi = golden[f"x_{name}"], golden[f"phi_{name}"]
        moved = evaluate(high[None], (speeds - high).astype(np.float32)[None], x.astype(np.float32))[0][0]
        bound = 5e-7 if name.endswith("zb1") else 3e-6 * np.maximum(1, np.abs(phi))
        assert (np.abs(moved + x - phi) <= bound).all(), name
        checked += 1
    assert checked


@pytest.mark.parametrize(("path", "cells", "zero_boundary"), _tessellations("flow"))
def test_flow(path, cells, zero_boundary):
    golden, tess = _open(path), Tessellation(cells, zero_boundary)
    shape = f"N{cells}_zb{int(zero_boundary)}"
    keys = [f"{shape}_s{scale}" for scale in _scales(golden, cells, zero_boundary, "theta")]
    x, at, cotangent = golden[f"x_{shape}"], golden[f"jidx_{shape}"], golden[f"w_{shape}"]
    thetas = np.stack([golden[f"theta_{key}"] for key in keys])
    moved, _, jacobians = evaluate_theta(thetas.astype(np.float32), x.astype(np.float32), tess)
    for key, theta, displacement, jacobian in zip(keys, thetas, moved, jacobians, strict=True):
        np.testing.assert_allclose((affine_basis(tess) @ theta).reshape(-1, 2), golden[f"A_{key}"], atol=1e-10 * cells)
        phi, exact, pulled = golden[f"phi_{key}"], golden[f"J_{key}"], golden[f"vjp_{key}"]
        bound = 5e-7 if zero_boundary else 3e-6 * np.maximum(1, np.abs(phi))
        assert (np.abs(displacement + x - phi) <= bound).all(), key
        assert np.abs(jacobian[at] - exact).max() <= 5e-6 * np.abs(exact).max(), key
        assert np.linalg.norm(cotangent @ jacobian - pulled) <= 5e-6 * np.linalg.norm(pulled), key


@pytest.mark.parametrize("path", find_core("flow"), ids=lambda path: path.parent.name)
def test_flow_in_float64(path):
    golden = _open(path)
    shapes = sorted({re.search(r"N\d+_zb[01]", key)[0] for key in golden if key.startswith("theta_")})
    for shape in shapes[:: max(1, len(shapes) // 2)]:
        cells, zero = map(int, re.findall(r"\d+", shape))
        tess, x = Tessellation(cells, bool(zero)), golden[f"x_{shape}"]
        keys = [f"{shape}_s{scale}" for scale in _scales(golden, cells, bool(zero), "theta")]
        with jax.enable_x64(True):
            moved, _, jacobians = evaluate_theta(np.stack([golden[f"theta_{key}"] for key in keys]), x, tess)
        for key, displacement, jacobian in zip(keys, moved, jacobians, strict=True):
            phi, exact, pulled = golden[f"phi_{key}"], golden[f"J_{key}"], golden[f"vjp_{key}"]
            assert (np.abs(displacement + x - phi) <= 1e-12 * np.maximum(1, np.abs(phi))).all(), key
            assert np.linalg.norm(jacobian[golden[f"jidx_{shape}"]] - exact) <= 1e-10 * np.linalg.norm(exact), key
            assert np.linalg.norm(golden[f"w_{shape}"] @ jacobian - pulled) <= 1e-10 * np.linalg.norm(pulled), key


@pytest.mark.parametrize("path", find_core("edge"), ids=lambda path: path.parent.name)
def test_edges(path):
    """Zero, constant and nearly constant fields, borders, points outside: between the one-sided derivatives."""
    golden = _open(path)
    for name in [key.removeprefix("v_") for key in golden if key.startswith("v_")]:
        field, x = golden[f"v_{name}"], golden[f"x_{name}"]
        cells = len(field) - 1
        high = (field * cells).astype(np.float32)
        low = (field * cells - high).astype(np.float32)
        moved, _, gradient = (array[0] for array in evaluate(high[None], low[None], x.astype(np.float32)))
        phi = golden[f"phi_{name}"]
        assert (np.abs(moved - golden[f"disp_{name}"]) <= 5e-7 * np.maximum(1, np.abs(phi))).all(), name
        sides = np.stack([golden[f"Jplus_{name}"], golden[f"Jminus_{name}"]])
        pinned = np.ones(cells + 1, bool)
        pinned[[0, -1]] = (sides[..., [0, -1]] != 0).any(axis=(0, 1)) | (field[[0, -1]] != 0)
        gradient, sides = gradient[:, pinned] * cells, sides[..., pinned]
        slack = 5e-6 * np.abs(sides).max() + 1e-12
        assert (gradient >= sides.min(axis=0) - slack).all(), name
        assert (gradient <= sides.max(axis=0) + slack).all(), name


@functools.partial(jax.jit, static_argnums=3)
def _changes_and_gradients(thetas, spectra, cotangents, tess):
    """Changes of the spectra in the index domain, and the gradients of their products with the cotangents."""

    def total(thetas):
        changes = spectrum_displacements(thetas, spectra, tess, "index")
        return sum(jnp.sum(change * cotangent) for change, cotangent in zip(changes, cotangents, strict=True)), changes

    return jax.grad(total, has_aux=True)(thetas)


@pytest.mark.parametrize(("path", "cells", "zero_boundary"), _tessellations("transform_data", "flow"))
def test_transform_data(path, cells, zero_boundary):
    """The index domain, all spectra and parameters of a tessellation in one call.

    Fields are given in the basis of hat functions, so that both kinds of boundary share a compiled program.
    """
    golden, tess = _open(path), Tessellation(cells, zero_boundary=False, basis="sparse")
    to_hats = cells * vertex_basis(Tessellation(cells, zero_boundary))
    theta_of = _open(path.parent / "flow.npz")
    shape = f"N{cells}_zb{int(zero_boundary)}"
    keys = [f"{shape}_s{scale}" for scale in _scales(golden, cells, zero_boundary, "out")]
    sizes = sorted(int(key.removeprefix("S_p")) for key in golden if key.startswith("S_p"))
    hats = np.stack([to_hats @ theta_of[f"theta_{key}"] for key in keys])
    thetas = [hats.astype(np.float32)] * len(sizes)
    spectra = [golden[f"S_p{size}"].astype(np.float32)[None] for size in sizes]
    cotangents = [np.tile(golden[f"w_{shape}_p{size}"].astype(np.float32), (len(keys), 1, 1)) for size in sizes]
    for size, cotangent in zip(sizes, cotangents, strict=True):
        for row, key in enumerate(keys):
            cotangent[row, 0, golden.get(f"wzero_{key}_p{size}", np.zeros(0, int)).astype(int)] = 0

    gradients, changes = _changes_and_gradients(thetas, spectra, cotangents, tess)
    for index, size in enumerate(sizes):
        for row, key in enumerate(keys):
            spectrum = golden[f"S_p{size}"]
            out, gradient = golden[f"out_{key}_p{size}"], golden[f"grad_{key}_p{size}"]
            assert np.abs(spectrum + changes[index][row, 0] - out).max() <= 5e-6 * spectrum[0], (key, size)
            bound = 5e-4 if _is_strong(key) else 2e-5
            assert np.linalg.norm(gradients[index][row] @ to_hats - gradient) <= bound * np.linalg.norm(gradient), (
                key,
                size,
            )


@pytest.mark.parametrize(("path", "cells", "zero_boundary"), _pointwise())
def test_pointwise(path, cells, zero_boundary):
    """The value domain; without zero boundary the golden values leave Omega, so the flow itself is compared."""
    golden, tess = _open(path), Tessellation(cells, zero_boundary)
    theta_of = _open(path.parent / "flow.npz")
    shape = f"N{cells}_zb{int(zero_boundary)}"
    keys = [f"{shape}_s{scale}" for scale in _scales(golden, cells, zero_boundary, "out")]
    thetas = np.stack([theta_of[f"theta_{key}"] for key in keys]).astype(np.float32)
    spectra = golden if any(key.startswith("S_p") for key in golden) else _open(path.parent / "transform_data.npz")
    for size in sorted({int(key.rpartition("_p")[2]) for key in golden if key.startswith(f"out_{shape}_")}):
        spectrum = spectra[f"S_p{size}"]
        points = prepare_spectrum(spectrum.astype(np.float32))
        moved, _, jacobians = evaluate_theta(thetas, points.points, tess, points.points_low)
        weight = golden.get(f"w_{shape}_p{size}", golden.get(f"w_p{size}"))
        for row, key in enumerate(keys):
            out, gradient = golden[f"out_{key}_p{size}"], golden[f"grad_{key}_p{size}"]
            bound = 5e-7 if zero_boundary else 3e-6 * np.maximum(1, np.abs(out / spectrum[0]))
            assert (np.abs(spectrum + spectrum[0] * moved[row] - out) <= bound * spectrum[0]).all(), (key, size)
            pulled = spectrum[0] * weight @ jacobians[row]
            assert np.linalg.norm(pulled - gradient) <= 2e-5 * np.linalg.norm(gradient), (key, size)
    if zero_boundary and cells in _fewest_and_most(path):
        values = jax.jit(lambda theta: deformed_singular_values(theta, points, tess))(thetas)
        for row, key in enumerate(keys):
            assert np.abs(values[row] - golden[f"out_{key}_p{size}"]).max() <= 1e-6 * spectrum[0], key


@pytest.mark.slow  # .ci/run and the full tests, with the compiler's defaults
@pytest.mark.parametrize("path", find_core("ditask_linear"), ids=lambda path: path.parent.name)
def test_authors_linear_layer(path):
    """Shared and task streams of the authors' layer, those of one theta size in one call."""
    golden, by_size = Golden(path), {}
    for key in [key for key in golden if key.endswith("theta")]:
        case, stream = key.split("_")[0], key.removesuffix("theta")
        by_size.setdefault(golden[key].shape[-1], []).append((case, stream))
    for size, streams in by_size.items():
        thetas, spectra, cotangents, layers = [], [], [], []
        for case, stream in streams:
            kernel = golden[f"{case}_W"].T.astype(np.float32)
            outputs, inputs = (int(length) for length in golden[f"{case}_dims"][:2])
            factors = factorize(kernel, PARTS.get(outputs // inputs, 1))
            x, cotangent = (golden[stream + name].astype(np.float32) for name in ("x", "cot"))
            by_update = (x.T @ cotangent).reshape(inputs, len(factors.left), -1)
            # The layer is linear in the change, so the cotangent of the change does not depend on theta.
            cotangents.append(np.einsum("pir,ipo,pro->pr", factors.left, by_update, factors.right)[None])
            thetas.append(golden[stream + "theta"].astype(np.float32))
            spectra.append(factors.singular_values)
            layers.append((kernel, factors, x))
        gradients, changes = _changes_and_gradients(thetas, spectra, cotangents, Tessellation(size + 1))
        for (case, stream), (kernel, factors, x), change, gradient in zip(
            streams, layers, changes, gradients, strict=True
        ):
            update = np.einsum("pir,pr,pro->ipo", factors.left, change[0], factors.right)
            out = x @ (kernel + update.reshape(kernel.shape)) + golden[f"{case}_b"].astype(np.float32)
            expected, exact = golden[stream + "out"], golden[stream + "grad"]
            np.testing.assert_allclose(out, expected, atol=1e-5 * max(1, np.abs(expected).max()))
            assert np.linalg.norm(gradient - exact) <= 1e-3 * np.linalg.norm(exact), stream
