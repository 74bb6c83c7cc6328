"""The next batch is fetched, and put on the device, while the device computes on the present one."""

from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class Ahead(Iterator[T]):
    """`fetch(start)`, `fetch(start + 1)`, ... `fetch(stop - 1)`, each called while the caller uses the one before.

    Use it in a `with` statement: leaving that waits for the call under way, and what `fetch` reads from may be closed.

    Args:
      fetch: is called in a thread, in order. An error that it raises waits for its turn, and no call follows it.
      start, stop: the numbers it is called with.

    >>> with Ahead(lambda number: number**2, 3, 6) as squares:
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

    def __enter__(self) -> "Ahead[T]":
        self._begin()
        return self

    def __exit__(self, *_) -> None:
        self._thread.shutdown(wait=True, cancel_futures=True)
