"""How far the run of a point has come, from the files in its folder."""

from ditask_jax.files import parse_json
from ditask_jax.sweeps.loading import Job

FINISHED, UNFINISHED, NEW = "finished", "unfinished", "new"


def state_of(job: Job) -> str:
    """How far a point is: finished where `evaluation.json` has the scores of its last step, unfinished, or new."""
    evaluation = read_evaluation(job)
    if evaluation is not None and evaluation.get("step") == total_steps(job):
        return FINISHED
    return UNFINISHED if (job.workdir / "config.json").is_file() else NEW


def read_evaluation(job: Job) -> dict | None:
    """Content of a point's `evaluation.json`; None where there is none that can be read."""
    try:
        found = parse_json((job.workdir / "evaluation.json").read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def total_steps(job: Job) -> int:
    """Optimiser steps of the whole training; opens the data where the configuration counts epochs."""
    if job.config.total_steps is not None:
        return job.config.total_steps
    # Imported late: JAX and the model code come with it.
    from ditask_jax.training.build import build_source, training_length

    return training_length(job.config, len(build_source(job.config, "train")))[1]


def score_of(job: Job, metric: str) -> float | None:
    """A number of a point's evaluation.

    Args:
        job: The point.
        metric: "delta_m", or task and metric such as "semseg/mIoU".
    """
    evaluation = read_evaluation(job) or {}
    task, slash, name = metric.partition("/")
    found = evaluation.get("scores", {}).get(task, {}).get(name) if slash else evaluation.get(metric)
    return found if isinstance(found, int | float) else None


def has_unknown_scores(job: Job) -> bool:
    """Whether a score of a point's evaluation is unknown: nothing was labelled, or predictions are not finite."""
    scores = (read_evaluation(job) or {}).get("scores", {})
    return any(value is None for found in scores.values() for value in found.values())
