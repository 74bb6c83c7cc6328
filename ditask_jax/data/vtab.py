"""VTAB-1k: 1,000 training pictures of each of 19 tasks, from lists of files or from tensorflow-datasets.

The layout of lists, one folder per task (`cifar` and `kitti` will do for `cifar100` and `kitti_dist`), is what most
fine-tuning repositories share:

    ROOT/<task>/train800val200.txt   the 1,000 training pictures, lines "relative/path.jpg label"
    ROOT/<task>/test.txt             the test pictures
    ROOT/<task>/train800.txt, val200.txt   the same 1,000 in two parts, to choose hyper-parameters with

What `ditask_jax.data.vtab_prepare` makes of tensorflow-datasets' own sets is read as well; reading needs no TensorFlow.
"""

import os
from pathlib import Path

import numpy as np

from ditask_jax.data import files
from ditask_jax.data.vtab_tasks import TUNING_EXAMPLES, VTAB_TASKS, VtabTask, vtab_task
from ditask_jax.errors import DataError, check_known
from ditask_jax.files import user_path

LABEL = "classification"
SPLITS = ("train", "val")
# By (split, tuning): the list of a split.
_LISTS = {
    ("train", False): "train800val200.txt",
    ("val", False): "test.txt",
    ("train", True): "train800.txt",
    ("val", True): "val200.txt",
}


def open_vtab(
    root: str | Path | None,
    split: str,
    task: str | None,
    tuning: bool = False,
    num_examples: int | None = None,
) -> "VtabListSource | VtabPreparedSource":
    """Opens a split of a task, from whichever of the two layouts is under `root`.

    Args:
      root: folder of all tasks.
      split: "train" (1,000 pictures) or "val" (the test set).
      task: a key of `VTAB_TASKS`.
      tuning: 800 pictures to train on and 200 to score instead.
      num_examples: use only the first that many; None for all.

    Returns:
      A source of `{"image": uint8 [H, W, 3], "id": str, "classification": int}`.

    Raises:
      ConfigError: unknown task or split.
      DataError: neither layout is there, or files are missing.
    """
    spec = vtab_task(task)
    check_known("vtab: split", split, SPLITS)
    if root is None:
        raise DataError("data: 'vtab' needs data.root, the folder that holds cifar100/train800val200.txt and so on")
    root = user_path(root)
    if not root.is_dir():
        raise DataError(f"vtab: {root} is not a folder; data.root must hold {spec.name}/train800val200.txt")
    arguments = (spec.name, split, tuning, num_examples)
    folder = _list_folder(root, spec)
    if folder is not None:
        return VtabListSource(folder, *arguments)
    prepared = find_prepared(root, spec)
    if prepared is not None:
        return VtabPreparedSource(prepared, *arguments)
    raise DataError(
        f"vtab: {root} holds no '{spec.name}': neither {root / spec.name / 'train800val200.txt'} (layout of lists) nor "
        f"{root / spec.builder} (prepared by `python -m ditask_jax.data build vtab`)"
    )


def _list_folder(root: Path, spec: VtabTask) -> Path | None:
    candidates = [root / name for name in spec.folders]
    if root.name in spec.folders:  # the folder of the task itself was given
        candidates.append(root)
    lists = ("train800val200.txt", "train800.txt", "test.txt")
    return next((folder for folder in candidates if any((folder / name).is_file() for name in lists)), None)


def find_prepared(root: Path, spec: VtabTask) -> Path | None:
    """The newest version of a prepared set of tensorflow-datasets below `root`, None where there is none."""
    versions = [file.parent for file in (root / spec.builder).glob("*/dataset_info.json")]
    return max(versions, key=lambda path: _version(path.name), default=None)


def find_tasks(root: str | Path) -> list[str]:
    """The tasks of which a folder holds lists or a prepared set."""
    root = user_path(root)
    return [spec.name for spec in VTAB_TASKS.values() if _list_folder(root, spec) or find_prepared(root, spec)]


def _version(name: str) -> tuple[int, ...]:
    return tuple(int(part) if part.isdigit() else -1 for part in name.split("."))


class VtabListSource:
    """Pictures named in a list; see `open_vtab`.

    Every listed file is looked for when the source is opened.
    """

    def __init__(self, folder: Path, task: str, split: str, tuning: bool = False, num_examples: int | None = None):
        spec = vtab_task(task)
        self._entries = _read_list(folder / _LISTS[split, tuning], spec)[:num_examples]
        _check_files([path for path, _ in self._entries])

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict:
        path, label = self._entries[int(index)]
        # A class does not depend on how the picture is turned, so an orientation is passed over, as benchmarks do.
        image, _, _ = files.decode_image(files.read_bytes(path), path)
        return {"image": image, "id": path.name, LABEL: label}


def _read_list(path: Path, spec: VtabTask) -> list[tuple[Path, int]]:
    if not os.path.exists(path):
        raise DataError(f"vtab: {path} is missing; it lists the pictures as 'relative/path.jpg label'")
    try:
        lines = files.read_bytes(path).decode("utf-8").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"vtab: {path} is no text file ({error})") from error
    entries = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        name, _, label = line.strip().rpartition(" ")
        if not name or not label.isdecimal():
            raise DataError(f"vtab: {path}, line {number}: got {line!r}, expected 'relative/path.jpg label'")
        if int(label) >= spec.num_classes:
            raise DataError(
                f"vtab: {path}, line {number}: class {label}, but '{spec.name}' has classes 0 to {spec.num_classes - 1}"
            )
        entries.append((path.parent / name.strip(), int(label)))
    if not entries:
        raise DataError(f"vtab: {path} is empty")
    return entries


def _check_files(paths: list[Path]) -> None:
    """Looks every file up by listing folders, which is one call for thousands of files."""
    found: dict[Path, set[str]] = {}
    missing = []
    for path in paths:
        if path.parent not in found:
            try:
                found[path.parent] = set(os.listdir(path.parent))
            except OSError:  # not there, no folder, or not for us
                found[path.parent] = set()
        if path.name not in found[path.parent]:
            missing.append(path)
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise DataError(f"vtab: {missing[0]}{more} of the list is missing; unpack the pictures beside the lists")


class VtabPreparedSource:
    """Pictures of a set that tensorflow-datasets prepared as array records; see `open_vtab`."""

    def __init__(self, folder: Path, task: str, split: str, tuning: bool = False, num_examples: int | None = None):
        import tensorflow_datasets as tfds  # here: it takes half a second to load

        self._arguments = (folder, task, split, tuning, num_examples)
        self._spec = vtab_task(task)
        builder = tfds.builder_from_directory(str(folder))
        self._parts = [
            (_data_source(builder, folder, part), chosen)
            for part, chosen in _ranges(self._spec, split, tuning, builder.info.splits, folder)
        ]
        total = sum(len(chosen) for _, chosen in self._parts)
        self._length = total if num_examples is None else min(total, num_examples)

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if index < 0:
            raise IndexError(index)
        for source, chosen in self._parts:
            if index < len(chosen):
                return self._read(source, chosen[index])
            index -= len(chosen)
        raise IndexError(index)

    def _read(self, source, number: int) -> dict:
        found = source[number]
        name = f"{self._spec.name} {number}"
        image, _, _ = files.decode_image(found["image"], name)
        if self._spec.image_factor != 1:
            image = image * np.uint8(self._spec.image_factor)
        label = self._spec.label(found)
        if not 0 <= label < self._spec.num_classes:
            raise DataError(f"vtab: {name}: class {label}, but there are {self._spec.num_classes}")
        return {"image": image, "id": name, LABEL: label}

    def __reduce__(self):
        return VtabPreparedSource, self._arguments


def _ranges(spec: VtabTask, split: str, tuning: bool, splits, folder: Path) -> list[tuple[str, range]]:
    """Splits of the catalogue, and which of their examples make ours."""

    def after(part: tuple[str, int]) -> tuple[int, int]:
        name, percent = part
        if name not in splits:
            raise DataError(f"vtab: {folder} has no split '{name}' (it has {' '.join(splits)}); prepare it again")
        count = splits[name].num_examples
        return count * percent // 100, count

    if split == "val" and not tuning:
        return [(spec.test[0], range(*after(spec.test)))]
    first = ("train", range(min(TUNING_EXAMPLES, after(("train", 0))[1])))
    start, count = after(spec.second)
    second = (spec.second[0], range(start, min(start + 200, count)))
    return [first, second] if not tuning else [first] if split == "train" else [second]


def _data_source(builder, folder: Path, split: str):
    import tensorflow_datasets as tfds

    if str(builder.info.file_format.value) != "array_record":
        raise DataError(
            f"vtab: {folder} was prepared as {builder.info.file_format.value}, which only TensorFlow reads; "
            "prepare it as array_record: python -m ditask_jax.data build vtab"
        )
    return builder.as_data_source(split=split, decoders={"image": tfds.decode.SkipDecoding()})
