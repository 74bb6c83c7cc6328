"""The files of a benchmark as its archives unpack: ids per split, one record per example, and a source that reads
them.
"""

import abc
import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.errors import ConfigError, DataError, check_known

# One example as its files hold it, and how that becomes the labels of a source.
#
# What is read from a tree is kept compact (class ids, colours, disparities: small integers), for a prepared set stores
# exactly these arrays; both ways of reading then go through `finish`, which is why they agree to the last bit.
#
# | form | stored | label |
# |---|---|---|
# | classes | uint8 [H, W] | the same; 255 = ignore |
# | colours | uint8 [H, W, 3] | directions float32 [H, W, 3] = 2 v / 255 - 1; black and mid-grey = missing |
# | vectors | float32 [H, W, 3] | the same; zero = missing |
# | annotators | uint16 [H, W] | the same: a bit per annotator, see `labels.pack_annotators` |
# | distances | float32 [H, W] | the same; 0 = missing |
# | disparity | uint16 [H, W] | float32 [H, W]: pixels (v - 1) / 256, or metres factor / pixels; 0 = missing |


DTYPES = {
    "classes": np.uint8,
    "colours": np.uint8,
    "vectors": np.float32,
    "distances": np.float32,
    "disparity": np.uint16,
    "annotators": np.uint16,
}
"""Type of the numbers of each form."""
DEPTH_FACTOR = "depth_factor"
"""Constant of an example: baseline times focal length, which over the disparity is the depth in metres."""


@dataclasses.dataclass
class Record:
    """One example in stored form.

    Attributes:
      name: its id.
      image: uint8 [H, W, 3].
      content: the image's file, where any decoder reads it alike; else None.
      values: stored form of each label.
      constants: numbers that belong to the example.
      origins: what to call each label (and "image") in messages.
    """

    name: str
    image: np.ndarray
    content: bytes | None
    values: dict[str, np.ndarray]
    constants: dict[str, float]
    origins: dict[str, Path | str]


def finish(record: Record, forms: Mapping[str, str], resizes_labels: bool) -> dict:
    """The example `{"image", "id", task: label}` of a record.

    Args:
      record: what was read.
      forms: form of each label, see this module.
      resizes_labels: a label of another size is resized (nearest; directions cubic) if its aspect ratio agrees.

    Raises:
      DataError: a label does not fit its image.
    """
    example: dict = {"image": record.image, "id": record.name}
    size = record.image.shape[:2]
    for task, values in record.values.items():
        label = expand(forms[task], values, record.constants)
        if label.shape[:2] != size:
            if not resizes_labels:
                raise DataError(
                    f"data: {record.origins[task]} is {label.shape[0]}x{label.shape[1]} (height x width), expected "
                    f"{size[0]}x{size[1]}, the size of its image {record.origins['image']}"
                )
            label = image_files.fit_label(label, size, label.ndim == 3, record.origins[task])
        example[task] = label
    return example


def expand(form: str, values: np.ndarray, constants: Mapping[str, float]) -> np.ndarray:
    """A label from its stored form.

    >>> expand("disparity", np.array([[0, 1, 257]], np.uint16), {}).tolist()
    [[0.0, 0.0, 1.0]]
    >>> expand("disparity", np.array([[0, 1, 257]], np.uint16), {DEPTH_FACTOR: 500.0}).tolist()
    [[0.0, 0.0, 500.0]]
    """
    if form == "colours":
        return image_files.colours_to_vectors(values)
    if form == "disparity":
        factor = constants.get(DEPTH_FACTOR)
        return _PIXELS[values] if factor is None else _INVERSE_PIXELS[values] * np.float32(factor)
    return values


_PIXELS = np.maximum(np.arange(1 << 16, dtype=np.float32) - 1, 0) / np.float32(256)
_INVERSE_PIXELS = np.divide(1, _PIXELS, out=np.zeros_like(_PIXELS), where=_PIXELS > 0)


# What every data set's tree of files says about itself: splits, ids, the files of each label, how they are decoded.


SPLITS = ("train", "val")
Exists = Callable[[Path], bool]


class File(NamedTuple):
    """A file that an example needs, and the archive it comes in."""

    path: Path
    archive: str


class Missing(NamedTuple):
    """A file that is not there: of which example, for what ("image" or a task)."""

    name: str
    what: str
    file: File


class Tree(abc.ABC):
    """One data set as its archives unpack.

    Attributes:
      name: of the data set.
      layout: which of its packages this is.
      root: folder of the tree.
      tasks: labels it can give; `usual_tasks`: those of its default configuration.
      forms: per task, how its label is stored (`trees.record`).
      class_counts: per class map, number of classes.
      expected: published lengths of the splits.
      depth_unit: of the depth that comes out: "metres", "pixels" (of disparity) or "inverse".
      resizes_labels: labels of another size than their image are resized.
      notes: what was detected rather than told, one line each.
    """

    name: str
    layout: str
    usual_tasks: tuple[str, ...]
    forms: Mapping[str, str]
    class_counts: Mapping[str, int]
    expected: Mapping[str, int]
    depth_unit: str = "metres"
    resizes_labels: bool = False

    def __init__(self, root: Path) -> None:
        self.root = root
        self.notes: list[str] = []
        self._ids: dict[str, tuple[str, ...]] = {}

    @property
    def tasks(self) -> tuple[str, ...]:
        return tuple(self.forms)

    @abc.abstractmethod
    def _find_ids(self, split: str) -> Sequence[str]:
        """Ids of a split, in order."""

    @abc.abstractmethod
    def files(self, split: str, name: str, what: str, exists: Exists = Path.exists) -> tuple[File, ...]:
        """The files that hold the image (`what="image"`) or one label of an example."""

    @abc.abstractmethod
    def _read(self, task: str, paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
        """One label in stored form; `size` is that of the image."""

    def _read_image(self, path: Path) -> tuple[np.ndarray, int, bytes | None]:
        """The image as stored, its orientation, and its content if that can be kept as it is."""
        content = image_files.read_bytes(path)
        image, orientation, plain = image_files.decode_image(content, path)
        return image, orientation, content if plain and orientation == 1 else None

    def _constants(self, split: str, name: str, tasks: Sequence[str]) -> dict[str, float]:
        """Numbers of an example that its labels depend on."""
        return {}

    def ids(self, split: str) -> tuple[str, ...]:
        """Ids of a split, in order.

        Raises:
          DataError: the list is missing or empty, or names an example twice.
        """
        check_known(f"{self.name}: split", split, SPLITS)
        if split not in self._ids:
            found = tuple(self._find_ids(split))
            if not found:
                raise DataError(f"{self.name}: the {split} split in {self.root} is empty")
            if len(set(found)) < len(found):
                twice = next(name for k, name in enumerate(found) if name in found[:k])
                raise DataError(f"{self.name}: the {split} split in {self.root} names '{twice}' twice")
            self._ids[split] = found
        return self._ids[split]

    def check_tasks(self, tasks: Sequence[str]) -> None:
        """Raises ConfigError unless the tree has these labels."""
        for task in tasks:
            check_known(f"{self.name}: task", task, self.tasks)

    def missing(self, split: str, tasks: Sequence[str], names: Sequence[str] | None = None) -> list[Missing]:
        """Every file of a split that is not there, found by listing folders rather than asking file by file."""
        exists = _folder_lister()
        return [
            Missing(name, what, file)
            for name in (self.ids(split) if names is None else names)
            for what in ("image", *tasks)
            for file in self.files(split, name, what, exists)
            if not exists(file.path)
        ]

    def record(self, split: str, name: str, tasks: Sequence[str]) -> Record:
        """Reads one example.

        An image with an orientation is taken as its labels were drawn: turned upright if only that gives it the size
        of its labels, else as it is stored, which is how the loaders these data sets were made with read it. A label
        with one is refused.

        Raises:
          DataError: a file is missing (with its archive), damaged, or holds what it must not.
        """
        (picture,) = self._present(split, name, "image")
        image, orientation, content = self._read_image(picture)
        values, origins = {}, {"image": picture}
        for task in tasks:
            paths = self._present(split, name, task)
            values[task] = self._read(task, paths, image.shape[:2])
            origins[task] = paths[0]
        if orientation != 1:
            upright = image_files.turn_upright(image, orientation)
            sizes = {value.shape[:2] for value in values.values()}
            if sizes == {upright.shape[:2]} and upright.shape != image.shape:
                image = upright
        return Record(name, image, content, values, self._constants(split, name, tasks), origins)

    def _present(self, split: str, name: str, what: str) -> list[Path]:
        found = self.files(split, name, what)
        for file in found:
            if not os.path.exists(file.path):  # unlike Path.exists, False where the system lets nobody look
                raise DataError(f"{self.name}: {file.path} is missing; it comes with {file.archive}")
        return [file.path for file in found]


def read_id_list(path: Path, data_set: str, archive: str) -> list[str]:
    """The ids of a text file, one per line.

    Raises:
      DataError: missing or not text.
    """
    if not os.path.exists(path):
        raise DataError(f"{data_set}: {path} is missing; it comes with {archive}")
    try:
        lines = image_files.read_bytes(path).decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"{data_set}: {path} is not a text file with one id per line") from error
    return [line.strip() for line in lines if line.strip()]


def find_root(root: Path, data_set: str, markers: Sequence[str], folders: Sequence[str], advice: str) -> Path:
    """The folder of a tree: `root`, or the one inside it that the archive makes.

    Args:
      root: what the user gave.
      data_set: for messages.
      markers: folders or files of which the tree holds at least one.
      folders: names that archives give the tree.
      advice: what to unpack, for the message.

    Raises:
      DataError: no tree there.
    """
    if not root.is_dir():
        raise DataError(f"{data_set}: {root} is not a folder; {advice}")
    for folder in (root, *(root / name for name in folders)):
        if any((folder / marker).exists() for marker in markers):
            return folder
    raise DataError(f"{data_set}: {root} holds none of {' '.join(markers)}; {advice}")


def check_choice(data_set: str, field: str, value: str | None, known: Sequence[str]) -> None:
    """Raises ConfigError unless `value` is None or one of `known`."""
    if value is not None:
        if not known:
            raise ConfigError(f"{data_set}: {field}: got '{value}', but there is nothing to choose; leave it out")
        check_known(f"{data_set}: {field}", value, known)


def _folder_lister() -> Exists:
    """Like `Path.exists`, with one listing per folder: thousands of questions to a network file system take minutes."""
    listings: dict[str, frozenset[str]] = {}

    def exists(path: Path) -> bool:
        folder, name = os.path.split(path)
        if folder not in listings:
            try:
                listings[folder] = frozenset(os.listdir(folder))
            except OSError:  # not there, no folder, or not for us
                listings[folder] = frozenset()
        return name in listings[folder]

    return exists


# A tree of original files as a source of examples.


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
