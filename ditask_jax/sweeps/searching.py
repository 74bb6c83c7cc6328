"""The axes of a sweep as a search space, searched by optuna here or written as a file for `wandb sweep`."""

import dataclasses
import logging
import math
import shlex
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ditask_jax.errors import ConfigError
from ditask_jax.files import json_text
from ditask_jax.sweeps.loading import Job
from ditask_jax.sweeps.points import Point, Sweep, value_text
from ditask_jax.sweeps.running import FINISHED, STOPPED, Outcome, has_unknown_scores, hold, score_of, state_of

# The axes of a sweep as a search space: values by name, and the point that a choice of them stands for.


POINT = "point"


@dataclasses.dataclass(frozen=True)
class Space:
    """Axes with their values, as texts.

    Attributes:
        values: By axis. Points that are no whole grid make one axis, `point`, of their names.
        jobs: The job of every combination, its values in the order of the axes.
    """

    values: Mapping[str, tuple[str, ...]]
    jobs: Mapping[tuple[str, ...], Job]

    @property
    def is_grid(self) -> bool:
        """Whether the axes are those of a grid."""
        return tuple(self.values) != (POINT,)

    def job(self, chosen: Mapping[str, str]) -> Job:
        """The job of one value per axis; numbers need not be written alike.

        Raises:
            ConfigError: An axis that is missing or unknown, or a value that it does not have.
        """
        for axis in chosen:
            if axis not in self.values:
                raise ConfigError(f"sweep: '{axis}' is no axis of it. Known: {' '.join(self.values)}")
        key = []
        for axis, values in self.values.items():
            if axis not in chosen:
                raise ConfigError(f"sweep: no value of {axis}; give one of {' '.join(values)}")
            found = [value for value in values if _same(value, chosen[axis])]
            if not found:
                raise ConfigError(f"sweep: {axis}: got {chosen[axis]!r}, expected one of {' '.join(values)}")
            key.append(found[0])
        return self.jobs[tuple(key)]


def make_space(jobs: Sequence[Job]) -> Space:
    """The search space of some points.

    Args:
        jobs: The points.
    """
    values, keys = axes_of([job.point for job in jobs])
    return Space(values, dict(zip(keys, jobs, strict=True)))


def axes_of(points: Sequence[Point]) -> tuple[dict[str, tuple[str, ...]], list[tuple[str, ...]]]:
    """The axes of some points where they are a whole grid, else their names as one; and where on them each point is.

    >>> axes_of([Point("a", axes={"seed": 0}), Point("b", axes={"seed": 1})])
    ({'seed': ('0', '1')}, [('0',), ('1',)])
    """
    axes = list(points[0].axes)
    found = [tuple(value_text(value) for value in point.axes.values()) for point in points]
    alike = axes and all(list(point.axes) == axes for point in points)
    if alike and len(set(found)) == len(points):
        values = {axis: tuple(dict.fromkeys(key[k] for key in found)) for k, axis in enumerate(axes)}
        if math.prod(len(entry) for entry in values.values()) == len(points):
            return values, found
    return {POINT: tuple(point.name for point in points)}, [(point.name,) for point in points]


def _same(left: str, right: str) -> bool:
    try:
        return left == right or float(left) == float(right)
    except ValueError:
        return False


# Search by optuna: trials choose points of a sweep; the study is kept in the sweep's folder and resumes from there.


STUDY_NAME = "study.journal"


class Search:
    """A study over the points of a sweep.

    Args:
        sweep: The sweep; its `metric` is improved.
        space: Its axes.
        folder: Where the study is kept.
        trials: How many trials the study shall have, those of earlier starts included.

    Raises:
        ConfigError: Optuna is not installed, or the study there is of another sweep.
    """

    def __init__(self, sweep: Sweep, space: Space, folder: Path, trials: int):
        if trials < 1:
            raise ConfigError(f"command line: --optuna: got {trials}, expected at least 1")
        optuna = _optuna()
        self._optuna, self._space, self._wanted = optuna, space, trials
        self._metric, self._failed = sweep.metric, 0
        self._pending: dict[str, list] = {}
        folder.mkdir(parents=True, exist_ok=True)
        self._distributions = {
            axis: optuna.distributions.CategoricalDistribution(values) for axis, values in space.values.items()
        }
        self._guard = (folder / f"{STUDY_NAME}.guard").open("ab")
        if not hold(self._guard):
            self.close()
            raise ConfigError(f"sweep: another process searches in '{folder}'; wait for it, or give it more --jobs")
        storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(folder / STUDY_NAME)))
        self.study = optuna.create_study(
            storage=storage,
            study_name="sweep",
            direction=f"{sweep.goal}imize",
            load_if_exists=True,
        )
        # A start that goes on must not draw the same numbers again. Of several trainings at once, those still running
        # count as bad, so that not all try the same.
        self.study.sampler = optuna.samplers.TPESampler(seed=len(self.study.trials), constant_liar=True)
        try:
            self._check_study(sweep, folder)
        except ConfigError:
            self.close()
            raise
        self._take_up()

    def jobs(self) -> Iterator[Job]:
        """Asks for trials until there are enough; yields the points that must be trained."""
        while self._done() + len(self._running()) + self._failed < self._wanted:
            trial = self.study.ask(self._distributions)
            job = self._space.job(trial.params)
            if state_of(job) == FINISHED:
                self._tell([trial], job)
            elif job.name in self._pending:
                self._pending[job.name].append(trial)
            else:
                self._pending[job.name] = [trial]
                yield job

    def add(self, outcome: Outcome) -> None:
        """Tells the study how a point ended; a trial that was stopped is taken up by the next start."""
        trials = self._pending.pop(outcome.job.name, [])
        if outcome.state == FINISHED:
            self._tell(trials, outcome.job)
        elif outcome.state != STOPPED:
            for trial in trials:
                self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                self._failed += 1

    def close(self) -> None:
        """Lets go of the study, for another search in the same folder."""
        self._guard.close()

    def summary(self) -> str:
        """The best point so far, and how many trials there are."""
        done = self.study.get_trials(deepcopy=False, states=[self._optuna.trial.TrialState.COMPLETE])
        if not done:
            return "search: no trial is complete"
        best = self.study.best_trial
        point = self._space.job(best.params).name
        return f"search: {len(done)} trials, best {self._metric} {best.value:.6g} at {point}"

    def _tell(self, trials: Sequence, job: Job) -> None:
        score = score_of(job, self._metric)
        if score is None and has_unknown_scores(job):
            # Such a point cannot be compared: no trial to learn from, and no reason to end the search.
            for trial in trials:
                self.study.tell(trial, state=self._optuna.trial.TrialState.FAIL)
                self._failed += 1
            return
        if score is None:
            raise ConfigError(
                f"sweep: metric: the scores of '{job.name}' have no {self._metric}; give Sweep(metric=...) a number of "
                f"{job.workdir / 'evaluation.json'}: delta_m, or TASK/METRIC"
            )
        for trial in trials:
            trial.set_user_attr("point", job.name)
            self.study.tell(trial, score)

    def _done(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=[self._optuna.trial.TrialState.COMPLETE]))

    def _running(self) -> list:
        return [trial for trials in self._pending.values() for trial in trials]

    def _check_study(self, sweep: Sweep, folder: Path) -> None:
        present = {
            "metric": sweep.metric,
            "goal": sweep.goal,
            "axes": {k: list(v) for k, v in self._space.values.items()},
        }
        before = self.study.user_attrs.get("sweep")
        if before is None:
            self.study.set_user_attr("sweep", present)
        elif before != present:
            raise ConfigError(
                f"sweep: {folder / STUDY_NAME} is the study of another sweep (its axes, metric or goal differ); use "
                "another --workdir, or the sweep file it was started with"
            )

    def _take_up(self) -> None:
        """Trials that were running when an earlier start ended are asked for first."""
        state = self._optuna.trial.TrialState
        for trial in self.study.get_trials(deepcopy=False, states=[state.RUNNING]):
            self.study.tell(trial.number, state=state.FAIL)
            self.study.enqueue_trial(trial.params)


def _optuna():
    try:
        import optuna
    except ImportError:
        raise ConfigError(
            "command line: --optuna: the package optuna is not installed; run 'pip install optuna', or leave --optuna "
            "out to train every point"
        ) from None
    logging.getLogger("optuna").setLevel(logging.WARNING)
    # The journal is the storage for file systems without good locks; its interface is still called experimental.
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    return optuna


# A sweep as the file that `wandb sweep` reads; plain text, the package itself is not needed.


def wandb_file(sweep: Sweep, space: Space, arguments: Sequence[str]) -> str:
    """YAML text: every axis a parameter, every run a point that `ditask_jax.sweep` trains in its folder.

    Args:
        sweep: The sweep.
        space: Its axes.
        arguments: Of `ditask_jax.sweep`: the file, `--workdir` and overrides.

    Returns:
        The text. Everything in it is quoted as JSON is, which YAML understands.
    """
    metric = "val/delta_m" if sweep.metric == "delta_m" else f"val/tasks/{sweep.metric}"
    lines = [
        "# wandb sweep THIS_FILE prints the command that starts an agent; start it in this folder, one per GPU.",
        "# method: grid takes every point once; random and bayes choose among the same values.",
        "program: ditask_jax.sweep",
        "method: grid",
        f"metric: {{name: {json_text(metric)}, goal: {sweep.goal}imize}}",
        "parameters:",
    ]
    for axis, values in space.values.items():
        name = f"config.{axis}" if space.is_grid else "only"
        lines.append(f"  {json_text(name)}: {{values: [{', '.join(map(json_text, values))}]}}")
    command = ["python", "-m", "ditask_jax.sweep", *arguments, *(["--pick"] if space.is_grid else [])]
    lines += ["command:", "  - ${env}", *(f"  - {json_text(part)}" for part in command), "  - ${args}"]
    return "\n".join(lines) + f"\n# The same points without W&B: {shlex.join(command[: 3 + len(arguments)])}\n"
