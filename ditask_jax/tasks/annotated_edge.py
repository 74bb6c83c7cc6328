"""Edges that several people drew, scored as the Berkeley benchmark does."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.labels import ANNOTATOR_BITS, IGNORE, MOST_ANNOTATORS, LabelSpec, unpack_annotators
from ditask_jax.tasks.base import Swatch
from ditask_jax.tasks.binary_map import GREY_BAR
from ditask_jax.tasks.edge import EdgeDetection, details_at_best
from ditask_jax.tasks.edge_matching import FINE_THRESHOLDS, match_annotators


@dataclasses.dataclass(frozen=True, kw_only=True)
class AnnotatedEdges(EdgeDetection):
    """Edge or not, after several annotators: ODS and OIS of the Berkeley benchmark.

    Predictions are matched with each annotator in turn. A predicted pixel is right if it is matched with anybody's;
    recall is over the pixels of all annotators. `odsF` is the F-measure at the one threshold of 99 that is best for the
    whole data set, `oisF` that of the best threshold of each image.

    Training takes for an edge what at least `agreement` of the annotators drew, for none what nobody drew, and leaves
    out the pixels in between.

    Shapes: label uint16 `[B, H, W]` as `ditask_jax.labels.pack_annotators` makes it; prediction as of `EdgeDetection`.

    Attributes:
      agreement: share of annotators, in 0..1.

    References: Arbelaez et al., Contour detection and hierarchical image segmentation, 2011 (the measure); Liu et al.,
    Richer convolutional features for edge detection, 2017 (what training leaves out).

    >>> AnnotatedEdges().label_spec.dtype
    'uint16'
    """

    keeps_lines: bool = True
    agreement: float = 0.3

    @property
    def label_spec(self) -> LabelSpec:
        return LabelSpec(name=self.name, dtype="uint16", keeps_lines=self.keeps_lines)

    @property
    def sum_shapes(self) -> Mapping[str, tuple[int, ...]]:
        per_threshold = (len(FINE_THRESHOLDS),)
        return {
            "right": per_threshold,
            "predicted": per_threshold,
            "matched": per_threshold,
            "actual": (),
            "best": (4,),
        }

    def loss(self, logits: jax.Array, label: jax.Array, valid: jax.Array | None = None) -> jax.Array:
        label = label.astype(jnp.int32)
        annotators, votes = label >> MOST_ANNOTATORS, jax.lax.population_count(label & ANNOTATOR_BITS)
        is_edge = (votes > 0) & (votes >= self.agreement * annotators)
        known = (annotators > 0) & (is_edge | (votes == 0))
        return super().loss(logits, jnp.where(known, is_edge, IGNORE).astype(jnp.uint8), valid)

    def _image_sums(self, prediction: np.ndarray, label: np.ndarray) -> dict[str, Any]:
        """`right`, `predicted` and `matched` by threshold, `actual`, and these four at the best threshold, `best`."""
        right, predicted, matched, actual = match_annotators(prediction, *unpack_annotators(label), self.match_distance)
        k = int(np.argmax(f_measure(right, predicted, matched, actual)))
        best = [right[k], predicted[k], matched[k], actual]
        return {"right": right, "predicted": predicted, "matched": matched, "actual": actual, "best": best}

    def _scores(self, total: Mapping[str, np.ndarray]) -> dict[str, float]:
        scores = super()._scores(total)
        return scores | {"oisF": float(f_measure(*total["best"]))} if scores else {}

    def _details(self, total: Mapping[str, np.ndarray]) -> dict[str, Any]:
        right, predicted, matched, actual = (total[name] for name in ("right", "predicted", "matched", "actual"))
        f1 = f_measure(right, predicted, matched, actual)
        return details_at_best(FINE_THRESHOLDS, f1, right, predicted, matched, actual)

    def colour_key(self, values: Sequence[np.ndarray] | None = None) -> list[Swatch]:
        del values
        return [Swatch(self.colour_words(), GREY_BAR)]

    def colour_words(self) -> str:
        return "probability, or share of annotators, 0 to 1"

    def render(self, picture: np.ndarray, value_range: tuple[float, float] | None = None) -> np.ndarray:
        """Grey levels of probabilities; of labels, the share of annotators; dull red where there is no label."""
        values = np.asarray(picture)
        if values.dtype.kind in "iu":
            masks, known = unpack_annotators(values)
            values = np.where(known, masks.mean(0) if len(masks) else 0.0, IGNORE)
        return super().render(values, value_range)


def f_measure(right, predicted, matched, actual) -> np.ndarray:
    """Harmonic mean of precision, `right / predicted`, and recall, `matched / actual`; 0 where both are.

    >>> float(f_measure(30, 40, 40, 80))
    0.6
    """
    precision, recall = right / np.maximum(predicted, 1), matched / np.maximum(actual, 1)
    return 2 * precision * recall / np.maximum(precision + recall, 1e-12)
