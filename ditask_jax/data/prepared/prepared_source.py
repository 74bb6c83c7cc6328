"""Reads a prepared data set: array_record shards with a manifest that says what is in them and what they hash to.

A set is a folder `ROOT/<name>_mt/[package/]VERSION/` whose `prepared.json` was written last, before the folder got its
name. Opening it compares the sizes of its files; `verify` hashes them.
"""

import dataclasses
import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.benchmarks.tree import DEPTH_FACTOR, DTYPES, Record, finish
from ditask_jax.errors import DataError, check_known
from ditask_jax.files import user_path

MANIFEST = "prepared.json"
FORMAT = "ditask_jax prepared data set, 2"
_KEYS = ("format", "data_set", "layout", "tasks", "forms", "class_counts", "depth_unit", "resizes_labels", "splits")
_REPAIR = "prepare it again with `python -m ditask_jax.data build`"


def working_folder(out: Path, name: str) -> Path:
    """Where a set is put together before it gets its name."""
    return out / f".{name}_mt.preparing"


def find_prepared(root: Path, name: str) -> Path | None:
    """The folder of a prepared set in `root`: itself, or the one set of that name below it; None if there is none.

    Raises:
      DataError: several sets, the set of another data set, or one whose preparation was interrupted.
    """
    if (root / MANIFEST).is_file():
        found = [root]
    else:
        places = [root / f"{name}_mt", *([root] if f"{name}_mt" in root.parts else [])]
        patterns = (f"*/{MANIFEST}", f"*/*/{MANIFEST}")
        found = sorted({path.parent for place in places for pattern in patterns for path in place.glob(pattern)})
    if len(found) > 1:
        shown = " ".join(str(folder) for folder in found)
        raise DataError(f"{name}: {root} holds several prepared sets; give one of them as the root: {shown}")
    if found:
        data_set = read_manifest(found[0])["data_set"]
        if data_set != name:
            raise DataError(f"{name}: {found[0]} is a prepared set of '{data_set}'")
        return found[0]
    if working_folder(root, name).is_dir():
        raise DataError(
            f"{name}: the preparation in {root} has not finished; run the same `python -m ditask_jax.data build` again"
        )
    return None


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a prepared set says about itself.

    Raises:
      DataError: it cannot be read, or is of another format.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(image_files.read_bytes(path))
    except ValueError as error:
        raise DataError(f"data: {path} is damaged; {_REPAIR}") from error
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"data: {path} is not of the format '{FORMAT}'; {_REPAIR}")
    missing = [key for key in (*_KEYS, "files") if key not in manifest]
    if missing:
        raise DataError(f"data: {path} lacks {' '.join(missing)}; {_REPAIR}")
    return manifest


def check_sizes(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Raises DataError unless every file is there with its size: the check that costs nothing."""
    for name, entry in manifest["files"].items():
        path = folder / name
        if not path.is_file():
            raise DataError(f"data: {path} of a prepared set is missing; {_REPAIR}")
        if path.stat().st_size != entry["bytes"]:
            raise DataError(f"data: {path} has {path.stat().st_size} bytes, expected {entry['bytes']}; {_REPAIR}")


def verify(folder: Path, on_bytes: Callable[[int], None] | None = None) -> dict[str, Any]:
    """Hashes every file of a prepared set and counts its examples; returns its manifest.

    Raises:
      DataError: a file is missing or differs, or the counts do.
    """
    manifest = read_manifest(folder)
    check_sizes(folder, manifest)
    for name, entry in manifest["files"].items():
        if hash_file(folder / name, on_bytes) != entry["sha256"]:
            raise DataError(f"data: {folder / name} differs from what was prepared (its hash is another); {_REPAIR}")
    for split, entry in manifest["splits"].items():
        count, expected = len(PreparedSource(folder, split, ())), entry["examples"]
        if count != expected:
            raise DataError(f"data: {folder} holds {count} examples of {split}, expected {expected}; {_REPAIR}")
    return manifest


def hash_file(path: Path, on_bytes: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file's content, as hexadecimal digits."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
            if on_bytes is not None:
                on_bytes(len(block))
    return digest.hexdigest()


@dataclasses.dataclass(frozen=True)
class PreparedSource:
    """Reads examples of a prepared set, equal in every bit to those of the tree it was made from.

    Attributes:
      folder: of the set, which holds the manifest.
      split: "train" or "val".
      tasks: labels to read.
      num_examples: use only the first that many; None for all.

    Raises:
      DataError: no set, missing files, or tasks that were not prepared.
    """

    folder: Path
    split: str
    tasks: tuple[str, ...]
    num_examples: int | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "folder", user_path(self.folder, "data: folder"))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        manifest = read_manifest(self.folder)
        check_sizes(self.folder, manifest)
        check_known(f"{manifest['data_set']}: split", self.split, manifest["splits"])
        absent = [task for task in self.tasks if task not in manifest["tasks"]]
        if absent:
            raise DataError(
                f"{manifest['data_set']}: {self.folder} was prepared with {' '.join(manifest['tasks'])}, without "
                f"{' '.join(absent)}; prepare it again with --tasks {'+'.join([*manifest['tasks'], *absent])}"
            )
        object.__setattr__(self, "manifest", manifest)
        object.__setattr__(self, "_opened", _Opened())

    @property
    def depth_unit(self) -> str:
        """Unit of the depth labels."""
        return self.manifest["depth_unit"]

    @property
    def notes(self) -> tuple[str, ...]:
        """What was detected when it was prepared."""
        return tuple(self.manifest.get("notes", ()))

    def __len__(self) -> int:
        total = len(self._opened.get(self.folder, self.split).records)
        return total if self.num_examples is None else min(total, self.num_examples)

    def __getitem__(self, index: int) -> dict:
        index = int(index)
        if not 0 <= index < len(self):
            raise IndexError(f"example {index} of {len(self)}")
        stored = self._opened.get(self.folder, self.split).example(index)
        name = stored["id"].bytes_list.value[0].decode()
        where = f"{self.folder}, {self.split} example '{name}'"
        image, _, _ = image_files.decode_image(stored["image"].bytes_list.value[0], f"{where}, image")
        forms, values, origins = self.manifest["forms"], {}, {"image": where}
        for task in self.tasks:
            origins[task] = f"{where}, {task}"
            content = stored[f"{task}/value"].bytes_list.value[0]
            values[task] = np.frombuffer(content, DTYPES[forms[task]]).reshape(stored[f"{task}/shape"].int64_list.value)
        constants = {}
        if "depth" in self.tasks and DEPTH_FACTOR in stored:
            constants[DEPTH_FACTOR] = float(stored[DEPTH_FACTOR].float_list.value[0])
        return finish(Record(name, image, None, values, constants, origins), forms, self.manifest["resizes_labels"])

    def __getstate__(self) -> dict:
        # Open files stay behind: a worker process opens its own.
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}

    def __setstate__(self, state: dict) -> None:
        for name, value in state.items():
            object.__setattr__(self, name, value)
        self.__post_init__()


class _Opened:
    """The shards of a split, opened when first needed."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.records = self._parse = None

    def get(self, folder: Path, split: str) -> "_Opened":
        with self._lock:
            if self.records is None:
                self._open(folder, split)
        return self

    def example(self, index: int) -> Mapping[str, Any]:
        """The features of an example as they are stored."""
        return self._parse(self.records[index]).features.feature

    def _open(self, folder: Path, split: str) -> None:
        import tensorflow_datasets as tfds  # here: reading from a tree does not need it
        from tensorflow_datasets.proto import tf_example_pb2

        # Its own decoding of an example takes as long as decoding all the labels, which are plain bytes.
        self._parse = tf_example_pb2.Example.FromString
        builder = tfds.builder_from_directory(folder)
        self.records = builder.as_data_source(split, deserialize_method=tfds.decode.DeserializeMethod.RAW_BYTES)
