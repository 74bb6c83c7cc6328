"""Going on where a file is bad: another example takes its place, the same one every time, and it is counted."""

import dataclasses
from collections.abc import Mapping

from ditask_jax.data.interface import Source
from ditask_jax.errors import DataError

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
