"""What a source of examples offers, and sources around a source: kept in memory, with labels made from
others, without files that cannot be read.
"""

import dataclasses
import hashlib
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

import numpy as np

from ditask_jax.errors import DataError

# What every source of examples offers.


class Source(Protocol):
    """A random-access sequence of examples; it must be picklable and safe to read from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping: ...


class _Around:
    """What is around a source and does not answer for itself, it asks of the source."""

    source: Source

    def __getattr__(self, name: str) -> Any:
        # Unpickling asks before there is a source.
        if name.startswith("__") or "source" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.source, name)


# Keeps decoded or generated examples in memory, up to a bound.


class CachedSource:
    """A source that remembers its examples: the first ones asked for, until `max_bytes` are used.

    Values are those of the wrapped source; augmentation comes after it and stays fresh. A copy sent to a worker process
    starts empty, so use it with threads.

    Args:
      source: what to remember.
      max_bytes: bound on the arrays held.

    >>> from ditask_jax.scenes import ScenesSource
    >>> source = CachedSource(ScenesSource("train", 64))
    >>> source[0]["image"] is source[0]["image"]
    True
    """

    def __init__(self, source: Source, max_bytes: int = 2 << 30) -> None:
        self.source = source
        self.max_bytes = max_bytes
        self._held: dict[int, Mapping] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Mapping:
        index = int(index)
        held = self._held.get(index)
        if held is not None:
            return held
        example = self.source[index]
        arrays = [value for value in example.values() if isinstance(value, np.ndarray)]
        size = sum(array.nbytes for array in arrays)
        with self._lock:
            if index not in self._held and self._bytes + size <= self.max_bytes:
                for array in arrays:
                    array.flags.writeable = False  # shared from now on
                self._held[index] = example
                self._bytes += size
        return self._held.get(index, example)

    def __reduce__(self):
        return CachedSource, (self.source, self.max_bytes)


# Labels that no file holds: made from an image and its other labels, for any data set that has those.


@dataclasses.dataclass(frozen=True)
class DerivedLabel:
    """How a label is made.

    Attributes:
      make: from an example that holds the image, the id and `needs`, to the label, before any augmentation. A function
        of a module, so that loader processes can be sent it.
      needs: tasks whose labels it looks at.
    """

    make: Callable[[Mapping], np.ndarray]
    needs: tuple[str, ...] = ()


LABELS: dict[str, DerivedLabel] = {}


def stored_labels(tasks: Iterable[str]) -> tuple[str, ...]:
    """The labels that a source has to hold so that the labels of all tasks can be had.

    >>> stored_labels(["depth", "semseg"])
    ('depth', 'semseg')
    """
    needed = [LABELS[task].needs if task in LABELS else (task,) for task in tasks]
    return tuple(dict.fromkeys(name for names in needed for name in names))


class DerivedSource(_Around):
    """A source with further labels, made example by example; everything else is the wrapped source's.

    Args:
      source: holds `stored_labels(tasks)`.
      tasks: whose labels an example has.
    """

    def __init__(self, source: Source, tasks: Iterable[str]):
        self.source = source
        self.tasks = tuple(tasks)
        self._made = {task: LABELS[task] for task in self.tasks if task in LABELS}

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        example = dict(self.source[index])
        labels = {task: self._made[task].make(example) if task in self._made else example[task] for task in self.tasks}
        looked_at = {name for label in self._made.values() for name in label.needs}
        return {name: value for name, value in example.items() if name not in looked_at} | labels


def with_derived_labels(source: Source, tasks: Iterable[str]) -> Source:
    """The source itself where it holds every label, else one that makes the others."""
    names = tuple(tasks)
    return DerivedSource(source, names) if any(name in LABELS for name in names) else source


# A part of a training split that is kept aside, so that choosing by scores touches no evaluation split.


class PartSource(_Around):
    """Some examples of a source, in their order; everything else is the wrapped source's.

    Args:
      source: the whole.
      numbers: of the examples, rising.
    """

    def __init__(self, source: Source, numbers: np.ndarray):
        self.source = source
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, index: int) -> Mapping:
        return self.source[int(self.numbers[int(index)])]


def aside_count(count: int, fraction: float) -> int:
    """How many of so many examples are kept aside.

    >>> aside_count(100, 0.2), aside_count(3, 0.01)
    (20, 1)
    """
    return max(round(count * fraction), 1)


def aside(source: Source, fraction: float, scored: bool, most: int | None = None) -> PartSource:
    """The part of a training split that is kept aside, or the rest.

    Which examples these are is a function of their numbers and the fraction alone: those with the least hashes. A
    larger fraction holds all examples of a smaller one.

    Args:
      source: the whole training split.
      fraction: of its examples that are kept aside; at least one is.
      scored: the part that is kept aside; False: the rest.
      most: of the part, use only that many; None: all.

    Raises:
      DataError: nothing is left to train on.

    >>> from ditask_jax.scenes import ScenesSource
    >>> source = ScenesSource("train", 32, num_examples=10)
    >>> aside(source, 0.3, scored=True).numbers.tolist(), aside(source, 0.3, scored=False).numbers.tolist()
    ([0, 6, 7], [1, 2, 3, 4, 5, 8, 9])
    """
    kept = aside_count(len(source), fraction)
    if kept >= len(source):
        raise DataError(
            f"data: held_aside {fraction:g} of {len(source)} examples leaves none to train on; lower data.held_aside"
        )
    digest = lambda number: hashlib.blake2b(b"aside %d" % number, digest_size=8).digest()
    order = sorted(range(len(source)), key=digest)
    return PartSource(source, np.sort(order[:kept] if scored else order[kept:])[:most])


# Going on where a file is bad: another example takes its place, the same one every time, and it is counted.


ASKED = "asked"
"""Key of the example that was asked for, where "index" is the one that came."""
_MOST_IN_A_ROW = 64


@dataclasses.dataclass(frozen=True)
class SkippingSource:
    """A source in which the next readable example stands in for one that cannot be read.

    Which one stands in depends on the files alone, so batch k stays a function of the seed and k. Training uses the
    stand-in; evaluation, where no example may count twice, leaves the row out.

    Attributes:
      source: what to read.

    >>> class Broken:
    ...     def __len__(self): return 3
    ...     def __getitem__(self, k):
    ...         if k == 1: raise DataError("data: b.png cannot be decoded")
    ...         return {"id": "abc"[k]}
    >>> SkippingSource(Broken())[1]
    {'id': 'c', 'index': 2, 'asked': 1}
    """

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> Mapping:
        count = len(self.source)
        for step in range(min(count, _MOST_IN_A_ROW)):
            number = (int(index) + step) % count
            try:
                example = self.source[number]
            except DataError as error:
                last = error
                continue
            return {**example, "index": number, ASKED: int(index)}
        raise DataError(
            f"data: {min(count, _MOST_IN_A_ROW)} examples in a row cannot be read; the last: {last}"
        ) from last

    def reason(self, index: int) -> str:
        """Why an example cannot be read; "" if it can."""
        try:
            self.source[int(index)]
        except DataError as error:
            return str(error)
        return ""


def skipped_text(source: Source, skipped: Mapping[int, int]) -> str:
    """One line on what was passed over: how many examples, how often, and why the first of them.

    Args:
      source: what was read.
      skipped: number of an example -> how often it was asked for.
    """
    first = min(skipped)
    reason = source.reason(first) if isinstance(source, SkippingSource) else ""
    examples = "1 bad example" if len(skipped) == 1 else f"{len(skipped)} bad examples"
    times = sum(skipped.values())
    often = "once" if times == 1 else f"{times} times in all"
    return f"data: passed over {examples} of {len(source)}, {often}; the first: {reason.removeprefix('data: ')}"
