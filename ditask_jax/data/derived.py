"""Labels that no file holds: made from a picture and its other labels, for any data set that has those."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from ditask_jax.data.interface import Source


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


class DerivedSource:
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

    def __getattr__(self, name: str) -> Any:
        # Unpickling asks before there is a source.
        if name.startswith("__") or "source" not in self.__dict__:
            raise AttributeError(name)
        return getattr(self.source, name)


def with_derived_labels(source: Source, tasks: Iterable[str]) -> Source:
    """The source itself where it holds every label, else one that makes the others."""
    names = tuple(tasks)
    return DerivedSource(source, names) if any(name in LABELS for name in names) else source
