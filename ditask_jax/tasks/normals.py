"""Surface normals."""

import dataclasses
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import IGNORE, LabelSpec
from ditask_jax.numerics import widened
from ditask_jax.tasks.base import MISSING_COLOUR, RawForm, Swatch, Task, mean_over, valid_images

WITHIN_DEGREES = (11.25, 22.5, 30.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class SurfaceNormals(Task):
    """A unit vector (x, y, z) per pixel, scored by the mean angular error over all labelled pixels.

    Shapes: label float32 `[B, H, W, 3]`, 255 in all channels where missing; prediction float32 `[B, H, W, 3]`.

    Scores: `mean` in degrees (published under the name "rmse"; angles as `2 atan2(|p - n|, |p + n|)`, exact near 0 and
    180 degrees), `mean_arccos` (the same from the clipped dot product), `rmse_true` (root of the mean squared angle),
    `within_11.25`, `within_22.5`, `within_30` (fractions of pixels). The median is not a sum and is not reported.

    >>> SurfaceNormals().higher_is_better
    False
    """

    name: str = "normals"
    num_outputs: int = 3
    loss_weight: float = 10.0
    primary_metric: str = "mean"
    higher_is_better: bool = False
    unit: str = "degrees"

    @property
    def label_spec(self) -> LabelSpec:
        return LabelSpec(
            name=self.name,
            channels=3,
            dtype="float32",
            interpolation="cubic",
            is_direction_field=True,
            zero_is_missing=True,
        )

    @property
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        within = (len(WITHIN_DEGREES),)
        return {"angle": (), "squared_angle": (), "angle_arccos": (), "pixels": (), "within": within}

    def loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """L1 distance of the normalised prediction, mean over the labelled components (three per pixel)."""
        mask = (label != IGNORE) & valid_images(valid, label.shape[0])[..., None]
        return mean_over(jnp.abs(_normalise(logits) - label.astype(jnp.float32)), mask)

    def decode(self, logits: jax.Array) -> jax.Array:
        return _normalise(logits)

    def metric_sums(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> dict[str, jax.Array]:
        """Sums over image rows, float32 or int32 `[B, H]`: degrees, squared degrees, pixels, pixels within angles."""
        mask = jnp.all(label != IGNORE, axis=-1) & valid_images(valid, label.shape[0])
        normal = jnp.where(mask[..., None], label.astype(jnp.float32), 0.0)
        prediction = _normalise(logits)
        angle = jnp.rad2deg(2 * jnp.arctan2(_length(prediction - normal), _length(prediction + normal)))
        cosine = jnp.clip(jnp.sum(prediction * normal, axis=-1), -1.0, 1.0)

        def over_rows(values: jax.Array) -> jax.Array:
            return jnp.sum(jnp.where(mask, values, 0), axis=2)

        within = [over_rows((angle < limit).astype(jnp.int32)) for limit in WITHIN_DEGREES]
        return {
            "angle": over_rows(angle),
            "squared_angle": over_rows(jnp.square(angle)),
            "angle_arccos": over_rows(jnp.rad2deg(jnp.arccos(cosine))),
            "pixels": over_rows(mask.astype(jnp.int32)),
            "within": jnp.stack(within, axis=-1),
        }

    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        pixels = int(total["pixels"])
        if pixels == 0:
            return {}
        scores = {
            "mean": float(total["angle"] / pixels),
            "mean_arccos": float(total["angle_arccos"] / pixels),
            "rmse_true": float(np.sqrt(total["squared_angle"] / pixels)),
        }
        for limit, count in zip(WITHIN_DEGREES, total["within"], strict=True):
            scores[f"within_{limit:g}"] = float(count / pixels)
        return scores

    def render(self, picture: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """Red, green, blue = (x, y, z) from -1..1 to 0..255; black where there is no label."""
        del value_range
        normal = np.asarray(picture, np.float32)
        colour = np.round((np.clip(normal, -1, 1) + 1) * 127.5).astype(np.uint8)
        missing = np.all(normal == IGNORE, axis=-1) | np.all(normal == 0, axis=-1)
        colour[missing] = MISSING_COLOUR
        return colour

    @property
    def value_unit(self) -> str:
        """None: components of unit vectors."""
        return ""

    def raw_form(self, format: str) -> RawForm:
        """float32, or 16 bits per component."""
        if format != "png":
            return RawForm(".npy", {"holds": "float32 [H, W, 3]; unit vectors (x, y, z)", "unit": "1"})
        levels = lambda normal: np.round((normal.astype(np.float64) + 1) / 2 * 65535).clip(0, 65535).astype(np.uint16)
        holds = "16-bit RGB: v = 2 RGB / 65535 - 1; unit vectors (x, y, z)"
        return RawForm(".png", {"holds": holds, "unit": "1"}, levels)

    def colour_key(self, values: Sequence[np.ndarray] | None = None) -> list[Swatch]:
        del values
        return [
            Swatch("x, from left to right", ((0, 128, 128), (255, 128, 128))),
            Swatch("y, from top to bottom", ((128, 0, 128), (128, 255, 128))),
            Swatch("z", ((128, 128, 0), (128, 128, 255))),
        ]

    def colour_words(self) -> str:
        return "red: x, green: y, blue: z of the unit normal; black: no label"


def _length(vector: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(vector), axis=-1))


def _normalise(vector: jax.Array) -> jax.Array:
    """`v / (|v| + 1e-12)`; the zero vector stays zero and gets no gradient, for its direction is arbitrary."""
    vector = widened(vector)
    squared = jnp.sum(jnp.square(vector), axis=-1, keepdims=True)
    is_zero = squared == 0
    length = jnp.sqrt(jnp.where(is_zero, 1.0, squared))
    return vector * jnp.where(is_zero, 0.0, 1.0 / (length + 1e-12))
