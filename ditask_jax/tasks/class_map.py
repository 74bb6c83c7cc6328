"""Tasks with one class per pixel: semantic segmentation, human parts; and colours of classes."""

import colorsys
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import IGNORE, LabelSpec
from ditask_jax.numerics import widened
from ditask_jax.tasks.base import Colour, RawForm, Swatch, Task, mean_over, valid_images

# Colours of classes, from a formula.


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


# Tasks whose label is a class per pixel: softmax cross-entropy and mean intersection over union.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassMapTask(Task):
    """A class per pixel; 255, like every id from `num_outputs` on, means no label.

    Shapes: label uint8 `[B, H, W]`; prediction int32 `[B, H, W]`.

    Attributes:
      class_names: one name per class.
    """

    primary_metric: str = "mIoU"
    higher_is_better: bool = True
    unit: str = "fraction"
    class_names: tuple[str, ...]

    @property
    def label_spec(self) -> LabelSpec:
        return LabelSpec(name=self.name, num_values=self.num_outputs)

    @property
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"confusion": (self.num_outputs, self.num_outputs)}

    def loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """Cross-entropy, mean over the labelled pixels of the batch."""
        mask = (label < self.num_outputs) & valid_images(valid, label.shape[0])
        log_probability = jax.nn.log_softmax(widened(logits), axis=-1)
        classes = jnp.arange(self.num_outputs, dtype=jnp.int32).reshape(1, 1, 1, -1)
        # A comparison rather than an indexed read, whose gradient is a slow scatter.
        is_target = label.astype(jnp.int32)[..., None] == classes
        chosen = jnp.sum(jnp.where(is_target, log_probability, 0.0), axis=-1)
        return mean_over(-chosen, mask)

    def decode(self, logits: jax.Array) -> jax.Array:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def metric_sums(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> dict[str, jax.Array]:
        """`confusion` int32 `[B, label, prediction]`: labelled pixels of each image by true and predicted class."""
        classes = self.num_outputs
        images = label.shape[0]
        mask = (label < classes) & valid_images(valid, images)
        # Pixels without a label are counted in one cell past the end, cut off below.
        cell = jnp.where(mask, label.astype(jnp.int32) * classes + self.decode(logits), classes * classes)
        count = jax.vmap(lambda cells: jnp.bincount(cells.reshape(-1), length=classes * classes + 1))(cell)
        return {"confusion": count[:, :-1].astype(jnp.int32).reshape(images, classes, classes)}

    def _class_iou(self, total: Mapping[str, np.ndarray]) -> np.ndarray:
        confusion = total["confusion"]
        hit = np.diagonal(confusion).astype(np.float64)
        union = confusion.sum(0) + confusion.sum(1) - hit
        return hit / np.maximum(union, 1e-8)

    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        return {"mIoU": float(self._class_iou(total).mean())} if total["confusion"].any() else {}

    def _details(self, total: Mapping[str, np.ndarray]) -> dict[str, Any]:
        confusion = total["confusion"]
        pixels = int(confusion.sum())
        return {
            "class_iou": dict(zip(self.class_names, self._class_iou(total).tolist(), strict=True)),
            "pixel_accuracy": float(np.trace(confusion) / max(pixels, 1)),
            "labelled_pixels": pixels,
        }

    @property
    def palette(self) -> np.ndarray:
        """Colours uint8 `[256, 3]`: black for a class named background, white for 255 (no label)."""
        return class_palette(self.num_outputs, has_background=self.class_names[0] == "background")

    def render(self, picture: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """Class colours; white where there is no label."""
        del value_range
        return self.palette[np.asarray(picture).astype(np.uint8)]

    def raw_form(self, format: str) -> RawForm:
        """Class ids as an 8-bit PNG with a palette, whatever is asked."""
        del format
        colours = self.palette[: self.num_outputs].tolist()
        holds = {"holds": "class id per pixel, 8-bit palette", "classes": list(self.class_names), "colours": colours}
        return RawForm(".png", holds, lambda classes: classes.astype(np.uint8), self.palette)

    def colour_key(self, values: Sequence[np.ndarray] | None = None) -> list[Swatch]:
        """A field per class that is shown, or of all classes."""
        shown = range(self.num_outputs)
        if values is not None:
            shown = sorted({int(value) for found in values for value in np.unique(found)})
        return [Swatch(self._class_text(k), (tuple(int(c) for c in self.palette[k]),)) for k in shown]

    def _class_text(self, value: int) -> str:
        if value == IGNORE:
            return "no label"
        return f"{value} {self.class_names[value]}" if value < len(self.class_names) else str(value)

    def colour_words(self) -> str:
        return "white: no label"

    def class_ids(self, value: np.ndarray) -> np.ndarray:
        return np.asarray(value)


# Semantic segmentation.


@dataclasses.dataclass(frozen=True, kw_only=True)
class SemanticSegmentation(ClassMapTask):
    """A class per pixel, scored by mean intersection over union over all classes, background included.

    >>> SemanticSegmentation(num_outputs=2, class_names=("background", "cat")).primary_metric
    'mIoU'
    """

    name: str = "semseg"
    loss_weight: float = 1.0


# Segmentation of people into body parts.


@dataclasses.dataclass(frozen=True, kw_only=True)
class HumanParts(ClassMapTask):
    """A body part (or background) per pixel; an image without people has no label and counts nowhere.

    >>> HumanParts(num_outputs=2, class_names=("background", "head")).label_spec.all_zero_is_missing
    True
    """

    name: str = "human_parts"
    loss_weight: float = 2.0

    @property
    def label_spec(self) -> LabelSpec:
        return dataclasses.replace(super().label_spec, all_zero_is_missing=True)


# Classes of a user's own.


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassMap(ClassMapTask):
    """A class per pixel of a data set of one's own, scored by `mIoU` or by `pixel_accuracy`.

    Attributes:
      class_colours: a colour per class; empty: those of `class_palette`.

    >>> ClassMap(name="g", num_outputs=2, class_names=("bag", "hat"), class_colours=((9, 8, 7), (1, 2, 3))).palette[0]
    array([9, 8, 7], dtype=uint8)
    """

    loss_weight: float = 1.0
    class_colours: tuple[Colour, ...] = ()

    @property
    def label_spec(self) -> LabelSpec:
        return dataclasses.replace(super().label_spec, pad_missing=True)

    @property
    def palette(self) -> np.ndarray:
        if not self.class_colours:
            return super().palette
        colours = np.array(super().palette)
        colours[: self.num_outputs] = self.class_colours
        return colours

    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        pixels = int(total["confusion"].sum())
        accuracy = {"pixel_accuracy": float(np.trace(total["confusion"]) / pixels)} if pixels else {}
        return super()._scores(total) | accuracy
