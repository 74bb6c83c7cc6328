"""Tasks whose label is one bit per pixel: balanced binary cross-entropy, decoded to probabilities."""

import abc
import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import IGNORE, LabelSpec
from ditask_jax.numerics import widened
from ditask_jax.tasks.base import IGNORED_BINARY_COLOUR, RawForm, Swatch, Task, mean_over, valid_images

GREY_BAR = tuple((level,) * 3 for level in range(0, 256, 17))
"""The colours of probabilities from 0 to 1."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class BinaryMapTask(Task):
    """One bit per pixel; 255 means no label.

    Shapes: label uint8 `[B, H, W]` of 0 and 1; prediction float32 `[B, H, W]`, the probability of 1.
    """

    num_outputs: int = 1
    higher_is_better: bool = True
    unit: str = "fraction"

    @property
    def label_spec(self) -> LabelSpec:
        return LabelSpec(name=self.name, num_values=2, pad_missing=bool(self.declaration))

    @abc.abstractmethod
    def _positive_weight(self, positive: jax.Array, negative: jax.Array) -> jax.Array:
        """Weight w of positive pixels (1 - w for negative ones) from the masks of the batch."""

    def loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """`[w sum_pos softplus(-z) + (1 - w) sum_neg softplus(z)] / labelled pixels`, over the batch."""
        logit = widened(logits[..., 0])
        mask = (label != IGNORE) & valid_images(valid, label.shape[0])
        is_positive = label >= 0.5
        weight = self._positive_weight(is_positive & mask, ~is_positive & mask)
        signed = jnp.where(is_positive, -logit, logit)
        return mean_over(jnp.where(is_positive, weight, 1.0 - weight) * jax.nn.softplus(signed), mask)

    def decode(self, logits: jax.Array) -> jax.Array:
        return jax.nn.sigmoid(logits[..., 0].astype(jnp.float32))

    def raw_form(self, format: str) -> RawForm:
        """16-bit PNG, whatever is asked."""
        del format
        levels = lambda probability: np.round(probability.astype(np.float64) * 65535).clip(0, 65535).astype(np.uint16)
        return RawForm(".png", {"holds": "16-bit: probability times 65535", "unit": "1"}, levels)

    def colour_key(self, values: Sequence[np.ndarray] | None = None) -> list[Swatch]:
        """Grey levels of probabilities; the two values where labels alone are shown."""
        if values and all(np.asarray(shown).dtype.kind in "iub" for shown in values):
            names = {0: Swatch("no", ((0, 0, 0),)), 1: Swatch("yes", ((255, 255, 255),))}
            entries = [names[k] for k in names if any((np.asarray(shown) == k).any() for shown in values)]
        else:
            entries = [Swatch("probability 0 to 1", GREY_BAR)]
        if any((np.asarray(shown) == IGNORE).any() for shown in values or ()):
            entries.append(Swatch("no label", (IGNORED_BINARY_COLOUR,)))
        return entries

    def colour_words(self) -> str:
        return "black to white: probability 0 to 1; red: no label"

    def render(self, picture: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """Grey levels, black 0 to white 1; dull red where there is no label."""
        del value_range
        values = np.asarray(picture)
        grey = np.round(np.clip(values, 0, 1).astype(np.float32) * 255).astype(np.uint8)
        colour = np.repeat(grey[..., None], 3, axis=-1)
        colour[values == IGNORE] = IGNORED_BINARY_COLOUR
        return colour
