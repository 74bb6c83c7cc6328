"""Says so when training waits too long for its data."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator

_FIRST_LOOKS = 4  # per limit


class Watchdog:
    """Reports a wait that takes longer than a limit, again each time it has doubled, and goes on waiting.

    Args:
      seconds: the limit; None: nothing is watched.
      report: called from a thread of its own with what is waited for and the seconds so far.

    >>> lines = []
    >>> with Watchdog(0.02, lambda what, seconds: lines.append(what)) as watchdog:
    ...     with watchdog.waiting("batch 3"):
    ...         time.sleep(0.2)
    >>> lines[0]
    'batch 3'
    """

    def __init__(self, seconds: float | None, report: Callable[[str, float], None]):
        self._seconds = seconds
        self._report = report
        self._waiting: tuple[str, float] | None = None
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    @contextlib.contextmanager
    def waiting(self, what: str) -> Iterator[None]:
        """Around a wait.

        Args:
          what: is waited for.
        """
        self._waiting = (what, time.monotonic())
        try:
            yield
        finally:
            self._waiting = None

    def __enter__(self) -> "Watchdog":
        if self._seconds is not None:
            self._thread.start()
        return self

    def __exit__(self, *_) -> None:
        self._closed.set()
        if self._seconds is not None:
            self._thread.join()

    def _watch(self) -> None:
        known, limit = None, self._seconds
        while not self._closed.wait(self._seconds / _FIRST_LOOKS):
            now = self._waiting
            if now is not known:
                known, limit = now, self._seconds
            if now is not None and time.monotonic() - now[1] >= limit:
                seconds = time.monotonic() - now[1]
                self._report(now[0], seconds)
                limit = 2 * seconds
