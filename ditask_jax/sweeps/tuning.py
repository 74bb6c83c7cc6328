"""Factors on learning rates of groups, found by short trainings on part of the training split: successive halving."""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from ditask_jax.errors import ConfigError, check_known, optional
from ditask_jax.files import atomic_write_text
from ditask_jax.options import GROUPS, plain, value_text
from ditask_jax.plots.option_sweep import Line, draw_sweep
from ditask_jax.plots.sheet import save
from ditask_jax.sweeps.loading import Job, make_jobs
from ditask_jax.sweeps.points import Point, Sweep
from ditask_jax.sweeps.running import BUSY, FINISHED, Outcome, Runner, score_of, state_of
from ditask_jax.tasks import Task, delta_m
from ditask_jax.training.experiment import build_tasks, describe_plan
from ditask_jax.training.optim.group_rates import settled

# What is tried: a grid of factors, each for a short time, the better third for three times as long, and so on.


GRID = {
    "adapters": (0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    "pretrained": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0),
    "decoders": (0.3, 1.0, 3.0),
}
"""Factors that are tried, by group: half a decade apart."""
KEPT = 3  # one in so many goes on, for so many times as long
MOST_RUNGS = 3
_WARMUP = 10  # a rung's warm-up is at most one in so many of its steps
_NUMBER = re.compile(r"([0-9]+\.?[0-9]*|\.[0-9]+)(e[+-]?[0-9]+)?")

Factors = Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Tuning:
    """A search for the factors of a configuration.

    Attributes:
        config: The configuration.
        source: The text of `--config`.
        overrides: Those of the command line.
        workdir: Folder of the search.
        grid: Factors by group.
        steps: Length of the longest trainings.
        fraction: Share of the training split that is kept aside, and scored.
    """

    config: ConfigDict
    source: str
    overrides: tuple[str, ...]
    workdir: Path
    grid: Mapping[str, Sequence[float]]
    steps: int
    fraction: float = 0.2

    @property
    def _configured(self) -> Factors:
        """All factors that the configuration has by itself, of patterns that it splits groups by too."""
        return plain(settled(self.config).optimizer.get("rates", None)) or {}

    @property
    def present(self) -> Factors:
        """The factors that the configuration has by itself, of the groups that are searched; part of every rung."""
        rates = self._configured
        return {group: float(rates.get(group, 1.0)) for group in self.grid}

    def _with_present(self, chosen: list[Factors]) -> list[Factors]:
        present = self.present
        return chosen if present in chosen else [*chosen, present]

    def candidates(self) -> list[Factors]:
        """All combinations of the grid, and what the configuration has by itself."""
        found = [dict(zip(self.grid, values, strict=True)) for values in itertools.product(*self.grid.values())]
        return self._with_present(found)

    def rungs(self) -> list[int]:
        """Steps of the trainings of every rung, rising; one rung alone where there are few candidates."""
        count = min(MOST_RUNGS, 1 + int(math.log(max(len(self.candidates()), 1), KEPT) + 1e-9))
        return sorted({max(self.steps // KEPT**number, 1) for number in range(count)})

    def kept(self, ranked: Sequence[Factors]) -> list[Factors]:
        """What goes on to the next rung: the best third, and what the configuration has by itself."""
        return self._with_present(list(ranked[: max(len(ranked) // KEPT, 1)]))

    def jobs(self, candidates: Sequence[Factors], steps: int) -> list[Job]:
        """The trainings of a rung."""
        optimizer = self.config.optimizer
        fixed = {
            "total_steps": steps,
            "data.held_aside": self.fraction,
            "eval_every_epochs": None,
            "eval_every_steps": None,
            "checkpoint_every_steps": None,
            "log_every_steps": steps,
            "logging.tensorboard": False,
            "logging.wandb": "off",
        }
        longest = steps // _WARMUP
        fixed["optimizer.warmup_steps"] = (
            longest if optimizer.warmup_steps is None else min(optimizer.warmup_steps, longest)
        )
        if (warmups := plain(optimizer.get("warmups", None))) is not None:
            fixed["optimizer.warmups"] = {group: min(own, longest) for group, own in warmups.items()}
        points = [
            Point(f"steps{steps}_{name_of(factors)}", self.source, {**fixed, "optimizer.rates": self._rates(factors)})
            for factors in candidates
        ]
        wanted = [text for text in self.overrides if text.partition("=")[0] not in points[0].overrides]
        return make_jobs(Sweep(points), self.workdir, wanted)

    def _rates(self, factors: Factors) -> dict[str, float]:
        """Patterns that the configuration splits groups by stay as they are."""
        return {**self._configured, **factors}

    def override(self, factors: Factors) -> str:
        """The argument of a command line that sets factors, as a shell reads it."""
        return f'--config.optimizer.rates="{value_text(self._rates(factors))}"'


def name_of(factors: Factors) -> str:
    """Part of a point's name.

    >>> name_of({"adapters": 30.0, "decoders": 0.3})
    'adapters30_decoders0.3'
    """
    return "_".join(f"{group}{factor:g}" for group, factor in factors.items())


def grid_of(config: ConfigDict, asked: Sequence[str] = ()) -> dict[str, tuple[float, ...]]:
    """The factors to try for the groups that train.

    Args:
        config: The configuration.
        asked: Texts such as "adapters=1,10,100", in place of the usual factors; a single factor keeps a group at it.

    Raises:
        ConfigError: A text that is none such, or of a group that does not train.
    """
    plan = describe_plan(config)
    adapters = sum(layer.trainable for layer in plan.layers)
    sizes = {"adapters": adapters, "pretrained": plan.trainable_backbone - adapters, "decoders": 1}
    found = {group: GRID[group] for group in GROUPS if sizes[group]}
    for text in asked:
        group, _, values = text.partition("=")
        check_known("command line: --factors", group, found)
        words = [word.strip() for word in values.split(",")]
        numbers = [float(word) for word in words if _NUMBER.fullmatch(word)]
        if len(numbers) != len(words) or not all(0 < number < math.inf for number in numbers):
            raise ConfigError(
                f"command line: --factors: got '{text}', expected a group and factors above 0, for example "
                f"{group}=1,10,100"
            )
        found[group] = tuple(dict.fromkeys(numbers))
    return found


# What came out: how far each candidate is behind the best of its rung.


@dataclasses.dataclass(frozen=True)
class Trial:
    """A candidate of a rung.

    Attributes:
        factors: By group.
        scores: Primary score by task; empty where the training failed.
        behind: Mean over tasks of how far it is behind the best of the rung, per cent, 0 or less; -inf where it failed.
    """

    factors: Factors
    scores: Mapping[str, float]
    behind: float


def rank(candidates: Sequence[Factors], scores: Sequence[Mapping[str, float]], tasks: Sequence[Task]) -> list[Trial]:
    """The candidates of a rung, the best first; of equal ones the first.

    A task whose best score is 0 tells nothing and does not count; a candidate without a score of every task is last.

    Args:
        candidates: Factors by group.
        scores: Of each, primary scores by task.
        tasks: All of the model.
    """
    whole = [entry for entry in scores if all(task.name in entry for task in tasks)]
    best = {}
    for task in tasks:
        found = [entry[task.name] for entry in whole]
        if found and (value := (max if task.higher_is_better else min)(found)) > 0:
            best[task.name] = value
    higher = {task.name: task.higher_is_better for task in tasks}

    def behind(entry: Mapping[str, float]) -> float:
        if entry not in whole:
            return -math.inf
        return delta_m({name: entry[name] for name in best}, best, higher) if best else 0.0

    trials = [Trial(*pair, behind(pair[1])) for pair in zip(candidates, scores, strict=True)]
    return sorted(trials, key=lambda trial: -trial.behind)


def scores_of(job: Job, tasks: Sequence[Task]) -> dict[str, float]:
    """Primary scores of a finished training, where they are known."""
    if state_of(job) != FINISHED:
        return {}
    found = {task.name: score_of(job, f"{task.name}/{task.primary_metric}") for task in tasks}
    return {name: score for name, score in found.items() if score is not None}


# The search, and what it writes.


def search(tuning: Tuning, runner: Runner) -> Iterator[Outcome | tuple[int, list[Trial]]]:
    """Trains rung after rung; yields how each training ended, and behind each rung its steps and its ranking.

    What is finished already is not trained again. Ends early where the runner was told to stop, where another process
    trains a candidate, or where all candidates of a rung have failed.
    """
    tasks, alive = build_tasks(tuning.config), tuning.candidates()
    for steps in tuning.rungs():
        jobs = tuning.jobs(alive, steps)
        busy = False
        for outcome in runner.run([job for job in jobs if state_of(job) != FINISHED]):
            busy |= outcome.state == BUSY
            yield outcome
        if runner.stopping or busy:
            return
        ranked = rank(alive, [scores_of(job, tasks) for job in jobs], tasks)
        yield steps, ranked
        if not ranked[0].scores:
            return
        alive = tuning.kept([trial.factors for trial in ranked])


def table(rungs: Sequence[tuple[int, Sequence[Trial]]], tasks: Sequence[Task]) -> str:
    """What every rung found, as Markdown: candidates in their order, with their scores."""
    blocks = []
    for steps, trials in rungs:
        groups = list(trials[0].factors)
        header = [*groups, *(f"{task.name} {task.primary_metric}" for task in tasks), "behind the best (%)"]
        rows = [f"{steps} steps", "", f"| {' | '.join(header)} |", f"|{'---:|' * len(header)}"]
        for trial in trials:
            shown = [f"{trial.scores[task.name]:.4g}" if task.name in trial.scores else "" for task in tasks]
            behind = f"{round(trial.behind, 2) + 0.0:.2f}" if math.isfinite(trial.behind) else "failed"
            rows.append(f"| {' | '.join([*(f'{trial.factors[group]:g}' for group in groups), *shown, behind])} |")
        blocks.append("\n".join(rows))
    return "\n\n".join(blocks)


def write(tuning: Tuning, rungs: Sequence[tuple[int, Sequence[Trial]]], folder: Path) -> list[Path]:
    """Writes the table, the overrides of the best candidate, and a figure per group; returns the files."""
    tasks, best = build_tasks(tuning.config), rungs[-1][1][0]
    files = [
        atomic_write_text(folder / "tuning.md", f"{tuning.source}\n\n{table(rungs, tasks)}\n"),
        atomic_write_text(folder / "overrides.txt", tuning.override(best.factors) + "\n"),
    ]
    for group, factors in tuning.grid.items():
        if len(factors) > 1:
            path = folder / group
            with optional(f"figure {path}"):
                title = f"{tuning.config.method.name}: the best of all candidates with a factor"
                plots = [(task.name, f"{task.name} {task.primary_metric}", task.unit) for task in tasks]
                figure = draw_sweep(curves(rungs, group, tasks), plots, f"factor of {group}", title, binary=True)
                files += save(figure, path)
    return files


def curves(rungs: Sequence[tuple[int, Sequence[Trial]]], group: str, tasks: Sequence[Task]) -> list[Line]:
    """A line per rung: against a group's factor the scores of the candidate with it that is least behind."""
    lines = []
    for steps, trials in rungs:
        best: dict[float, Trial] = {}
        for trial in trials:  # the best first
            if trial.scores:
                best.setdefault(trial.factors[group], trial)
        lines.append(Line(f"{steps} steps", [(factor, best[factor].scores) for factor in sorted(best)]))
    return lines
