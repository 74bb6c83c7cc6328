"""What is looked at before the first training starts."""

import contextlib
from collections.abc import Iterator, Sequence

from ditask_jax.config import flatten
from ditask_jax.errors import DitaskError, WeightsError
from ditask_jax.sweeps.loading import Job
from ditask_jax.training.build import build_source, describe_plan, weights_path
from ditask_jax.training.rundir import RunDir

# Fields that neither the plan of a model nor its sources depend on: points that differ in them alone are checked once.
_OF_TRAINING = ("seed", "optimizer.", "checkpoint.", "total_", "eval_every_", "log_every_", "checkpoint_every_")


def check_folders(jobs: Sequence[Job]) -> None:
    """Looks for run folders of other configurations, finished ones too: their scores are not those of the points.

    Raises:
        DitaskError: The first one, with the name of its point.
    """
    for job in jobs:
        with _named(job):
            RunDir(job.workdir).check(job.config)


def check_jobs(jobs: Sequence[Job], *, data: bool = True) -> None:
    """Plans every model, and looks for weights and data.

    Args:
        jobs: Points to be run.
        data: Whether the data must be there, which it need not where others will train.

    Raises:
        DitaskError: The first thing wrong, with the name of its point.
    """
    use_no_device()
    planned, opened = set(), set()
    for job in jobs:
        with _named(job):
            fields = {name: value for name, value in flatten(job.config).items() if not name.startswith(_OF_TRAINING)}
            if (key := repr(fields)) not in planned:
                planned.add(key)
                describe_plan(job.config)
                _check_weights(job)
            if data and (key := _data_key(job)) not in opened:
                opened.add(key)
                for split in ("train", "val"):
                    build_source(job.config, split)


def use_no_device() -> None:
    """Keeps this process off the accelerators: the trainings need them, and each takes what memory it finds."""
    import jax

    jax.config.update("jax_platforms", "cpu")


@contextlib.contextmanager
def _named(job: Job) -> Iterator[None]:
    """Puts the name of a point in front of whatever is wrong with it."""
    try:
        yield
    except DitaskError as error:
        raise type(error)(f"sweep: point '{job.name}': {error}") from None


def _check_weights(job: Job) -> None:
    path = weights_path(job.config)
    if path is not None and not path.is_file():
        raise WeightsError(f"weights: no file '{path}'; check config.backbone.weights")


def _data_key(job: Job) -> str:
    fields = flatten(job.config)
    return repr([(name, value) for name, value in fields.items() if name.startswith(("data.", "tasks", "image_size"))])
