"""Fetching the next batch while the device computes on the present one, and a warning when data comes too late."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

# The next batch is fetched, and put on the device, while the device computes on the present one.


T = TypeVar("T")


class Prefetch(Iterator[T]):
    """`fetch(start)`, `fetch(start + 1)`, ... `fetch(stop - 1)`, each called while the caller uses the one before.

    Use it in a `with` statement: leaving that waits for the call under way, and what `fetch` reads from may be closed.

    Args:
      fetch: is called in a thread, in order. An error that it raises waits for its turn, and no call follows it.
      start, stop: the numbers it is called with.

    >>> with Prefetch(lambda number: number**2, 3, 6) as squares:
    ...     list(squares)
    [9, 16, 25]
    """

    def __init__(self, fetch: Callable[[int], T], start: int, stop: int):
        self._fetch = fetch
        self._numbers = iter(range(start, stop))
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead")
        self._next: Future[T] | None = None

    def __next__(self) -> T:
        if self._next is None:
            raise StopIteration
        found = self._next.result()
        self._begin()
        return found

    def _begin(self) -> None:
        number = next(self._numbers, None)
        self._next = None if number is None else self._thread.submit(self._fetch, number)

    def __enter__(self) -> "Prefetch[T]":
        self._begin()
        return self

    def __exit__(self, *_) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)


# Says so when training waits too long for its data.


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
