"""From images of any size to predictions of every task: resized or tiled, in the units of the labels, as files."""

from ditask_jax.prediction.predictor import Predictor

__all__ = ["Predictor"]
