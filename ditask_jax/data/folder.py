"""A user's own pictures: image and label files in folders, no code and no preparation.

Layout, with `<id>` any file name without its ending (the same for a picture and its labels):

    ROOT/train/images/<id>.jpg|.jpeg|.png|...  colour pictures, any sizes
    ROOT/train/semseg/<id>.png                 class ids 0..C-1, 255 = ignore (8-bit grey or palette)
    ROOT/train/human_parts/<id>.png            part ids 0..P-1, 255 = ignore; a map of zeros = no person
    ROOT/train/sal/<id>.png                    0 = no, one other value (1 or 255, say) = yes
    ROOT/train/edge/<id>.png                   0 = no, one other value (1 or 255, say) = yes
    ROOT/train/normals/<id>.npy|.png           float [H, W, 3] unit vectors, zero = missing; as PNG, v = 2 RGB / 255 - 1
    ROOT/train/depth/<id>.npy|.png             float [H, W] metres, 0 = missing; as 16-bit PNG, millimetres
    ROOT/val/...                               the same

Only the folders of the requested tasks are needed. Without `val/`, `val_fraction` splits `train/` by a hash of the ids,
which never moves a picture from one side to the other when others are added. Most tools write 255 for "yes" into masks
(sal, edge); with `mask_ignore` it means "ignore" there too, and 1 is "yes". Of normals, x points right and y down; z
may point into the scene or towards the camera, for augmentation turns x and y only.
"""

import dataclasses
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ditask_jax.data import files
from ditask_jax.errors import ConfigError, DataError, check_known
from ditask_jax.labels import IGNORE

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SPLITS = ("train", "val")


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Pictures and labels under a folder laid out as described in this module.

    Attributes:
      root: folder that holds `train/` and `val/`.
      split: "train" or "val".
      tasks: labels to read.
      num_classes: allowed class ids per task, for example {"semseg": 21}; a task left out is not checked.
      val_fraction: share of `train/` that serves as validation when there is no `val/`.
      mask_ignore: in sal and edge files, 255 is "ignore" and 1 is "yes".
      num_examples: use only the first that many (sorted by id); None for all.
      seed: of the automatic split.
      check: look for every label at the start; if not, a missing one is noticed when it is read.

    Labels of another size than their picture are resized (nearest; normals cubic), provided the aspect ratio agrees
    within 2 %.

    Raises:
      DataError: the folder, a picture or a label is missing (all missing labels are looked for at the start).

    An example is `{"image": uint8 [H, W, 3], "id": str, task: label, ...}` as of every source.
    """

    root: str | Path
    split: str
    tasks: tuple[str, ...]
    num_classes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    val_fraction: float | None = None
    mask_ignore: bool = False
    num_examples: int | None = None
    seed: int = 0
    check: bool = True

    def __post_init__(self) -> None:
        check_known("folder: split", self.split, SPLITS)
        for task in self.tasks:
            check_known("folder: task", task, READERS)
        object.__setattr__(self, "root", Path(self.root))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "num_classes", dict(self.num_classes))
        object.__setattr__(self, "_entries", self._find())

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict:
        name, image_path, label_paths = self._entries[int(index)]
        image = files.read_image(image_path)
        example = {"image": image, "id": name}
        for task in self.tasks:
            path = label_paths[task]
            label = READERS[task](path, self)
            example[task] = files.fit_label(label, image.shape[:2], task == "normals", path)
        return example

    def _find(self) -> list[tuple[str, Path, dict[str, Path]]]:
        """Every example's id and files, sorted by id."""
        root, split = self.root, self.split
        if not root.is_dir():
            raise DataError(f"folder: {root} is not a folder; data.root must hold train/images (and val/images)")
        chosen: Callable[[str], bool] | None = None
        folder = root / split
        if not (root / "val").is_dir():
            if self.val_fraction is None and split == "val":
                raise DataError(
                    f"folder: {root / 'val'} is missing; make val/images, or set val_fraction (for example 0.1) "
                    "to take validation pictures from train/"
                )
            if self.val_fraction is not None:
                if not 0 < self.val_fraction < 1:
                    raise ConfigError(f"folder: val_fraction is a share between 0 and 1, got {self.val_fraction}")
                folder, chosen = root / "train", self._chosen
        images = _by_stem(folder / "images", IMAGE_ENDINGS, self.split)
        names = sorted(name for name in images if chosen is None or chosen(name))
        if not names:
            raise DataError(f"folder: the {split} split is empty: no pictures for it in {folder / 'images'}")
        names = names[: self.num_examples]
        labels: dict[str, dict[str, Path]] = {}
        for task in self.tasks:
            labels[task] = _by_stem(folder / task, _ENDINGS[task], self.split)
            missing = [name for name in names if name not in labels[task]]
            if not self.check:
                labels[task] |= {name: folder / task / (name + _ENDINGS[task][0]) for name in missing}
            elif missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                wanted = " or ".join(str(folder / task / (missing[0] + ending)) for ending in _ENDINGS[task])
                raise DataError(f"folder: picture '{missing[0]}'{more} has no {task} label: {wanted} is missing")
        return [(name, images[name], {task: labels[task][name] for task in self.tasks}) for name in names]

    def _chosen(self, name: str) -> bool:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode()).digest()
        is_val = int.from_bytes(digest[:8], "big") < self.val_fraction * 2**64
        return is_val == (self.split == "val")


def _by_stem(folder: Path, endings: tuple[str, ...], split: str) -> dict[str, Path]:
    """Files of a folder by their name without the ending; hidden files and other endings are passed over."""
    if not folder.is_dir():
        raise DataError(f"folder: {folder} is missing (needed for the {split} split)")
    found: dict[str, Path] = {}
    for entry in sorted(os.listdir(folder)):
        stem, ending = os.path.splitext(entry)
        if ending.lower() not in endings or entry.startswith("."):
            continue
        if stem in found:
            raise DataError(f"folder: {folder / entry} and {found[stem].name} have the same id '{stem}'; remove one")
        found[stem] = folder / entry
    return found


def _read_classes(path: Path, source: FolderSource) -> np.ndarray:
    return files.check_classes(files.read_indices(path), source.num_classes.get(path.parent.name, IGNORE), path)


def _read_mask(path: Path, source: FolderSource) -> np.ndarray:
    values = files.read_indices(path)
    ignored = (values == IGNORE) if source.mask_ignore else np.zeros(values.shape, bool)
    other = np.unique(values[(values != 0) & ~ignored]).tolist()
    if len(other) > 1:
        hint = "; set mask_ignore if 255 means ignore" if other == [1, IGNORE] else "; threshold soft masks first"
        raise DataError(f"folder: {path} holds the values {other[:4]}; a mask has 0 and one other value{hint}")
    return np.where(ignored, IGNORE, values != 0).astype(np.uint8)


def _read_normals(path: Path, _: FolderSource) -> np.ndarray:
    if path.suffix.lower() == ".png":
        vectors = files.read_colour_vectors(path)
    else:
        vectors = files.as_floats(files.read_array(path), 3, path)
    length = np.sqrt((vectors * vectors).sum(-1, keepdims=True))
    return vectors / np.where(length > 0, length, np.float32(1))


def _read_depth(path: Path, _: FolderSource) -> np.ndarray:
    if path.suffix.lower() == ".png":
        values = files.read_indices(path)
        if values.dtype == np.uint8:
            raise DataError(
                f"folder: {path} is an 8-bit picture; depth needs a 16-bit PNG in millimetres or a .npy in metres"
            )
        return values.astype(np.float32) * np.float32(0.001)
    values = files.as_floats(files.read_array(path), 1, path)
    if (values < 0).any():
        raise DataError(f"folder: {path} holds a negative depth ({float(values.min()):g}); missing values are 0")
    return values


READERS: dict[str, Callable[[Path, FolderSource], np.ndarray]] = {
    "semseg": _read_classes,
    "human_parts": _read_classes,
    "sal": _read_mask,
    "edge": _read_mask,
    "normals": _read_normals,
    "depth": _read_depth,
}
_ENDINGS = {task: (".npy", ".png") if task in ("normals", "depth") else (".png",) for task in READERS}
