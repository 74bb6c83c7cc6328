"""Classification: one class per image."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import LabelSpec
from ditask_jax.numerics import widened
from ditask_jax.tasks.base import MISSING_COLOUR, RawForm, Task, mean_over
from ditask_jax.tasks.class_map import class_palette

_SWATCH = (24, 48)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Classification(Task):
    """A class per image, scored by the share of images whose most likely class is right.

    Shapes: logits `[B, num_outputs]`; label int32 `[B]`, -1 where there is none; prediction int32 `[B]`.

    Attributes:
      class_names: one name per class.

    >>> Classification(num_outputs=2, class_names=("cat", "dog")).is_map
    False
    """

    name: str = "classification"
    loss_weight: float = 1.0
    primary_metric: str = "top1"
    higher_is_better: bool = True
    unit: str = "fraction"
    class_names: tuple[str, ...]

    @property
    def label_spec(self) -> LabelSpec:
        return LabelSpec(name=self.name, dtype="int32", num_values=self.num_outputs, is_map=False)

    @property
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        return {"correct": (), "images": ()}

    def _mask(self, label: jax.Array, valid: jax.Array | None) -> jax.Array:
        known = (label >= 0) & (label < self.num_outputs)
        return known if valid is None else known & jnp.asarray(valid).astype(bool)

    def loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """Cross-entropy, mean over the labelled images of the batch."""
        log_probability = jax.nn.log_softmax(widened(logits), axis=-1)
        is_target = label.astype(jnp.int32)[:, None] == jnp.arange(self.num_outputs, dtype=jnp.int32)[None]
        chosen = jnp.sum(jnp.where(is_target, log_probability, 0.0), axis=-1)
        return mean_over(-chosen, self._mask(label, valid))

    def decode(self, logits: jax.Array) -> jax.Array:
        return jnp.argmax(logits, axis=-1).astype(jnp.int32)

    def metric_sums(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> dict[str, jax.Array]:
        """`correct` and `images` int32 `[B]`: 1 for an image that is right, and that is scored."""
        mask = self._mask(label, valid)
        return {
            "correct": (mask & (self.decode(logits) == label)).astype(jnp.int32),
            "images": mask.astype(jnp.int32),
        }

    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        images = int(total["images"])
        return {"top1": int(total["correct"]) / images} if images else {}

    def _details(self, total: Mapping[str, np.ndarray]) -> dict[str, int]:
        return {"correct": int(total["correct"]), "images": int(total["images"])}

    def caption(self, value: np.ndarray) -> str:
        """The name of the class.

        >>> Classification(num_outputs=2, class_names=("cat", "dog")).caption(np.int32(1))
        'dog'
        """
        known = 0 <= int(value) < self.num_outputs
        return self.class_names[int(value)] if known else "no label"

    def render(self, picture: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """A field in the colour of the class; black where there is no label."""
        del value_range
        known = 0 <= int(picture) < self.num_outputs
        palette = class_palette(min(self.num_outputs, 255), has_background=False)
        colour = palette[int(picture) % 255] if known else MISSING_COLOUR
        return np.broadcast_to(np.asarray(colour, np.uint8), (*_SWATCH, 3)).copy()

    def raw_form(self, format: str) -> RawForm:
        """Number and name of the class as JSON."""
        del format
        holds = {"holds": "number and name of the class", "classes": list(self.class_names)}
        return RawForm(".json", holds, lambda value: {"class": int(value), "name": self.caption(value)})

    def colour_words(self) -> str:
        return "the class is written below the image"
