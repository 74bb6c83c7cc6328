"""Random-access sources over generated pictures."""

import dataclasses

import numpy as np

from ditask_jax.data.scenes.compose import compose_scene
from ditask_jax.data.scenes.dice import dice_for
from ditask_jax.data.scenes.labels import LABELS
from ditask_jax.errors import ConfigError, check_known

SPLITS = {"train": 2000, "val": 500}


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 16:
        raise ConfigError(f"scenes: size {height}x{width} is too small; use at least 16x16")
    return int(height), int(width)


@dataclasses.dataclass(frozen=True)
class ScenesSource:
    """Multi-task scenes, made on the fly: example k is a pure function of (seed, split, k, size).

    It does not depend on `num_examples`, `tasks`, the order of access, the thread or the process.

    Attributes:
      split: "train" or "val".
      size: height and width in pixels (or one int).
      seed: another seed is another data set.
      num_examples: length; None for 2000 (train) and 500 (val).
      tasks: labels to return.

    Returns of `source[k]`: `{"image": uint8 [H, W, 3], "id": str, task: label, ...}` with semseg (12 classes),
    human_parts (7), sal and edge uint8 [H, W]; normals float32 [H, W, 3] (zero = missing); depth float32 [H, W]
    metres (0 = missing).

    >>> example = ScenesSource("val", size=64, tasks=("semseg", "depth"))[3]
    >>> example["image"].shape, example["semseg"].dtype.name, example["id"]
    ((64, 64, 3), 'uint8', 'val-000003')
    """

    split: str
    size: int | tuple[int, int] = (128, 128)
    seed: int = 0
    num_examples: int | None = None
    tasks: tuple[str, ...] = tuple(LABELS)

    def __post_init__(self) -> None:
        check_known("scenes: split", self.split, SPLITS)
        for task in self.tasks:
            check_known("scenes: task", task, LABELS)
        object.__setattr__(self, "size", _checked_size(self.size))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if self.num_examples is None:
            object.__setattr__(self, "num_examples", SPLITS[self.split])
        _check_count(self.num_examples)

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> dict:
        index = _checked_index(index, self.num_examples)
        image, canvas = compose_scene(dice_for(self.seed, self.split, index), self.size)
        example = {"image": image, "id": f"{self.split}-{index:06d}"}
        for task in self.tasks:
            example[task] = LABELS[task](canvas)
        return example


def _check_count(count: int) -> None:
    if count < 1:
        raise ConfigError(f"scenes: num_examples must be at least 1, got {count}")


def _checked_index(index: int, count: int) -> int:
    index = int(np.int64(index))
    if not -count <= index < count:
        raise IndexError(f"scenes: index {index} is outside 0..{count - 1}")
    return index % count
