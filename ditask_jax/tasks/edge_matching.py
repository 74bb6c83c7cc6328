"""Thinning edge maps and matching them to labels."""

from collections.abc import Iterable, Sequence

import cv2
import numpy as np

from ditask_jax.labels import IGNORE, erode_lines

# Thinning an edge map to lines one pixel wide.
#
# A pixel survives if its value is not exceeded one pixel to either side across the edge (non-maximum suppression). The
# direction across is the main axis of the structure tensor, the smoothed outer product of the gradient of the smoothed
# map, which is well defined on ridges, where the gradient itself vanishes. What survives can still be more than one
# pixel wide: staircases, and the plateaus of saturated or binary maps. It is eroded from alternate sides wherever a
# pixel is redundant among the neighbours that are at least as strong, so that lines stay connected at every threshold.


_SMOOTHING = 1.0
_TENSOR_SMOOTHING = 2.0


def thin(values: np.ndarray, threshold: float) -> np.ndarray:
    """Mask `[H, W]` of the lines of a map among its pixels of at least `threshold` (above 0).

    >>> band = np.zeros((9, 9), np.float32); band[3:6] = 1
    >>> thin(band, 0.5).sum(axis=1).tolist()
    [0, 0, 0, 0, 7, 0, 0, 0, 0]
    """
    values = np.ascontiguousarray(values, np.float32)
    return erode_lines(_local_maxima(values) & (values >= threshold), values)


def _local_maxima(values: np.ndarray) -> np.ndarray:
    """Pixels not exceeded by the map, interpolated bilinearly, one pixel to either side across the edge."""
    height, width = values.shape
    smooth = cv2.GaussianBlur(values, (0, 0), _SMOOTHING)
    dx, dy = cv2.Sobel(smooth, cv2.CV_32F, 1, 0), cv2.Sobel(smooth, cv2.CV_32F, 0, 1)
    xx, xy, yy = (cv2.GaussianBlur(product, (0, 0), _TENSOR_SMOOTHING) for product in (dx * dx, dx * dy, dy * dy))
    across = 0.5 * np.arctan2(2 * xy, xx - yy)
    step_x, step_y = np.cos(across), np.sin(across)
    rows, columns = np.mgrid[0:height, 0:width].astype(np.float32)
    highest = np.zeros_like(values)
    for sign in (-1, 1):
        x, y = columns + sign * step_x, rows + sign * step_y
        beside = cv2.remap(values, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
        highest = np.maximum(highest, beside)
    # The tolerance covers the rounding of the interpolation on plateaus.
    return values >= highest * (1 - 1e-5)


# Counting matched edge pixels of one image, for the F-measure of edge maps.
#
# Both maps are thinned, as above. Then, at each of 33 thresholds k/34, predicted pixels
# (probability >= threshold) are paired with true pixels, one to one, at most `distance * diagonal` apart, as many pairs
# as possible (an exact maximum bipartite matching).
#
# The pairs at all thresholds come from one pass: pixels enter by falling probability, and each looks for an augmenting
# path. A pixel that finds none at its turn enlarges no later matching either (sets that can be matched form a matroid),
# so the number of successes so far is the maximum at every threshold.
#
# References:
#   D. Martin, C. Fowlkes, J. Malik. Learning to detect natural image boundaries using local brightness, color, and
#   texture cues. PAMI 2004 (the measure).
#   J. Edmonds, D. Fulkerson. Transversals and matroid partition. Journal of Research NBS 1965.


NUM_THRESHOLDS = 33
THRESHOLDS = tuple(k / (NUM_THRESHOLDS + 1) for k in range(1, NUM_THRESHOLDS + 1))


def match_edges(
    probability: np.ndarray, label: np.ndarray, distance: float = 0.0075
) -> tuple[np.ndarray, np.ndarray, int]:
    """Numbers of matched and of predicted edge pixels at every threshold, and of true edge pixels.

    Args:
      probability: `[H, W]`, in 0..1.
      label: `[H, W]`, 1 on edges, 0 elsewhere, 255 where unknown (pixels there are not scored).
      distance: greatest distance of a pair as a fraction of the image diagonal.

    Returns:
      `matched` and `predicted`, int64 `[33]`, and `actual`.

    >>> label = np.zeros((64, 64), np.uint8); label[20] = 1
    >>> matched, predicted, actual = match_edges(label.astype(np.float32), label)
    >>> int(matched[16]), int(predicted[16]), actual
    (64, 64, 64)
    """
    label = np.asarray(label)
    known = label != IGNORE
    true_lines = thin(((label >= 0.5) & known).astype(np.float32), 0.5)
    _, predicted, matched, actual = _match_lines(probability, [true_lines], known, THRESHOLDS, distance)
    return matched, predicted, actual


FINE_THRESHOLDS = tuple(k / 100 for k in range(1, 100))


def match_annotators(
    probability: np.ndarray, annotators: np.ndarray, known: np.ndarray, distance: float = 0.0075
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """Numbers of edge pixels at each of 99 thresholds, against what several annotators drew.

    Every annotator's lines are matched with the predicted ones by themselves, as in `match_edges`.

    Args:
      probability: `[H, W]`, in 0..1.
      annotators: bool `[annotators, H, W]`, true on the lines of each.
      known: bool `[H, W]`, false where nothing is scored.
      distance: greatest distance of a pair as a fraction of the image diagonal.

    Returns:
      int64 `[99]` each: predicted pixels that are matched with at least one annotator, predicted pixels, pixels of all
      annotators that are matched; and the number of pixels of all annotators.

    >>> lines = np.zeros((2, 64, 64), bool); lines[0, 20] = lines[1, 40] = True
    >>> counts = match_annotators(lines[0].astype(np.float32), lines, np.ones((64, 64), bool))
    >>> [int(count[49]) for count in counts[:3]], counts[3]
    ([64, 64, 64], 128)
    """
    true_lines = (erode_lines(drawn & known) for drawn in annotators)
    return _match_lines(probability, true_lines, known, FINE_THRESHOLDS, distance)


def _match_lines(
    probability: np.ndarray,
    true_lines: Iterable[np.ndarray],
    known: np.ndarray,
    thresholds: Sequence[float],
    distance: float,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, int]:
    """What `match_annotators` returns, for masks of lines that are thin already."""
    probability = np.asarray(probability, np.float32)
    lines = thin(probability, thresholds[0]) & known
    strength = probability[lines]
    order = np.argsort(-strength, kind="stable")
    points = np.argwhere(lines)[order]
    # In float32, the type of the probabilities, so that a probability equal to a threshold is inside.
    predicted = np.searchsorted(-strength[order], -np.asarray(thresholds, np.float32), side="right")
    until = lambda mask: np.concatenate([[0], np.cumsum(mask, dtype=np.int64)])[predicted]
    is_right, matched, actual = np.zeros(len(points), bool), np.zeros(len(predicted), np.int64), 0
    for mask in true_lines:
        is_matched = _matchable(_candidates(points, mask, distance * float(np.hypot(*probability.shape))))
        is_right |= is_matched
        matched += until(is_matched)
        actual += int(mask.sum())
    return until(is_right), predicted.astype(np.int64), matched, actual


def _candidates(points: np.ndarray, actual: np.ndarray, radius: float) -> list[list[int]]:
    """For every predicted pixel, in order, the numbers of the true pixels within the radius, nearest first."""
    reach = int(radius)
    span = range(-reach, reach + 1)
    offsets = [(y, x) for y in span for x in span if y * y + x * x <= radius * radius]
    offsets.sort(key=lambda offset: offset[0] ** 2 + offset[1] ** 2)
    number = np.full(actual.shape, -1, np.int32)
    number[actual] = np.arange(np.count_nonzero(actual))
    number = np.pad(number, reach, constant_values=-1)
    rows, columns = points[:, 0] + reach, points[:, 1] + reach
    found = np.stack([number[rows + y, columns + x] for y, x in offsets], axis=1)
    is_found = found >= 0
    ends = np.cumsum(is_found.sum(axis=1)).tolist()
    flat = found[is_found].tolist()
    return [flat[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _matchable(candidates: list[list[int]]) -> np.ndarray:
    """Marks the vertices on the left that enlarge the maximum matching of those before them.

    The right-hand vertices seen by a failed search lead only to each other, then and later, so no search enters them
    again: all failures together visit the graph once.
    """
    owner: dict[int, int] = {}  # right -> left
    partner: dict[int, int] = {}  # left -> right
    dead: set[int] = set()
    is_matched = np.zeros(len(candidates), bool)
    for start in range(len(candidates)):
        reached_from: dict[int, int] = {}
        end = _free_vertex(start, candidates, owner, dead, reached_from)
        if end is None:
            dead.update(reached_from)
            continue
        is_matched[start] = True
        while end is not None:  # flips the path from its end back to the start, which has no partner yet
            left = reached_from[end]
            owner[end], partner[left], end = left, end, partner.get(left)
    return is_matched


def _free_vertex(
    start: int, candidates: list[list[int]], owner: dict[int, int], dead: set[int], reached_from: dict[int, int]
) -> int | None:
    """Breadth-first search along alternating paths; fills `reached_from` (right -> left)."""
    queue = [start]
    for left in queue:
        for right in candidates[left]:
            if right in reached_from or right in dead:
                continue
            reached_from[right] = left
            if right not in owner:
                return right
            queue.append(owner[right])
    return None
