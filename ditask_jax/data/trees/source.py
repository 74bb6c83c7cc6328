"""A tree of original files as a source of examples."""

import dataclasses
from pathlib import Path

from ditask_jax.data.trees.record import finish
from ditask_jax.data.trees.tree import Tree
from ditask_jax.errors import DataError


@dataclasses.dataclass(frozen=True)
class TreeSource:
    """Reads examples straight from a data set's own files.

    Attributes:
      tree: where they are.
      split: "train" or "val".
      tasks: labels to read; only their files are needed.
      num_examples: use only the first that many; None for all.
      check: look for every file at the start.

    Raises:
      DataError: no such split, or files are missing (all of them are looked for before the first is read).

    An example is `{"image": uint8 [H, W, 3], "id": str, task: label, ...}` as of every source.
    """

    tree: Tree
    split: str
    tasks: tuple[str, ...]
    num_examples: int | None = None
    check: bool = True

    def __post_init__(self) -> None:
        object.__setattr__(self, "tasks", tuple(self.tasks))
        self.tree.check_tasks(self.tasks)
        names = self.tree.ids(self.split)[: self.num_examples]
        object.__setattr__(self, "_names", names)
        if self.check:
            missing = self.tree.missing(self.split, self.tasks, names)
            if missing:
                raise DataError(missing_text(self.tree.name, self.split, missing))

    @property
    def depth_unit(self) -> str:
        """Unit of the depth labels."""
        return self.tree.depth_unit

    @property
    def notes(self) -> tuple[str, ...]:
        """What was detected rather than told."""
        return tuple(self.tree.notes)

    def __len__(self) -> int:
        return len(self._names)

    def __getitem__(self, index: int) -> dict:
        record = self.tree.record(self.split, self._names[int(index)], self.tasks)
        return finish(record, self.tree.forms, self.tree.resizes_labels)


def missing_text(data_set: str, split: str, missing) -> str:
    """One line on missing files: the first, how many more, what they are part of and what they come with."""
    first: Path = missing[0].file.path
    count = len({entry.file.path for entry in missing})
    are = "is" if count == 1 else f"and {count - 1} more file{'s' if count > 2 else ''} are"
    comes = "it comes" if count == 1 else "the first comes"
    whats = " ".join(dict.fromkeys(entry.what for entry in missing))
    return (
        f"{data_set}: {split} split: {first} {are} missing (needed for {whats}); {comes} with "
        f"{missing[0].file.archive}; see `python -m ditask_jax.data doctor {data_set}`"
    )
