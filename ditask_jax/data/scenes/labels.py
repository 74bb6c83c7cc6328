"""Labels of six tasks, read off the z-buffer at pixel centres."""

import functools
from collections.abc import Callable

import numpy as np

from ditask_jax.data.scenes.canvas import GROUND, MAX_DEPTH, Canvas

# Saliency rule: share of the best score that still counts as salient, smallest visible share of the picture,
# width of the centre prior as a share of the picture.
_SALIENT_RATIO, _SALIENT_AREA, _CENTRE_WIDTH = 0.6, 0.01, 0.3


def semseg(canvas: Canvas) -> np.ndarray:
    """Class id per pixel, uint8 [H, W]."""
    return np.asarray(canvas.classes, np.uint8)[canvas.instance]


def human_parts(canvas: Canvas) -> np.ndarray:
    """Body part per pixel, uint8 [H, W]; 0 where there is no person."""
    return canvas.part.copy()


@functools.lru_cache(8)
def _centre_prior(height: int, width: int) -> np.ndarray:
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * _CENTRE_WIDTH**2)).ravel()


def sal(canvas: Canvas) -> np.ndarray:
    """Salient things, uint8 [H, W] in {0, 1}.

    A thing's score is the number of its visible pixels, each weighted by a Gaussian around the centre of the picture
    (large and central things catch the eye). The best thing is salient, and so is every other whose score reaches 0.6
    of the best; things that show less than 1% of the picture never are.
    """
    height, width = canvas.instance.shape
    ids, count = canvas.instance.ravel(), len(canvas.classes)
    score = np.bincount(ids, _centre_prior(height, width), count)
    visible = np.bincount(ids, minlength=count) >= _SALIENT_AREA * height * width
    score = np.where(visible & (np.arange(count) > GROUND), score, 0)
    salient = (score > 0) & (score >= _SALIENT_RATIO * score.max())
    return salient[canvas.instance].astype(np.uint8)


def normals(canvas: Canvas) -> np.ndarray:
    """Unit surface normals in camera axes (x right, y down, z into the scene), float32 [H, W, 3]; zero in the sky."""
    return np.ascontiguousarray(np.moveaxis(canvas.normal, 0, -1))


def depth(canvas: Canvas) -> np.ndarray:
    """Depth along the optical axis in metres, float32 [H, W]; 0 in the sky and beyond 10 m."""
    return np.where(canvas.depth <= MAX_DEPTH, canvas.depth, np.float32(0))


def edge(canvas: Canvas) -> np.ndarray:
    """Boundaries between things and surfaces, one pixel wide, uint8 [H, W] in {0, 1}.

    Of two neighbours (left/right, above/below) that show different instances, the nearer pixel is marked.
    """
    instance, far = canvas.instance, canvas.depth
    marked = np.zeros(instance.shape, bool)
    for first, second in (((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
                          ((slice(None, -1), slice(None)), (slice(1, None), slice(None)))):  # fmt: skip
        differs = instance[first] != instance[second]
        nearer = far[first] <= far[second]
        marked[first] |= differs & nearer
        marked[second] |= differs & ~nearer
    return marked.astype(np.uint8)


LABELS: dict[str, Callable[[Canvas], np.ndarray]] = {
    "semseg": semseg, "human_parts": human_parts, "sal": sal, "normals": normals, "depth": depth, "edge": edge,
}  # fmt: skip
