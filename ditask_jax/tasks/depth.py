"""Depth."""

import dataclasses
from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import IGNORE, LabelSpec
from ditask_jax.tasks.base import RawForm, valid_images
from ditask_jax.tasks.regression import Regression

_SMALLEST = 1e-9
_MOST = 65535
# Depth in 16 bits, by unit: the factor, and what is added to all but zero, as the data sets' own files have it.
_LEVELS = {"metres": (1000.0, 0), "pixels": (256.0, 1), "inverse": (float(_MOST), 0)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Depth(Regression):
    """A distance per pixel, trained by its mean absolute error over the labelled pixels of a batch and scored by the
    root mean squared error pooled over all of them.

    Shapes: label float32 `[B, H, W]`, 255 where missing; prediction float32 `[B, H, W]`, not negative.

    Attributes:
      scales_inversely: True for distances, which a zoom by s divides by s.

    >>> Depth().unit
    'metres'
    """

    name: str = "depth"
    unit: str = "metres"
    scales_inversely: bool = True

    _ENDS: ClassVar[tuple[str, str]] = ("near", "far")

    @property
    def label_spec(self) -> LabelSpec:
        return LabelSpec(name=self.name, dtype="float32", scales_inversely=self.scales_inversely, zero_is_missing=True)

    @property
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"squared_error": (), "squared_log_error": (), "pixels": ()}

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
        known = np.asarray(label)[self._is_known(label)]
        return tuple(np.percentile(known, (2, 98)).tolist()) if known.size else None

    def _is_known(self, picture: np.ndarray) -> np.ndarray:
        return super()._is_known(picture) & (np.asarray(picture) != 0)

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

    @property
    def limits(self) -> str:
        return "Depth is in the unit and of the cameras of the training set; it is no measurement."
