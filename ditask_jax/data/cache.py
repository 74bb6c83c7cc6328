"""Keeps decoded or generated examples in memory, up to a bound."""

import threading
from collections.abc import Mapping

import numpy as np

from ditask_jax.data.interface import Source


class CachedSource:
    """A source that remembers its examples: the first ones asked for, until `max_bytes` are used.

    Values are those of the wrapped source; augmentation comes after it and stays fresh. A copy sent to a worker process
    starts empty, so use it with threads.

    Args:
      source: what to remember.
      max_bytes: bound on the arrays held.

    >>> from ditask_jax.data.scenes import ScenesSource
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
