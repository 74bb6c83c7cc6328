"""A trained model from a run's folder, without its data."""

import dataclasses
from pathlib import Path

from ditask_jax.errors import CheckpointError
from ditask_jax.training.build import Experiment, build_experiment, known_examples, training_length
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.fingerprint import fingerprint
from ditask_jax.training.optimizer import make_optimizer
from ditask_jax.training.rundir import RunDir
from ditask_jax.training.schedules import make_schedule


@dataclasses.dataclass(frozen=True)
class Restored:
    """The newest whole checkpoint of a run.

    Attributes:
      experiment: tasks, wrapped model and plan.
      step: optimiser steps it was trained for.
      state: (trainable, stats).
      rejected: (step, reason) of newer checkpoints that were passed over.
    """

    experiment: Experiment
    step: int
    state: tuple
    rejected: tuple[tuple[int, str], ...]


def restore_run(workdir: str | Path, weights: str | Path | None = None) -> Restored:
    """Builds the model of a run and loads its newest whole checkpoint.

    Args:
      workdir: the run's folder.
      weights: the weight file that the run started from, where that has moved.

    Raises:
      CheckpointError: no run, no checkpoint, or frozen weights other than it was trained on.
    """
    run = RunDir(workdir)
    config = run.load_config()
    if weights is not None and config.backbone.weights is not None:
        config.backbone.weights = str(weights)
    experiment = build_experiment(config)
    # Only the structure of the optimiser's state matters here, and no schedule's length changes that.
    steps_per_epoch, total_steps = training_length(config, known_examples(config) or config.batch_size)
    schedule = make_schedule(config.optimizer, steps_per_epoch, total_steps, config.batch_size)
    parts = experiment.parts
    opt_state = make_optimizer(config.optimizer, schedule, parts.trainable).init(parts.trainable)
    like = {"trainable": parts.trainable, "opt_state": opt_state, "stats": parts.stats}
    with Checkpointer(run.checkpoints, read_only=True) as checkpointer:
        found = checkpointer.restore_latest_verified(like)
        rejected = tuple(checkpointer.rejected)
    if found is None:
        raise CheckpointError(f"workdir: '{run.path}' holds no checkpoint yet; train first")
    step, state, meta = found
    if meta.get("backbone") != fingerprint(parts.frozen):
        raise CheckpointError(
            f"checkpoint: step {step} in '{run.checkpoints}' was trained on other frozen weights; "
            "put back the weight file it was started with"
        )
    return Restored(experiment, step, (state["trainable"], state["stats"]), rejected)
