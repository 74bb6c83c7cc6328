"""Profiling: traces, peak memory, and work and memory of a program as the compiler counts them."""

import dataclasses
import re
import resource
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any

import jax

from ditask_jax.errors import ConfigError

# What the compiler says of a program it has made: work, traffic and memory.


_MEMORY = {"arguments": "argument", "results": "output", "temporary": "temp"}


def program_work(compiled: Any) -> dict[str, float | None]:
    """`flops` and `bytes_accessed` by the compiler's count; None where it does not tell.

    >>> import jax
    >>> program_work(jax.jit(lambda x: x @ x).lower(jax.numpy.ones((8, 8))).compile())["flops"] > 0
    True
    """
    analysis = compiled.cost_analysis() or {}
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    return {"flops": analysis.get("flops"), "bytes_accessed": analysis.get("bytes accessed")}


def program_memory(compiled: Any) -> dict[str, int | None]:
    """Bytes on one device: `arguments`, `results`, `temporary`, and `together`; None where the compiler does not tell.

    What a program writes over its arguments (the state of a step) is counted among arguments and results alike, and
    once in `together`.
    """
    memory = compiled.memory_analysis()
    sizes = {name: getattr(memory, f"{kind}_size_in_bytes", None) for name, kind in _MEMORY.items()}
    reused = getattr(memory, "alias_size_in_bytes", 0)
    return sizes | {"together": None if None in sizes.values() else sum(sizes.values()) - reused}


# How much memory training has taken so far, as its devices or, where they do not tell, the process say.


_UNIT = 1024  # of ru_maxrss on Linux


def peak_memory(devices: Iterable[jax.Device]) -> dict[str, int]:
    """Largest memory in use so far, in bytes, for the metrics log.

    Equal runs may differ in it, like in their times, so its key stands under `time/` as well.

    Args:
      devices: those of this process.

    Returns:
      `time/device_memory`, of the device that used most; on devices that keep no account of it (a CPU)
      `time/process_memory`, of the whole process: program, compiler and data included.

    >>> list(peak_memory(jax.devices("cpu")))
    ['time/process_memory']
    """
    peaks = [(device.memory_stats() or {}).get("peak_bytes_in_use") for device in devices]
    known = [peak for peak in peaks if peak is not None]
    if known:
        return {"time/device_memory": max(known)}
    return {"time/process_memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _UNIT}


# `--profile=START:STOP`: a trace of a few training steps by JAX's profiler.


@dataclasses.dataclass(frozen=True)
class Window:
    """Steps to trace, the last one included, counted as in the progress line: the first step of a run is 1.

    >>> Window.parse("10:12")
    Window(first=10, last=12)
    >>> Window.parse("12:10")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: command line: --profile: got '12:10', expected START:STOP with 1 <= START <= STOP
    """

    first: int
    last: int

    @classmethod
    def parse(cls, text: str) -> "Window":
        """Reads START:STOP.

        Raises:
          ConfigError: it is something else.
        """
        match = re.fullmatch(r"(\d{1,10}):(\d{1,10})", text.strip())
        first, last = map(int, match.groups()) if match else (0, 0)
        if not 1 <= first <= last:
            raise ConfigError(f"command line: --profile: got {text!r}, expected START:STOP with 1 <= START <= STOP")
        return cls(first, last)

    def check(self, total_steps: int) -> None:
        """Raises ConfigError where the run is over before the window is."""
        if self.last > total_steps:
            raise ConfigError(
                f"command line: --profile: got {self.first}:{self.last}, but the run has {total_steps} steps; give "
                f"steps from 1 to {total_steps}"
            )


def traced(
    steps: Generator[tuple[int, Any]], window: Window | None, start: int, folder: Path, tell: Callable[[str], None]
) -> Generator[tuple[int, Any]]:
    """Passes steps on, and traces those of a window; what happens between two of them is in the trace as well.

    Args:
      steps: yields (steps done, values); a step is taken when it is asked for. Closed with this generator.
      window: which ones; None: none.
      start: steps done before.
      folder: for the trace, `plugins/profile/...` as TensorBoard and Perfetto read it.
      tell: is given one line when the trace is there, or why there is none.
    """
    if window is None or start >= window.last:
        if window is not None:
            tell(f"profile: steps {window.first} to {window.last} were taken before: nothing to trace")
        yield from steps
        return
    tracing = False
    number = start
    try:
        while True:
            if not tracing and window.first <= number + 1 <= window.last:
                jax.profiler.start_trace(str(folder))
                tracing = True
            try:
                number, values = next(steps)
            except StopIteration:
                return
            if tracing and number >= window.last:
                jax.profiler.stop_trace()
                tracing = False
                tell(f"profile: steps {max(window.first, start + 1)} to {number} are in {folder}")
            yield number, values
    finally:
        steps.close()
        if tracing:
            jax.profiler.stop_trace()
            tell(f"profile: ended early, at step {number}, in {folder}")
