"""VTAB-1k: its 19 tasks, reading them, and preparing them once."""

import dataclasses
import importlib.util
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.errors import ConfigError, DataError, check_known
from ditask_jax.files import locked, user_path

# The 19 tasks of VTAB-1k: their classes, and where the catalogue of tensorflow-datasets keeps them.
#
# References:
#   X. Zhai et al. A large-scale study of representation learning with the visual task adaptation benchmark. 2019.


GROUPS = ("natural", "specialized", "structured")
EXAMPLES, TUNING_EXAMPLES = 1000, 800


def _label(name: str, divisor: float = 1.0) -> Callable[[Mapping], int]:
    return lambda example: int(int(example[name]) // divisor)


def _bin(value: float, edges: tuple[float, ...]) -> int:
    """The last edge below a value."""
    return int(np.searchsorted(edges, value, side="left")) - 1


def _nearest_object(example: Mapping) -> int:
    return _bin(np.min(np.asarray(example["objects"]["pixel_coords"])[:, 2]), (0, 8, 8.5, 9, 9.5, 10, 100))


def _nearest_vehicle(example: Mapping) -> int:
    objects = example["objects"]
    depth = np.asarray(objects["location"], np.float64).reshape(-1, 3)[:, 2]
    vehicles = depth[np.asarray(objects["type"]).reshape(-1) < 3]  # car, van, truck
    return _bin(min(vehicles.tolist(), default=1000.0), (-100, 8, 20, 999))


@dataclasses.dataclass(frozen=True)
class VtabTask:
    """One task of the benchmark.

    Attributes:
      name: its name here.
      group: "natural", "specialized" or "structured".
      num_classes: classes.
      folders: names of its folder in the layout with lists; the first is ours.
      builder: name (and configuration) in the catalogue of tensorflow-datasets.
      second: split, and per cent of it, after which the last 200 of the 1,000 training images come.
      test: split, and per cent of it, after which the test images come.
      label: from an example of the catalogue to its class.
      image_factor: what pixels are multiplied by.
    """

    name: str
    group: str
    num_classes: int
    folders: tuple[str, ...]
    builder: str
    second: tuple[str, int]
    test: tuple[str, int]
    label: Callable[[Mapping[str, Any]], int]
    image_factor: int = 1


def _task(name, group, num_classes, builder=None, second=("validation", 0), test=("test", 0), label=None, alias=None,
          image_factor=1) -> VtabTask:  # fmt: skip
    folders = (name,) if alias is None else (name, alias)
    return VtabTask(name, GROUPS[group], num_classes, folders, builder or name, second, test,
                    label or _label("label"), image_factor)  # fmt: skip


_NATURAL, _SPECIALIZED, _STRUCTURED = range(3)
_SIXTY_TWENTY = {"second": ("train", 60), "test": ("train", 80)}
_CLEVR = {"builder": "clevr", "second": ("train", 90), "test": ("validation", 0)}
_DSPRITES = {"builder": "dsprites", "second": ("train", 80), "test": ("train", 90), "image_factor": 255}
_SMALLNORB = {"builder": "smallnorb", "second": ("test", 0), "test": ("test", 50)}

VTAB_TASKS: dict[str, VtabTask] = {
    task.name: task
    for task in (
        _task("cifar100", _NATURAL, 100, second=("train", 90), alias="cifar"),
        _task("caltech101", _NATURAL, 102, second=("train", 90)),
        _task("dtd", _NATURAL, 47),
        _task("oxford_flowers102", _NATURAL, 102),
        _task("oxford_iiit_pet", _NATURAL, 37, second=("train", 80)),
        _task("svhn", _NATURAL, 10, "svhn_cropped", second=("train", 90)),
        _task("sun397", _NATURAL, 397, "sun397/tfds"),
        _task("patch_camelyon", _SPECIALIZED, 2),
        _task("eurosat", _SPECIALIZED, 10, "eurosat/rgb", **_SIXTY_TWENTY),
        _task("resisc45", _SPECIALIZED, 45, **_SIXTY_TWENTY),
        _task("diabetic_retinopathy", _SPECIALIZED, 5, "diabetic_retinopathy_detection/btgraham-300"),
        _task("clevr_count", _STRUCTURED, 8, label=lambda e: len(e["objects"]["pixel_coords"]) - 3, **_CLEVR),
        _task("clevr_dist", _STRUCTURED, 6, label=_nearest_object, **_CLEVR),
        _task("dmlab", _STRUCTURED, 6),
        _task("kitti_dist", _STRUCTURED, 4, "kitti", label=_nearest_vehicle, alias="kitti"),
        _task("dsprites_loc", _STRUCTURED, 16, label=_label("label_x_position", 2), **_DSPRITES),
        _task("dsprites_ori", _STRUCTURED, 16, label=_label("label_orientation", 40 / 16), **_DSPRITES),
        _task("smallnorb_azi", _STRUCTURED, 18, label=_label("label_azimuth"), **_SMALLNORB),
        _task("smallnorb_ele", _STRUCTURED, 9, label=_label("label_elevation"), **_SMALLNORB),
    )
}
"""By name, in the order of the benchmark's tables."""


def vtab_task(name: str | None) -> VtabTask:
    """The task of a name.

    Raises:
      ConfigError: no or an unknown name.

    >>> vtab_task("sun397").num_classes
    397
    >>> vtab_task("cifar10")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: data.vtab_task: unknown name 'cifar10'. Did you mean 'cifar100'? Known: \
cifar100 caltech101 dtd oxford_flowers102 oxford_iiit_pet svhn sun397 patch_camelyon eurosat resisc45 \
diabetic_retinopathy clevr_count clevr_dist dmlab kitti_dist dsprites_loc dsprites_ori smallnorb_azi smallnorb_ele
    """
    if name is None:
        raise ConfigError(f"config: data.vtab_task: got None, expected one of {' '.join(VTAB_TASKS)}")
    check_known("config: data.vtab_task", name, VTAB_TASKS)
    return VTAB_TASKS[name]


# VTAB-1k: 1,000 training images of each of 19 tasks, from lists of files or from tensorflow-datasets.
#
# The layout of lists, one folder per task (`cifar` and `kitti` will do for `cifar100` and `kitti_dist`), is what most
# fine-tuning repositories share:
#
#     ROOT/<task>/train800val200.txt   the 1,000 training images, lines "relative/path.jpg label"
#     ROOT/<task>/test.txt             the test images
#     ROOT/<task>/train800.txt, val200.txt   the same 1,000 in two parts, to choose hyper-parameters with
#
# What `ditask_jax.data.vtab` makes of tensorflow-datasets' own sets is read as well; reading needs no
# TensorFlow.


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
      split: "train" (1,000 images) or "val" (the test set).
      task: a key of `VTAB_TASKS`.
      tuning: 800 images to train on and 200 to score instead.
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
    """Images named in a list; see `open_vtab`.

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
        # A class does not depend on how the image is turned, so an orientation is passed over, as benchmarks do.
        image, _, _ = image_files.decode_image(image_files.read_bytes(path), path)
        return {"image": image, "id": path.name, LABEL: label}


def _read_list(path: Path, spec: VtabTask) -> list[tuple[Path, int]]:
    if not os.path.exists(path):
        raise DataError(f"vtab: {path} is missing; it lists the images as 'relative/path.jpg label'")
    try:
        lines = image_files.read_bytes(path).decode("utf-8-sig").splitlines()
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
        raise DataError(f"vtab: {missing[0]}{more} of the list is missing; unpack the images beside the lists")


class VtabPreparedSource:
    """Images of a set that tensorflow-datasets prepared as array records; see `open_vtab`."""

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
        image, _, _ = image_files.decode_image(found["image"], name)
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


# Prepares the catalogue sets behind VTAB-1k with tensorflow-datasets: the one place that needs TensorFlow.


def prepare_vtab(task: str, out: str | Path, manual_dir: str | Path | None = None) -> Path:
    """Downloads the catalogue set of a task and writes it as array records, which are read without TensorFlow.

    A finished set is left as it is; an interrupted one starts anew from the files already downloaded.

    Args:
      task: a key of `VTAB_TASKS`; tasks of one catalogue set (`clevr_count`, `clevr_dist`) share it.
      out: folder of the prepared sets: `data.root` of training.
      manual_dir: archives that must be fetched by hand (resisc45, diabetic_retinopathy).

    Returns:
      The folder of the prepared set.

    Raises:
      ConfigError: unknown task.
      DataError: TensorFlow is not installed, or preparing failed.
    """
    spec, out = vtab_task(task), user_path(out, "vtab: out")
    # tensorflow-datasets uses the second wherever it writes a set of its catalogue, and does not ask for it.
    missing = [name for name in ("tensorflow", "importlib_resources") if importlib.util.find_spec(name) is None]
    if missing:
        raise DataError(
            f"vtab: preparing '{task}' from tensorflow-datasets needs {' and '.join(missing)}, not installed here: "
            "pip install tensorflow-cpu importlib-resources (reading the prepared set needs neither, lists of files "
            "never do)"
        )
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(spec.builder, data_dir=str(out), file_format="array_record")
        folder = None if manual_dir is None else str(user_path(manual_dir, "vtab: manual_dir"))
        lock = out / f".{spec.builder}.lock"
        with locked(lock, "vtab", "preparation", "wait for it, or use another --out", DataError):
            builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=folder))
    except DataError:
        raise
    except Exception as error:  # code of the catalogue, not ours: whatever it raises on a failed download or archive
        raise DataError(f"vtab: preparing '{task}' failed: {_first_line(error)}") from error
    return Path(str(builder.data_path))


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
