"""Colours of classes, from a formula."""

import colorsys
import functools

import numpy as np

_GOLDEN_RATIO = 0.618033988749895
_LIGHTNESS = (0.50, 0.34, 0.72)
_SATURATION = (0.85, 0.60, 0.95, 0.45)


@functools.lru_cache(maxsize=32)
def class_palette(num_classes: int, has_background: bool = True) -> np.ndarray:
    """Colours uint8 `[256, 3]` for class ids: hues by the golden ratio, lightness and saturation in turn.

    Class 0 is black when it is a background; 255 (no label) is white; ids from `num_classes` on are mid grey.

    >>> class_palette(21)[[0, 255]].tolist()
    [[0, 0, 0], [255, 255, 255]]
    """
    colours = np.full((256, 3), 128, np.uint8)
    for k in range(min(num_classes, 255)):
        hue = (0.02 + k * _GOLDEN_RATIO) % 1.0
        rgb = colorsys.hls_to_rgb(hue, _LIGHTNESS[k % len(_LIGHTNESS)], _SATURATION[k % len(_SATURATION)])
        colours[k] = np.round(np.array(rgb) * 255)
    if has_background:
        colours[0] = 0
    colours[255] = 255
    colours.setflags(write=False)
    return colours
