"""Depth."""

import dataclasses
from collections.abc import Mapping, Sequence

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import IGNORE, LabelSpec
from ditask_jax.numerics import widened
from ditask_jax.tasks.base import MISSING_COLOUR, RawForm, Swatch, Task, mean_over, valid_images

_SMALLEST = 1e-9
_MOST = 65535
# Depth in 16 bits, by unit: the factor, and what is added to all but zero, as the data sets' own files have it.
_LEVELS = {"metres": (1000.0, 0), "pixels": (256.0, 1), "inverse": (float(_MOST), 0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depth(Task):
    """A distance per pixel, scored by the root mean squared error pooled over all labelled pixels.

    Shapes: label float32 `[B, H, W]`, 255 where missing; prediction float32 `[B, H, W]`, not negative.

    Attributes:
      scales_inversely: True for distances, which a zoom by s divides by s.

    >>> Depth().unit
    'metres'
    """

    name: str = "depth"
    num_outputs: int = 1
    loss_weight: float = 1.0
    primary_metric: str = "rmse"
    higher_is_better: bool = False
    unit: str = "metres"
    scales_inversely: bool = True

    @property
    def label_spec(self) -> LabelSpec:
        return LabelSpec(name=self.name, dtype="float32", scales_inversely=self.scales_inversely, zero_is_missing=True)

    @property
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"squared_error": (), "squared_log_error": (), "pixels": ()}

    def loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """Absolute error, mean over the labelled pixels of the batch."""
        mask = (label != IGNORE) & valid_images(valid, label.shape[0])
        return mean_over(jnp.abs(widened(logits[..., 0]) - label.astype(jnp.float32)), mask)

    def decode(self, logits: jax.Array) -> jax.Array:
        return jnp.maximum(logits[..., 0].astype(jnp.float32), 0.0)

    def metric_sums(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> dict[str, jax.Array]:
        """Sums over image rows `[B, H]`: squared error, squared error of logarithms (clamped at 1e-9), pixels."""
        mask = (label != IGNORE) & valid_images(valid, label.shape[0])
        predicted = jnp.maximum(logits[..., 0].astype(jnp.float32), _SMALLEST)
        actual = jnp.maximum(jnp.where(mask, label.astype(jnp.float32), 1.0), _SMALLEST)

        def over_rows(values: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(mask, values, 0), axis=2)

        return {
            "squared_error": over_rows(jnp.square(predicted - actual)),
            "squared_log_error": over_rows(jnp.square(jnp.log(predicted) - jnp.log(actual))),
            "pixels": over_rows(mask.astype(jnp.int32)),
        }

    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        pixels = int(total["pixels"])
        if pixels == 0:
            return {}
        return {
            "rmse": float(np.sqrt(total["squared_error"] / pixels)),
            "log_rmse": float(np.sqrt(total["squared_log_error"] / pixels)),
        }

    def value_range(self, label: np.ndarray) -> tuple[float, float] | None:
        """2nd to 98th percentile of the labelled pixels; None if there are none."""
        known = np.asarray(label)[_is_known(label)]
        return tuple(np.percentile(known, (2, 98)).tolist()) if known.size else None

    def render(self, picture: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """Viridis from near (dark blue) to far (yellow) over `value_range`; black where there is no label."""
        depth = np.asarray(picture, np.float32)
        return viridis(depth, _is_known(depth), value_range or self.value_range(depth) or (0.0, 1.0))

    def raw_form(self, format: str) -> RawForm:
        """float32, or 16 bits where "png" is asked and the data sets' files have a scale for the unit."""
        if format != "png" or self.unit not in _LEVELS:
            return RawForm(".npy", {"holds": "float32 [H, W]", "unit": self.unit})
        factor, offset = _LEVELS[self.unit]

        def levels(depth: np.ndarray) -> np.ndarray:
            whole = np.round(depth.astype(np.float64) * factor) + offset * (depth > 0)
            return whole.clip(0, _MOST).astype(np.uint16)

        shift = f", plus {offset}; 0 for no depth" if offset else ""
        return RawForm(".png", {"holds": f"16-bit: depth times {factor:g}{shift}", "unit": self.unit}, levels)

    def colour_key(self, values: Sequence[np.ndarray] | None = None) -> list[Swatch]:
        del values
        return [Swatch("from near to far, as noted; black: no label", viridis_bar())]

    def colour_words(self) -> str:
        return "from near (dark) to far (bright), on the target's scale; black: no label"

    @property
    def limits(self) -> str:
        return "Depth is in the unit and of the cameras of the training set; it is no measurement."


def viridis(values: np.ndarray, known: np.ndarray, span: tuple[float, float]) -> np.ndarray:
    """Numbers float32 `[H, W]` as colours uint8 `[H, W, 3]` over a span of values; black where nothing is known."""
    low, high = span
    level = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-6), 0, 1)
    colour = cv2.applyColorMap(np.round(level * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1].copy()
    colour[~known] = MISSING_COLOUR
    return colour


def viridis_bar() -> tuple[tuple[int, int, int], ...]:
    """The colours of `viridis` from low to high."""
    bar = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[::17, 0, ::-1]
    return tuple(map(tuple, bar.tolist()))


def _is_known(depth: np.ndarray) -> np.ndarray:
    values = np.asarray(depth)
    return (values != IGNORE) & (values != 0)
