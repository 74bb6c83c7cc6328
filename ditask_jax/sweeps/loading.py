"""From a sweep file to checked jobs."""

import contextlib
import dataclasses
import difflib
import fnmatch
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ditask_jax.config import call_file, find_file, flatten, load_config
from ditask_jax.errors import ConfigError, DitaskError, WeightsError, check_known
from ditask_jax.files import user_path
from ditask_jax.hub.addresses import HubAddress
from ditask_jax.hub.transfers import check_fetchable
from ditask_jax.options import value_text
from ditask_jax.sweeps.points import Point, Sweep
from ditask_jax.training.experiment import build_source, describe_plan, weights_path
from ditask_jax.training.run_folder import RunDir

# From a sweep file to jobs: every point with its checked configuration, its folder and its command.


_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+=,@-]*")
_KEPT = ("results", "slurm")  # folders beside the run folders
_LONGEST_NAME = 200  # file systems allow 255 bytes, and names get endings


@dataclasses.dataclass(frozen=True)
class Job:
    """A point, ready to run.

    Attributes:
        point: The point.
        config: Its configuration, overridden and checked.
        source: The text of `--config`.
        overrides: Texts such as `"seed=1"`, later ones win.
        workdir: Its run folder.
    """

    point: Point
    config: ConfigDict
    source: str
    overrides: tuple[str, ...]
    workdir: Path

    @property
    def name(self) -> str:
        """Name of the point."""
        return self.point.name

    def arguments(self) -> list[str]:
        """Arguments of `ditask_jax.train`."""
        return [
            f"--config={self.source}",
            f"--workdir={self.workdir}",
            *(f"--config.{override}" for override in self.overrides),
        ]

    def command(self) -> list[str]:
        """The whole command, by the interpreter that runs this."""
        return [sys.executable, "-m", "ditask_jax.train", *self.arguments()]


def load_sweep(source: str) -> Sweep:
    """Calls `get_sweep()` of a Python file.

    Args:
        source: Name of a sweep of the package, or path of a file, with an optional `:VARIANT`; looked up like a
            configuration.

    Raises:
        ConfigError: The file is missing or fails, or what it returns is no sweep.
    """
    path, variant = find_file(source, "configs/sweeps")
    sweep = call_file(path, variant, "get_sweep")
    if not isinstance(sweep, Sweep):
        raise ConfigError(f"sweep: {path}: get_sweep() returned a {type(sweep).__name__}, expected a Sweep")
    check_known("sweep: goal", sweep.goal, ("max", "min"))
    _check_names(sweep.points, str(path))
    return sweep


def make_jobs(sweep: Sweep, workdir: Path, overrides: Sequence[str] = ()) -> list[Job]:
    """Loads and checks the configuration of every point.

    Args:
        sweep: The sweep.
        workdir: Folder of the run folders.
        overrides: For every point, as on a command line.

    Raises:
        ConfigError: A field or value that cannot be used, with the name of the point; or an override of a field that
            is part of the sweep.
    """
    jobs, said = [], {}
    for point in sweep.points:
        config = point.config or sweep.config
        if config is None:
            raise ConfigError(f"sweep: point '{point.name}': no configuration; name one in the point or in the sweep")
        for override in overrides:
            field = override.partition("=")[0]
            varied = {_in_full(name): value for name, value in point.overrides.items()}
            if _in_full(field) in varied:
                raise ConfigError(
                    f"command line: --config.{field}: the sweep varies this field (point '{point.name}' has "
                    f"{value_text(varied[_in_full(field)])}); choose points by --only, or change the sweep file"
                )
        texts = (*_texts(sweep.overrides), *_texts(point.overrides), *overrides)
        try:
            loaded = load_config(config, texts, say=lambda line: said.setdefault(line))
        except DitaskError as error:
            raise type(error)(f"sweep: point '{point.name}': {error}") from None
        jobs.append(Job(point, loaded, config, texts, user_path(workdir, "sweep: workdir") / point.name))
    for line in said:  # once, whatever the number of points
        print(line, file=sys.stderr)
    return jobs


def choose(jobs: Sequence[Job], patterns: Iterable[str]) -> list[Job]:
    """The jobs whose names match one of some patterns (`*` and `?` stand for any signs); all without patterns.

    Raises:
        ConfigError: A pattern that nothing matches.
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(fnmatch.fnmatchcase(job.name, pattern) for job in jobs):
            near = difflib.get_close_matches(pattern, [job.name for job in jobs], n=1)
            hint = f"did you mean '{near[0]}'?" if near else "--list shows the names"
            raise ConfigError(f"command line: --only: no point matches '{pattern}'; {hint}")
    chosen = [job for job in jobs if any(fnmatch.fnmatchcase(job.name, pattern) for pattern in patterns)]
    return chosen if patterns else list(jobs)


def _in_full(field: str) -> str:
    """`tasks.edge.loss_weight` by its other name, `task.edge.loss_weight`."""
    return field.replace("tasks.", "task.", 1) if field.startswith("tasks.") else field


def _texts(overrides: Mapping[str, object]) -> list[str]:
    return [f"{field}={value_text(value)}" for field, value in overrides.items()]


def _check_names(points: Sequence[Point], where: str) -> None:
    if not points:
        raise ConfigError(f"sweep: {where}: no points; give at least one")
    seen = set()
    for point in points:
        if not isinstance(point, Point):
            raise ConfigError(f"sweep: {where}: got {point!r:.60} among the points, expected a Point")
        if not isinstance(point.name, str) or not _NAME.fullmatch(point.name) or len(point.name) > _LONGEST_NAME:
            raise ConfigError(
                f"sweep: {where}: point {point.name!r}: a name becomes a folder: letters, digits and . _ + = , @ -, at "
                f"most {_LONGEST_NAME}, starting with a letter or digit"
            )
        if point.name.lower() in _KEPT:
            raise ConfigError(
                f"sweep: {where}: point '{point.name}': the sweep keeps its tables there; take another name"
            )
        # Some file systems take names that differ in case alone for the same.
        if point.name.lower() in seen:
            raise ConfigError(f"sweep: {where}: two points are named '{point.name}'; names must differ")
        seen.add(point.name.lower())


# What is looked at before the first training starts.


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
    if isinstance(path, HubAddress):
        check_fetchable(path)
    elif path is not None and not path.is_file():
        raise WeightsError(f"weights: no file '{path}'; check config.backbone.weights")


def _data_key(job: Job) -> str:
    fields = flatten(job.config)
    return repr([(name, value) for name, value in fields.items() if name.startswith(("data.", "task", "image_size"))])
