"""What a task is: output channels, loss, decoding, metric sums, scores and pictures, behind one interface.

Metrics are sums. `metric_sums` turns a batch into arrays whose leading axes run over images (and, for real-valued
quantities, over image rows); `accumulate` adds them on the host in int64 and float64, image by image and in order;
`finalize` turns totals into scores. Counts therefore do not depend on how examples are split into batches or over
devices, and real-valued totals depend on it only through the last bit of single pixels.
"""

import abc
import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import LabelSpec

IGNORED_COLOUR = (255, 255, 255)
"""Colour of pixels without a label in class maps."""

MISSING_COLOUR = (0, 0, 0)
"""Colour of pixels without a label in normals and depth."""

IGNORED_BINARY_COLOUR = (200, 60, 60)
"""Colour of pixels without a label in grey pictures, where white means one."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Task(abc.ABC):
    """One prediction task.

    Shapes: logits `[B, H, W, num_outputs]` at the resolution of the label (`[B, num_outputs]` for a class per picture);
    labels as in a batch; `valid` `[B]`, False for padded examples, which count nowhere.

    Attributes:
      name: task id, the key of its label, logits and scores.
      num_outputs: channels of the logits.
      loss_weight: factor of the loss in the total.
      primary_metric: the score that enters delta_m.
      higher_is_better: direction of the primary metric.
      unit: unit of the primary metric: "fraction", "degrees", "metres", "pixels" or "inverse" (depth).
      on_host: True when scoring runs in NumPy on the host: `host_sums(decode(logits), label, valid)` takes the place
        of `metric_sums`.
    """

    name: str
    num_outputs: int
    loss_weight: float
    primary_metric: str
    higher_is_better: bool
    unit: str
    on_host: bool = False

    @property
    @abc.abstractmethod
    def label_spec(self) -> LabelSpec:
        """How the label map behaves under joint augmentation."""

    @property
    def is_map(self) -> bool:
        """Whether logits and label are maps, not one vector and one class per picture."""
        return self.label_spec.is_map

    @property
    @abc.abstractmethod
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        """Shape of every total; an array of `metric_sums` has these as its last axes, images and rows before them."""

    @abc.abstractmethod
    def loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        """Unweighted loss over the whole batch, a float32 scalar; 0 with zero gradient when no pixel is valid."""

    @abc.abstractmethod
    def decode(self, logits: jax.Array) -> jax.Array:
        """Prediction in the units of the label: class ids, probabilities, unit normals or depth."""

    def metric_sums(
        self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None
    ) -> dict[str, jax.Array] | None:
        """Partial sums of a batch, for `accumulate`; safe under `jax.jit`; None where `on_host`."""
        del logits, label, valid
        return None

    def host_sums(
        self, prediction: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """Partial sums of a batch of decoded predictions, in NumPy; only where `on_host`."""
        raise NotImplementedError(f"{self.name} is scored on the device: use metric_sums")

    @abc.abstractmethod
    def render(self, picture: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """Colour picture uint8 `[H, W, 3]` of one prediction or label; `value_range` matters to depth only."""

    def caption(self, value: np.ndarray) -> str:
        """What to write on the picture of one prediction or label; nothing for maps."""
        del value
        return ""

    def value_range(self, label: np.ndarray) -> tuple[float, float] | None:
        """Range of values to render predictions and label on one scale; None where the scale is fixed."""
        del label
        return None

    @abc.abstractmethod
    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        """Scores of exact totals (shapes as in `sum_shapes`)."""

    def _details(self, total: Mapping[str, np.ndarray]) -> dict[str, Any]:
        del total
        return {}

    def accumulate(
        self, total: Mapping[str, np.ndarray] | None, batch_sums: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """Adds the sums of one batch to a running total (None at the start) in int64 and float64; changes neither.

        Images are added one after another, so totals do not depend on where batches end, to the last bit.
        """
        result = {}
        for name, shape in self.sum_shapes.items():
            per_image = _per_image(np.asarray(batch_sums[name]), shape)
            running = np.zeros(shape, per_image.dtype) if total is None else total[name]
            for image in per_image:
                running = running + image
            result[name] = np.asarray(running)
        return result

    def finalize(self, total: Mapping[str, np.ndarray] | None) -> dict[str, float]:
        """Scores of a total (or of the sums of a single batch): fractions in 0..1, degrees, metres.

        A score that nothing was measured for (no labelled pixel in the whole split), or that is no finite number, is
        unknown and left out. The mean over classes counts a class that is absent as 0, as published scores do.
        """
        if total is None:
            return {}
        return {name: value for name, value in self._scores(self._complete(total)).items() if math.isfinite(value)}

    def details(self, total: Mapping[str, np.ndarray] | None) -> dict[str, Any]:
        """Finer results behind the scores, ready for JSON: per class, per threshold; empty without scores."""
        return self._details(self._complete(total)) if self.finalize(total) else {}

    def _complete(self, total: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        if all(np.shape(total[name]) == shape for name, shape in self.sum_shapes.items()):
            return total
        return self.accumulate(None, total)


def _per_image(sums: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Collapses rows: `[B, ..., *shape]` to `[B, *shape]` in int64 or float64."""
    dtype = np.int64 if sums.dtype.kind in "iub" else np.float64
    return sums.reshape(len(sums), -1, *shape).sum(axis=1, dtype=dtype) if len(sums) else np.zeros((0, *shape), dtype)


def valid_images(valid: jax.Array | None, images: int) -> jax.Array:
    """The mask `[B, 1, 1]` of real (not padded) examples; None means all."""
    mask = jnp.ones((images,), bool) if valid is None else jnp.asarray(valid).astype(bool)
    return mask.reshape(images, 1, 1)


def mean_over(values: jax.Array, mask: jax.Array) -> jax.Array:
    """Mean of the values where the mask holds; 0 with zero gradient where it holds nowhere."""
    count = jnp.maximum(jnp.sum(mask, dtype=jnp.int32), 1).astype(jnp.float32)
    return jnp.sum(jnp.where(mask, values, 0.0)) / count


def multi_task_loss(
    tasks: tuple[Task, ...],
    logits: Mapping[str, jax.Array],
    labels: Mapping[str, jax.Array],
    valid: jax.Array | None = None,
) -> tuple[jax.Array, dict[str, jax.Array]]:
    """Weighted total of the task losses, and the unweighted loss of each task.

    >>> import jax.numpy as jnp
    >>> from ditask_jax.tasks import tasks
    >>> depth = tasks("depth", dataset="nyud")
    >>> total, losses = multi_task_loss(depth, {"depth": jnp.ones((1, 2, 2, 1))}, {"depth": jnp.full((1, 2, 2), 3.0)})
    >>> float(total), float(losses["depth"])
    (2.0, 2.0)
    """
    losses = {task.name: task.loss(logits[task.name], labels[task.name], valid) for task in tasks}
    return sum((task.loss_weight * losses[task.name] for task in tasks), jnp.zeros((), jnp.float32)), losses
