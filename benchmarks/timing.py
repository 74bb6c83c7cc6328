"""Measuring in turns: every row runs once per round, so that whatever else the machine does disturbs all alike."""

import resource
import statistics
import time
from collections.abc import Callable, Mapping


def in_turns(
    rows: Mapping[str, Callable[[], object]], rounds: int, warm: int = 1, settle: int = 0
) -> dict[str, dict[str, list[float]]]:
    """Seconds of every row in every round, by the clock and of the processor (all threads).

    Args:
      rows: what to run, by name.
      rounds: how often each is measured.
      warm: rounds before those, not measured.
      settle: runs of a row right before each measured one, as in training a step follows a step: the memory that rows
        hand each other, and pages touched for the first time, are not a row's own.

    >>> found = in_turns({"a": lambda: None, "b": lambda: None}, rounds=2)
    >>> [len(found[name]["wall"]) for name in "ab"]
    [2, 2]
    """
    found = {name: {"wall": [], "cpu": []} for name in rows}
    for number in range(warm + rounds):
        for name, run in rows.items():
            for _ in range(settle):
                run()
            wall, cpu = time.perf_counter(), processor_seconds()
            run()
            if number >= warm:
                found[name]["wall"].append(time.perf_counter() - wall)
                found[name]["cpu"].append(processor_seconds() - cpu)
    return found


def processor_seconds() -> float:
    """What this process has used so far, in the kernel too."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def median(times: Mapping[str, list[float]], clock: str = "wall") -> float:
    """The middle one of a row's times."""
    return statistics.median(times[clock])


def ratio(times: Mapping, name: str, other: str, clock: str = "wall") -> float:
    """The middle one of the ratios of two rows, each within one round.

    >>> ratio({"a": {"wall": [1.0, 4.0, 3.0]}, "b": {"wall": [2.0, 2.0, 2.0]}}, "a", "b")
    1.5
    """
    pairs = zip(times[name][clock], times[other][clock], strict=True)
    return statistics.median(mine / theirs for mine, theirs in pairs)
