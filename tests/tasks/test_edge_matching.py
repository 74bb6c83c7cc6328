"""Edge matching against brute force, and thinning of lines, bands and ridges."""

import itertools

import cv2
import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from ditask_jax.tasks import EdgeDetection
from ditask_jax.tasks.edge_matching import NUM_THRESHOLDS, THRESHOLDS, match_edges, thin


def most_pairs(predicted, actual, radius) -> int:
    """Greatest number of disjoint pairs within the radius, by trying every assignment of a small set."""
    close = [[np.hypot(*np.subtract(p, a)) <= radius for a in actual] for p in predicted]
    if len(predicted) > len(actual):
        close = [list(column) for column in zip(*close, strict=True)]
    if not close:
        return 0
    return max(
        sum(row[k] for row, k in zip(close, order, strict=True))
        for order in itertools.permutations(range(len(close[0])), len(close))
    )


@pytest.mark.parametrize("seed", range(12))
def test_counts_agree_with_brute_force_on_tiny_maps(seed):
    random = np.random.default_rng(seed)
    distance = float(random.uniform(0.1, 0.45))
    probability = np.where(random.random((6, 7)) < 0.2, random.random((6, 7)), 0).astype(np.float32)
    label = (random.random((6, 7)) < 0.15).astype(np.uint8)
    lines, actual = thin(probability, THRESHOLDS[0]), np.argwhere(thin(label.astype(np.float32), 0.5))
    actual_map = np.zeros_like(label)
    actual_map[tuple(actual[:6].T)] = 1
    actual = np.argwhere(thin(actual_map.astype(np.float32), 0.5))
    matched, predicted, count = match_edges(probability, actual_map, distance)
    assert count == len(actual)
    for k in range(0, NUM_THRESHOLDS, 4):
        points = np.argwhere(lines & (probability >= THRESHOLDS[k]))
        assert predicted[k] == len(points)
        assert matched[k] == most_pairs(points, actual, distance * np.hypot(6, 7))


@pytest.mark.parametrize("seed", range(3))
def test_one_pass_finds_the_maximum_matching_at_every_threshold(seed):
    random = np.random.default_rng(seed)
    shape, distance = (40, 48), 0.05
    probability = cv2.GaussianBlur(random.random(shape).astype(np.float32), (0, 0), 1)
    probability = (probability - probability.min()) / np.ptp(probability)
    label = (random.random(shape) < 0.15).astype(np.uint8)
    matched, predicted, count = match_edges(probability, label, distance)
    actual = np.argwhere(thin(label.astype(np.float32), 0.5))
    lines = thin(probability, THRESHOLDS[0])
    assert count == len(actual)
    for k, threshold in enumerate(THRESHOLDS):
        points = np.argwhere(lines & (probability >= np.float32(threshold)))
        gap = np.hypot(*(points[:, None] - actual[None]).transpose(2, 0, 1))
        graph = csr_array(gap <= distance * np.hypot(*shape))
        assert predicted[k] == len(points)
        assert matched[k] == np.sum(maximum_bipartite_matching(graph, perm_type="column") >= 0)
    assert 0 < matched[0] < min(predicted[0], count)


def circles(size: int) -> np.ndarray:
    picture = np.zeros((size, size), np.uint8)
    for k, (x, y) in enumerate([(0.3, 0.3), (0.6, 0.5), (0.4, 0.75)]):
        cv2.circle(picture, (int(x * size), int(y * size)), size // 5, k + 1, -1)
    edges = np.zeros_like(picture)
    edges[:, 1:] |= picture[:, 1:] != picture[:, :-1]
    edges[1:] |= picture[1:] != picture[:-1]
    return edges


def score(probability, label, **options) -> float:
    task = EdgeDetection(**options)
    return task.finalize(task.host_sums(probability[None].astype(np.float32), label[None]))["odsF"]


def test_perfect_maps_score_one_and_thick_or_blurred_ones_nearly():
    label = circles(192)
    assert score(label, label) == 1.0
    assert score(0.3 * label, label) == 1.0
    thick = cv2.dilate(label, np.ones((3, 3), np.uint8)).astype(np.float32)
    soft = cv2.GaussianBlur(label.astype(np.float32), (0, 0), 1.5)
    assert score(thick, label) > 0.97
    assert score(soft, label) > 0.95
    assert score(np.zeros_like(soft), label) == 0.0
    assert score(np.random.default_rng(0).random(label.shape), label) < 0.5


def test_shifted_lines_match_within_the_distance_only():
    label = np.zeros((100, 100), np.uint8)
    label[50] = 1
    for shift, expected in [(0, 1.0), (1, 1.0), (2, 0.0)]:  # 0.0075 of the diagonal is 1.06 pixels
        assert score(np.roll(label, shift, axis=0), label) == expected
    assert score(np.roll(label, 2, axis=0), label, match_distance=0.0142) == 1.0


def test_a_true_pixel_is_matched_once():
    label = np.zeros((100, 100), np.uint8)
    label[50, 20:80] = 1
    probability = np.zeros((100, 100), np.float32)
    probability[49, 20:80] = probability[51, 20:80] = 0.9
    matched, predicted, actual = match_edges(probability, label)
    assert (int(matched[0]), int(predicted[0]), actual) == (60, 120, 60)


def test_unknown_pixels_are_not_scored():
    label = circles(96)
    hidden = label.copy()
    hidden[:, 48:] = 255
    probability = label.astype(np.float32)
    assert score(probability, hidden) > 0.99  # the cut moves a pixel of the thinned lines
    assert match_edges(probability, hidden)[2] < match_edges(probability, label)[2]


def test_threshold_counts_follow_the_probability():
    label = np.zeros((60, 60), np.uint8)
    label[30] = 1
    probability = np.zeros((60, 60), np.float32)
    probability[30, :20], probability[30, 20:] = 0.25, 0.75
    _, predicted, _ = match_edges(probability, label)
    expected = [60 if t <= 0.25 else 40 if t <= 0.75 else 0 for t in THRESHOLDS]
    assert predicted.tolist() == expected


def test_best_threshold_is_of_the_data_set_not_of_the_image():
    task = EdgeDetection()
    label = np.zeros((2, 60, 60), np.uint8)
    label[:, 30] = 1
    probability = np.zeros((2, 60, 60), np.float32)
    probability[0, 30], probability[0, 10] = 0.9, 0.6  # best above 0.6
    probability[1, 30] = 0.4  # best below 0.4
    sums = task.host_sums(probability, label)
    assert task.finalize(sums)["odsF"] == pytest.approx(2 * 120 / (180 + 120))
    details = task.details(sums)
    assert details["best_threshold"] == THRESHOLDS[0]
    assert (details["precision"], details["recall"]) == (pytest.approx(2 / 3), 1.0)
    alone = task.finalize(task.host_sums(probability, label, np.array([True, False])))
    assert alone["odsF"] == 1.0


def test_thin_keeps_lines_and_reduces_bands():
    line = np.zeros((30, 30), np.float32)
    line[15, 3:27] = line[3:27, 15] = 1  # a cross
    np.testing.assert_array_equal(thin(line, 0.5), line > 0)
    band = cv2.dilate(line, np.ones((5, 5), np.uint8))
    thinned = thin(band, 0.5)
    assert thinned.sum() < 0.35 * band.sum()
    components, _ = cv2.connectedComponents(thinned.astype(np.uint8), connectivity=8)
    assert components == 2  # the ground and one piece
    assert not np.any(thin(np.zeros((8, 8), np.float32), 0.1))


def test_thin_of_a_ridge_is_its_crest():
    columns = np.arange(40, dtype=np.float32)
    ridge = np.broadcast_to(np.exp(-((columns - 17) ** 2) / 18), (30, 40))
    assert np.argwhere(thin(ridge, 0.05).any(axis=0)).ravel().tolist() == [17]


@pytest.mark.parametrize("sign", [1, -1])
def test_thin_of_a_slanting_ridge_is_its_crest(sign):
    rows, columns = np.mgrid[0:40, 0:40].astype(np.float32)
    distance = (rows - sign * columns - (0 if sign > 0 else 40)) / 2**0.5
    assert np.all(distance[thin(np.exp(-(distance**2) / 18), 0.05)] == 0)


@pytest.mark.parametrize("seed", range(4))
def test_thin_keeps_the_pieces_and_holes_of_a_binary_map(seed):
    noise = cv2.GaussianBlur(np.random.default_rng(seed).random((60, 60)).astype(np.float32), (0, 0), 2)
    blobs = np.pad((noise > np.median(noise)).astype(np.uint8), 2)
    thinned = thin(blobs.astype(np.float32), 0.5).astype(np.uint8)
    assert np.all(thinned <= blobs)
    assert 0 < thinned.sum() < 0.4 * blobs.sum()
    for before, after, connectivity in [(blobs, thinned, 8), (1 - blobs, 1 - thinned, 4)]:
        pieces = [cv2.connectedComponents(mask, connectivity=connectivity)[0] for mask in (before, after)]
        assert pieces[0] == pieces[1]
    np.testing.assert_array_equal(thin(thinned.astype(np.float32), 0.5), thinned)
