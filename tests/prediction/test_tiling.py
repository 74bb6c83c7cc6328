"""Tiles: they cover every image, and what does not depend on a pixel's surroundings comes out as without tiles."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ditask_jax.errors import ConfigError
from ditask_jax.prediction.tiling import check_overlap, ramp, starts, tiled

TILE = (8, 12)


def by_pixel(images):
    """A network that looks at one pixel at a time."""
    assert all(image.shape == (*TILE, 3) and image.dtype == np.uint8 for image in images)
    return [{"a": image.astype(np.float32), "b": image[..., :1].astype(np.float32) ** 2} for image in images]


def assembled(image, forward=by_pixel, overlap=0.25, batch=3):
    strips = list(tiled(image, forward, TILE, overlap, batch))
    rows = 0
    for strip in strips:
        assert {row for row, _ in strip.values()} == {rows}  # one after the other, without a gap
        rows += len(next(iter(strip.values()))[1])
    return {name: np.concatenate([strip[name][1] for strip in strips]) for name in strips[0]}


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.floats(0, 0.9))
def test_any_size_comes_back_whole(height, width, overlap):
    image = np.random.default_rng(height * 41 + width).integers(0, 256, (height, width, 3), np.uint8)
    found = assembled(image, overlap=overlap)
    assert found["a"].shape == image.shape
    np.testing.assert_allclose(found["a"], image, rtol=1e-5)
    np.testing.assert_allclose(found["b"], image[..., :1].astype(float) ** 2, rtol=1e-5)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 3000), st.integers(1, 400), st.floats(0, 0.9))
def test_tiles_cover_and_overlap_as_asked(length, tile, overlap):
    places = starts(length, tile, overlap)
    assert places[0] == 0
    assert places[-1] == max(length - tile, 0)
    steps = np.diff(places)
    # Rounding to whole pixels may take one off.
    assert (steps >= 0).all()
    assert (steps <= max(tile * (1 - overlap), 1) + 1).all()


def test_a_picture_of_the_networks_size_is_one_tile():
    image = np.arange(8 * 12 * 3, dtype=np.uint8).reshape(*TILE, 3)
    calls = []

    def forward(images):
        calls.append(len(images))
        return by_pixel(images)

    np.testing.assert_allclose(assembled(image, forward)["a"], image, rtol=1e-6)
    assert calls == [1]


def test_no_more_tiles_at_a_time_than_asked():
    sizes = []

    def forward(images):
        sizes.append(len(images))
        return by_pixel(images)

    assembled(np.zeros((20, 100, 3), np.uint8), forward, batch=4)
    assert max(sizes) == 4
    assert sum(sizes) == len(starts(20, 8, 0.25)) * len(starts(100, 12, 0.25))


def test_neighbouring_tiles_that_disagree_are_blended_without_a_seam():
    numbers = iter(range(100))

    def forward(images):
        return [{"a": np.full((*TILE, 1), float(next(numbers)), np.float32)} for _ in images]

    found = assembled(np.zeros((8, 21, 3), np.uint8), forward, overlap=0.25)["a"][0, :, 0]
    assert starts(21, 12, 0.25) == [0, 9]
    assert found[:9].tolist() == [0.0] * 9
    assert found[12:].tolist() == [1.0] * 9
    # Three pixels of overlap: a staircase, not a jump.
    np.testing.assert_allclose(found[9:12], [0.25, 0.5, 0.75])


def test_weights_fall_towards_the_edges_and_never_vanish():
    weights = ramp(12, 0.5)
    assert (weights > 0).all()
    assert np.array_equal(weights, weights[::-1])
    assert weights.max() == 1
    assert (np.diff(weights[:6]) > 0).all()


@pytest.mark.parametrize("overlap", [-0.1, 0.95, float("nan")])
def test_impossible_overlaps(overlap):
    with pytest.raises(ConfigError, match="overlap: got"):
        check_overlap(overlap)
