"""FAAR's decoder against NumPy, and what its tasks see of one another."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters import SVF, merge, wrap
from ditask_jax.heads.tspd import SpectralFilter
from ditask_jax.model import create_model
from ditask_jax.nn import Context, Scope, flatten, split_state
from ditask_jax.prediction.predictor import for_tasks
from tests.adapters.cases import task_list
from tests.training.small import NAME, two_stages

HEIGHT, WIDTH, CHANNELS = 9, 8, 3


def reference(x: np.ndarray, other: np.ndarray, p: dict[str, np.ndarray]) -> np.ndarray:
    """Position by position of the whole, two-sided spectrum, in double precision."""
    own, theirs = (np.fft.fft2(m.astype(np.float64), axes=(1, 2), norm="ortho") for m in (x, other))
    found = np.empty_like(own)
    sigmoid = lambda value: 1 / (1 + np.exp(-value))
    corner = np.hypot(4 / 9, 0.5)  # the highest frequencies of 9 rows and 8 columns
    for i, fy in enumerate(np.fft.fftfreq(HEIGHT)):
        for j, fx in enumerate(np.fft.fftfreq(WIDTH)):
            radius = np.hypot(fy, fx) / corner
            f = own[:, i, j] * (1 + p["delta"][min(int(16 * radius), 15)])
            if radius <= 0.5:
                step = 0.5 * sigmoid(p["low_pull"])
                size = np.abs(f) + step * (p["low_gain"] * np.abs(theirs[:, i, j]) - np.abs(f))
                f = size * np.exp(1j * np.angle(f))
            ramp = np.clip((radius - 0.8) / 0.2, 0, 1)
            step = 0.3 * sigmoid(p["edge_pull"]) * ramp
            found[:, i, j] = f + step * (p["edge_gain"] * theirs[:, i, j] - f)
    back = np.fft.ifft2(found, axes=(1, 2), norm="ortho")
    assert np.abs(back.imag).max() < 1e-9  # what was real stays so
    return x + p["alpha"] * (back.real * p["scale"] + p["shift"])


def test_the_filter_is_what_its_formula_says():
    parts = split_state(SpectralFilter(CHANNELS, Scope()))
    rng = np.random.default_rng(0)
    moved = {name: np.asarray(v) + 0.3 * rng.standard_normal(v.shape) for name, v in flatten(parts.trainable).items()}
    x, other = rng.standard_normal((2, 2, HEIGHT, WIDTH, CHANNELS)).astype(np.float32)
    run = jax.jit(lambda values, *maps: parts.merge(values, parts.frozen, parts.stats)(*maps))
    found = run({name: jnp.asarray(value, jnp.float32) for name, value in moved.items()}, x, other)
    np.testing.assert_allclose(found, reference(x, other, moved), rtol=1e-4, atol=1e-4)


def test_counts_of_a_task():
    """Per branch: sixteen rings and two vectors of its channels, and five numbers."""
    widths = (18, 36, 72, 144)
    filters = [split_state(SpectralFilter(width, Scope())).trainable for width in widths]
    assert sum(x.size for x in jax.tree.leaves(filters)) == 4_880


@pytest.mark.slow
def test_tasks_see_one_another_and_a_model_for_some_of_them_does_too():
    with two_stages():
        options = {"head": {"semseg": "tspd", "depth": "tspd", "sal": "hrnet"}, "widths": (4, 4)}
        model = create_model(NAME, task_list("semseg", "depth", "sal"), 32, **options)
        wrap(model, SVF())
        assert [model.seen_by(name) for name in ("semseg", "depth", "sal")] == [["depth"], ["semseg"], []]
        images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
        run = lambda network: jax.jit(lambda x: network(x, Context(train=False)))(images)
        merged = merge(model)
        whole = run(merged)
        for names in (("depth",), ("sal",), ("semseg", "sal")):
            smaller = for_tasks(merged, names)
            assert smaller.read_only == {"depth": ("semseg",), "sal": (), "semseg": ("depth",)}[names[0]]
            for again in (smaller, for_tasks(smaller, names)):
                found = run(again)
                assert set(found) == set(names)
                for name, logits in found.items():
                    np.testing.assert_allclose(logits, whole[name], atol=1e-5)
        # Another depth neck changes semseg, and leaves sal alone.
        kernel = model.necks["depth"].convs[0].kernel
        kernel[...] = kernel[...] + 1
        other = run(merge(model))
        assert np.abs(np.asarray(other["semseg"] - whole["semseg"])).max() > 1e-4
        np.testing.assert_array_equal(other["sal"], whole["sal"])
