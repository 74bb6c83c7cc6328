"""What a person sees of a sweep: the plan, a line per finished point, and what to do about the rest."""

from collections import Counter
from collections.abc import Mapping, Sequence

from ditask_jax.sweeps.loading import Job
from ditask_jax.sweeps.machine import Share
from ditask_jax.sweeps.running import BUSY, FAILED, STOPPED, Outcome
from ditask_jax.sweeps.states import FINISHED, score_of


def listing(jobs: Sequence[Job], states: Mapping[str, str]) -> str:
    """One line per point: its state, its name, its configuration with overrides."""
    width = max(len(job.name) for job in jobs)
    return "\n".join(
        f"{states[job.name]:<10}  {job.name:<{width}}  {' '.join((job.source, *job.overrides))}" for job in jobs
    )


def plan_line(states: Mapping[str, str], shares: Sequence[Share]) -> str:
    """How much there is to do, and where it will be done.

    >>> plan_line({"a": "finished", "b": "new", "c": "new"}, [Share(), Share()])
    '3 points: 1 finished, 2 new; 2 at a time (all cores)'
    """
    counts = Counter(states.values())
    parts = [f"{counts[state]} {state}" for state in ("finished", "unfinished", "new") if counts[state]]
    places = "; ".join(dict.fromkeys(map(str, shares)))
    return f"{len(states)} points: {', '.join(parts)}; {len(shares)} at a time ({places})"


class Tally:
    """Counts outcomes and guesses how long the rest takes.

    Args:
        total: Points of the sweep.
        finished: Those that were finished before.
        waiting: Those to be run.
        at_once: How many run at a time.
        metric: The score in the lines.
    """

    def __init__(self, total: int, finished: int, waiting: int, at_once: int, metric: str = "delta_m"):
        self.outcomes: list[Outcome] = []
        self._metric = metric
        self._total, self._finished, self._waiting, self._at_once = total, finished, waiting, at_once

    def add(self, outcome: Outcome) -> str:
        """Counts an outcome; returns its line."""
        self.outcomes.append(outcome)
        self._finished += outcome.state == FINISHED
        head = f"[{self._finished:>{len(str(self._total))}}/{self._total}] {outcome.job.name}"
        if outcome.state == BUSY:
            return f"{head}: another process trains it"
        line = f"{head}: {outcome.state} after {duration(outcome.seconds)}"
        if outcome.state == FINISHED:
            line += self._score(outcome.job)
        elif outcome.state == FAILED:
            line += f": {outcome.message}"
        rest = self.remaining_seconds()
        return f"{line}; about {duration(rest)} to go" if rest else line

    def _score(self, job: Job) -> str:
        score = score_of(job, self._metric)
        if score is None:
            return f", {self._metric} unknown"
        return f", {self._metric} {score:+.2f} %" if self._metric == "delta_m" else f", {self._metric} {score:.4g}"

    def remaining_seconds(self) -> float | None:
        """By the mean time of those that finished; None before the first, or where nothing is left."""
        times = [outcome.seconds for outcome in self.outcomes if outcome.state == FINISHED]
        left = self._waiting - len(self.outcomes)
        return sum(times) / len(times) * left / min(self._at_once, left) if times and left else None

    def of(self, state: str) -> list[Outcome]:
        """Outcomes of one kind."""
        return [outcome for outcome in self.outcomes if outcome.state == state]

    def closing(self, again: str, stopping: bool) -> str:
        """What failed and why, and how to go on; empty where everything is done.

        Args:
            again: The command of the sweep.
            stopping: Whether the sweep was told to stop.
        """
        lines = []
        if failed := self.of(FAILED):
            lines += [f"failed, {len(failed)} of {self._total}:"]
            lines += [f"  {outcome.job.name}: {outcome.message}" for outcome in failed]
        if busy := self.of(BUSY):
            lines.append(f"left to another process: {' '.join(outcome.job.name for outcome in busy)}")
        if stopping or self.of(STOPPED):
            lines.append(f"stopped with {self._finished} of {self._total} points finished")
        if lines:
            lines.append(f"run the same command to go on with what is missing: {again}")
        return "\n".join(lines)


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> [duration(seconds) for seconds in (4.2, 200, 8000)]
    ['4 s', '3 min 20 s', '2 h 13 min']
    """
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 1:
        return f"{rest} s"
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"
