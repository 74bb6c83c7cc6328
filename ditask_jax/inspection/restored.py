"""One trained run taken apart for drawing: predictions, spectra, movement, from a single restore and merge."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditask_jax.adapters.merging import detach, merge
from ditask_jax.inspection.movement import movements
from ditask_jax.inspection.spectra import layer_spectra
from ditask_jax.nn.filling import filled
from ditask_jax.pictures.movement import Movement
from ditask_jax.pictures.spectra import LayerSpectra
from ditask_jax.prediction.predictor import Prediction, Predictor
from ditask_jax.training.restoring import restore_run


@dataclasses.dataclass(frozen=True)
class Inspection:
    """What there is to draw of one run.

    Attributes:
      step: of the checkpoint.
      predictions: of the pictures that were handed over, in their order.
      spectra: layer by layer; empty where the method moves no singular values.
      movements: layer by layer.
    """

    step: int
    predictions: list[Prediction]
    spectra: list[LayerSpectra]
    movements: list[Movement]


def inspect_run(workdir: str | Path, images: Sequence[np.ndarray] = (), weights: bool = True) -> Inspection:
    """Restores a run once and reads out what is to be drawn.

    Args:
      workdir: the run's folder.
      images: pictures to predict, uint8 `[H, W, 3]`.
      weights: whether spectra and movement are wanted.

    Raises:
      CheckpointError: no run, no checkpoint, or other frozen weights than it was trained on.
    """
    run = restore_run(workdir)
    model, config = run.experiment.model, run.experiment.config
    merged = merge(model, run.state)
    predictions = []
    if len(images):
        options = {"resize": config.data.resize, "dtype": run.experiment.dtype}
        predictions = Predictor(merged, run.experiment.tasks, **options)(images)
    spectra = layer_spectra(filled(model, run.state)) if weights else []
    moved = movements(detach(model), merged) if weights else []
    return Inspection(run.step, predictions, spectra, moved)
