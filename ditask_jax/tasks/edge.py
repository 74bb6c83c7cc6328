"""Boundaries between things."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import LabelSpec
from ditask_jax.tasks.binary_map import BinaryMapTask
from ditask_jax.tasks.edge_matching import NUM_THRESHOLDS, THRESHOLDS, match_edges


@dataclasses.dataclass(frozen=True, kw_only=True)
class EdgeDetection(BinaryMapTask):
    """Edge or not, scored by the F-measure at the one threshold that is best for the whole data set (ODS-F).

    Every image is thinned and matched as `ditask_jax.tasks.edge_matching` describes; counts are added over the data
    set at each of 33 thresholds; `odsF` is the greatest `2 matched / (predicted + actual)`.

    Attributes:
      match_distance: greatest distance of a matched pair of pixels, as a fraction of the image diagonal (0.0075;
        published NYUD numbers use 0.011).
      keeps_lines: lines stay whole where labels shrink to the size of the network (False, as in published scores: the
        nearest pixels are taken, which cuts lines to dots).

    >>> EdgeDetection().on_host
    True
    """

    name: str = "edge"
    loss_weight: float = 50.0
    primary_metric: str = "odsF"
    on_host: bool = True
    match_distance: float = 0.0075
    keeps_lines: bool = False

    @property
    def label_spec(self) -> LabelSpec:
        return dataclasses.replace(super().label_spec, keeps_lines=self.keeps_lines)

    @property
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        per_threshold = (NUM_THRESHOLDS,)
        return {"matched": per_threshold, "predicted": per_threshold, "actual": ()}

    def _positive_weight(self, positive: jax.Array, negative: jax.Array) -> jax.Array:
        del positive, negative
        return jnp.float32(0.95)

    def host_sums(
        self, prediction: np.ndarray, label: np.ndarray, valid: np.ndarray | None = None
    ) -> dict[str, np.ndarray]:
        """`matched`, `predicted` int64 `[B, thresholds]` and `actual` int64 `[B]`: numbers of edge pixels."""
        images = len(label)
        sums = {name: np.zeros((images, *shape), np.int64) for name, shape in self.sum_shapes.items()}
        for k in range(images):
            if valid is None or valid[k]:
                for name, count in self._image_sums(prediction[k], label[k]).items():
                    sums[name][k] = count
        return sums

    def _image_sums(self, prediction: np.ndarray, label: np.ndarray) -> dict[str, Any]:
        """The sums of one image."""
        matched, predicted, actual = match_edges(prediction, label, self.match_distance)
        return {"matched": matched, "predicted": predicted, "actual": actual}

    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        # Without a true edge there is nothing to find; predictions alone cannot be scored.
        return {"odsF": max(self._details(total)["f1"])} if total["actual"] > 0 else {}

    def _details(self, total: Mapping[str, np.ndarray]) -> dict[str, Any]:
        matched, predicted, actual = total["matched"], total["predicted"], int(total["actual"])
        f1 = 2 * matched / np.maximum(predicted + actual, 1)
        return details_at_best(THRESHOLDS, f1, matched, predicted, matched, actual)


def details_at_best(
    thresholds: Sequence[float], f1: np.ndarray, right: np.ndarray, predicted: np.ndarray, matched: np.ndarray, actual
) -> dict[str, Any]:
    """The F-measure by threshold; precision, `right / predicted`, and recall, `matched / actual`, where it is best."""
    best = int(np.argmax(f1))
    return {
        "thresholds": list(thresholds),
        "f1": f1.tolist(),
        "best_threshold": thresholds[best],
        "precision": float(right[best] / max(predicted[best], 1)),
        "recall": float(matched[best] / max(actual, 1)),
    }
