"""One line that says how far training is, how fast, and when it ends."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import TextIO

_REDRAW_SECONDS = 0.1  # between two drawings of a line in place


class Progress:
    """Prints `step 120/1000  loss 0.412  35.1 images/s  ETA 0:04:10  6.2 GB`, compile time left out of the rate.

    On a terminal the line is rewritten in place; elsewhere a plain line appears every `log_every_steps`. The first step
    of a process includes compilation, so the clock starts after it; `pause` keeps evaluations out of the rate too.

    Args:
        total_steps: Optimiser steps of the whole run.
        batch_size: Images per step.
        start_step: Steps done before this process.
        log_every_steps: How often a plain line is printed; the last step always is.
        active: Whether this process prints.
        stream: Where to; default: the error stream.
        clock: Seconds, for tests.

    >>> times = iter([0.0, 5.0, 5.5, 6.0])
    >>> progress = Progress(4, 8, stream=sys.stdout, log_every_steps=2, clock=lambda: next(times))
    >>> for step in (1, 2, 3):
    ...     progress.update(step, {"loss": 0.25})
    step 1/4  loss 0.25  compiled in 5.0 s
    step 2/4  loss 0.25  16.0 images/s  ETA 0:00:01
    """

    def __init__(
        self,
        total_steps: int,
        batch_size: int,
        *,
        start_step: int = 0,
        log_every_steps: int = 50,
        active: bool = True,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self.total_steps = total_steps
        self.batch_size = batch_size
        self.log_every_steps = log_every_steps
        self.compile_seconds: float | None = None
        self._active = active
        self._stream = sys.stderr if stream is None else stream
        self._in_place = self._stream.isatty()
        self._clock = clock
        self._step = self._first = start_step
        self._seconds = 0.0  # spent in timed steps
        self._mark = clock()
        self._width = 0
        self._printed = -_REDRAW_SECONDS

    def update(self, step: int, values: Mapping[str, float] | None = None, memory: int | None = None) -> None:
        """Reports steps done; call it once their results are there, so that asynchronous dispatch is not what is timed.

        Args:
            step: Optimiser steps done.
            values: Numbers shown, such as the loss.
            memory: Bytes in use at the most so far.
        """
        now = self._clock()
        first = self.compile_seconds is None
        if first:
            self.compile_seconds, self._first = now - self._mark, step
        else:
            self._seconds += now - self._mark
        self._mark, self._step = now, step
        due = first or step % self.log_every_steps == 0 or step >= self.total_steps
        redraw = self._in_place and now - self._printed >= _REDRAW_SECONDS
        if self._active and (due or redraw):
            self._printed = now
            self._print(self._line(values or {}, memory))

    @property
    def images_per_second(self) -> float | None:
        """Rate of the timed steps; None before the second update."""
        return (self._step - self._first) * self.batch_size / self._seconds if self._seconds > 0 else None

    @property
    def eta_seconds(self) -> float | None:
        """Seconds to the last step at the present rate; None before the second update."""
        rate = self.images_per_second
        return (self.total_steps - self._step) * self.batch_size / rate if rate else None

    @contextlib.contextmanager
    def pause(self) -> Iterator[None]:
        """Leaves out the time spent inside (evaluation, saving)."""
        start = self._clock()
        try:
            yield
        finally:
            self._mark += self._clock() - start

    def message(self, text: str) -> None:
        """Prints a line of its own without breaking the progress line."""
        if self._active:
            self.end_line()
            print(text, file=self._stream, flush=True)

    def end_line(self) -> None:
        """Ends a line that is rewritten in place; call it when done."""
        if self._width:
            print(file=self._stream, flush=True)
            self._width = 0

    def _line(self, values: Mapping[str, float], memory: int | None) -> str:
        parts = [f"step {self._step}/{self.total_steps}", *(f"{name} {value:.4g}" for name, value in values.items())]
        if self.images_per_second is None:
            parts.append(f"compiled in {self.compile_seconds:.1f} s")
        else:
            parts += [f"{self.images_per_second:.1f} images/s", f"ETA {_clock_text(self.eta_seconds)}"]
        if memory is not None:
            parts.append(f"{memory / 1e9:.1f} GB")
        return "  ".join(parts)

    def _print(self, line: str) -> None:
        if not self._in_place:
            print(line, file=self._stream, flush=True)
            return
        print(f"\r{line:<{self._width}}", end="", file=self._stream, flush=True)
        self._width = len(line)
        if self._step >= self.total_steps:
            self.end_line()


def _clock_text(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
