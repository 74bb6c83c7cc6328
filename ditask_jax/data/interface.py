"""What every source of examples offers."""

from collections.abc import Mapping
from typing import Protocol


class Source(Protocol):
    """A random-access sequence of examples; it must be picklable and safe to read from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping: ...
