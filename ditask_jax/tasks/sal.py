"""Saliency: which pixels belong to the object that catches the eye."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import IGNORE
from ditask_jax.tasks.base import valid_images
from ditask_jax.tasks.binary_map import BinaryMapTask

THRESHOLDS = tuple(round(0.20 + 0.05 * k, 2) for k in range(15))
"""Probabilities 0.20, 0.25, ..., 0.90 at which maps are binarised (strictly greater)."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Saliency(BinaryMapTask):
    """Salient or not, scored per image at fifteen thresholds, averaged over images, best threshold taken.

    `mIoU` is the greatest mean intersection over union (an image empty in both prediction and label counts 1);
    `maxF` the greatest F1 of mean precision and mean recall (an empty prediction has precision 0, an empty label
    recall 0). Neither compares with the dataset-level F-beta scores (around 84) that other papers report.

    >>> Saliency().sum_shapes["iou"]
    (15,)
    """

    name: str = "sal"
    loss_weight: float = 5.0
    primary_metric: str = "mIoU"

    @property
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        per_threshold = (len(THRESHOLDS),)
        return {"iou": per_threshold, "precision": per_threshold, "recall": per_threshold, "images": ()}

    def _positive_weight(self, positive: jax.Array, negative: jax.Array) -> jax.Array:
        positives = jnp.sum(positive, dtype=jnp.int32).astype(jnp.float32)
        negatives = jnp.sum(negative, dtype=jnp.int32).astype(jnp.float32)
        return negatives / jnp.maximum(positives + negatives, 1.0)

    def metric_sums(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> dict[str, jax.Array]:
        """`iou`, `precision`, `recall` float32 `[B, thresholds]`, and `images` int32 `[B]` (1 where scored)."""
        images = label.shape[0]
        mask = (label != IGNORE) & valid_images(valid, images)
        levels = len(THRESHOLDS) + 1
        # How many thresholds a pixel exceeds; a histogram of that, per image and label, holds all fifteen maps.
        thresholds = jnp.asarray(THRESHOLDS, jnp.float32).reshape(1, 1, 1, -1)
        level = jnp.sum(self.decode(logits)[..., None] > thresholds, axis=-1, dtype=jnp.int32)
        cell = jnp.where(mask, level + levels * (label >= 0.5), 2 * levels).reshape(images, -1)
        count = jax.vmap(lambda cells: jnp.bincount(cells, length=2 * levels + 1))(cell)
        at_least = jnp.cumsum(count[:, : 2 * levels].reshape(images, 2, levels)[..., ::-1], axis=-1)[..., ::-1]
        hit = at_least[:, 1, 1:]
        predicted = hit + at_least[:, 0, 1:]
        expected = jnp.broadcast_to(at_least[:, 1, :1], hit.shape)
        union = predicted + expected - hit
        scored = jnp.any(mask, axis=(1, 2))
        counted = scored.astype(jnp.float32)[:, None]
        return {
            "iou": jnp.where(union == 0, 1.0, hit / jnp.maximum(union, 1)) * counted,
            "precision": hit / jnp.maximum(predicted, 1) * counted,
            "recall": hit / jnp.maximum(expected, 1) * counted,
            "images": scored.astype(jnp.int32),
        }

    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        if total["images"] == 0:
            return {}
        curves = self._details(total)
        return {"mIoU": max(curves["mean_iou"]), "maxF": max(curves["f1"])}

    def _details(self, total: Mapping[str, np.ndarray]) -> dict[str, Any]:
        images = max(int(total["images"]), 1)
        precision, recall = total["precision"] / images, total["recall"] / images
        f1 = 2 * precision * recall / np.maximum(precision + recall, 1e-12)
        return {
            "thresholds": list(THRESHOLDS),
            "mean_iou": (total["iou"] / images).tolist(),
            "f1": f1.tolist(),
            "images": int(total["images"]),
        }
