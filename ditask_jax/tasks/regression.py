"""A number per pixel: heat maps, densities, heights, whatever has no task of its own."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import ClassVar

import cv2
import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import IGNORE, LabelSpec
from ditask_jax.numerics import widened
from ditask_jax.tasks.base import MISSING_COLOUR, Swatch, Task, mean_over, valid_images


@dataclasses.dataclass(frozen=True, kw_only=True)
class Regression(Task):
    """A number per pixel, of any sign, in any unit; zero is a value like any other.

    Shapes: label float32 `[B, H, W]`, 255 where missing (labels keep off that value by their last bit); prediction
    float32 `[B, H, W]`.

    Scores: `rmse`, the root of the mean squared error pooled over all labelled pixels, and `mae`, the mean absolute
    error.

    >>> Regression(name="heat").score_text(0.125)
    '0.12'
    """

    num_outputs: int = 1
    loss_weight: float = 1.0
    primary_metric: str = "rmse"
    higher_is_better: bool = False
    unit: str = ""

    _ENDS: ClassVar[tuple[str, str]] = ("low", "high")  # of the colours, in words

    @property
    def label_spec(self) -> LabelSpec:
        return LabelSpec(name=self.name, dtype="float32", pad_missing=True)

    @property
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"squared_error": (), "absolute_error": (), "pixels": ()}

    def loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """Absolute error, mean over the labelled pixels of the batch."""
        mask = (label != IGNORE) & valid_images(valid, label.shape[0])
        return mean_over(jnp.abs(widened(logits[..., 0]) - label.astype(jnp.float32)), mask)

    def decode(self, logits: jax.Array) -> jax.Array:
        return logits[..., 0].astype(jnp.float32)

    def metric_sums(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> dict[str, jax.Array]:
        """Sums over image rows `[B, H]`: squared error, absolute error, pixels."""
        mask = (label != IGNORE) & valid_images(valid, label.shape[0])
        error = jnp.where(mask, self.decode(logits) - label.astype(jnp.float32), 0.0)
        return {
            "squared_error": jnp.sum(jnp.square(error), axis=2),
            "absolute_error": jnp.sum(jnp.abs(error), axis=2),
            "pixels": jnp.sum(mask, axis=2, dtype=jnp.int32),
        }

    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        pixels = int(total["pixels"])
        if pixels == 0:
            return {}
        return {
            "rmse": float(np.sqrt(total["squared_error"] / pixels)),
            "mae": float(total["absolute_error"] / pixels),
        }

    def value_range(self, label: np.ndarray) -> tuple[float, float] | None:
        """Smallest and largest labelled value; None if there is none."""
        known = np.asarray(label)[self._is_known(label)]
        return (float(known.min()), float(known.max())) if known.size else None

    def _is_known(self, picture: np.ndarray) -> np.ndarray:
        """Where a prediction or label has a value."""
        return np.asarray(picture) != IGNORE

    def render(self, picture: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """Viridis from low (dark blue) to high (yellow) over `value_range`; black where there is no label."""
        values = np.asarray(picture, np.float32)
        known = self._is_known(values)
        low, high = value_range or self.value_range(values) or (0.0, 1.0)
        level = np.clip((np.where(known, values, low) - low) / max(high - low, 1e-6), 0, 1)
        colour = cv2.applyColorMap(np.round(level * 255).astype(np.uint8), cv2.COLORMAP_VIRIDIS)[..., ::-1].copy()
        colour[~known] = MISSING_COLOUR
        return colour

    def colour_key(self, values: Sequence[np.ndarray] | None = None) -> list[Swatch]:
        del values
        bar = cv2.applyColorMap(np.arange(256, dtype=np.uint8)[:, None], cv2.COLORMAP_VIRIDIS)[::17, 0, ::-1]
        low, high = self._ENDS
        return [Swatch(f"from {low} to {high}, as noted; black: no label", tuple(map(tuple, bar.tolist())))]

    def colour_words(self) -> str:
        low, high = self._ENDS
        return f"from {low} (dark) to {high} (bright), on the target's scale; black: no label"
