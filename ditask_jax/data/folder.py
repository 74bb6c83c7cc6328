"""A user's own images: image and label files in folders, no code and no preparation.

Layout, with `<id>` any file name without its ending (the same for an image and its labels):

    ROOT/train/images/<id>.jpg|.jpeg|.png|...  colour images, any sizes
    ROOT/train/semseg/<id>.png                 class ids 0..C-1, 255 = ignore (8-bit grey or palette)
    ROOT/train/human_parts/<id>.png            part ids 0..P-1, 255 = ignore; a map of zeros = no person
    ROOT/train/sal/<id>.png                    0 = no, one other value (1 or 255, say) = yes
    ROOT/train/edge/<id>.png                   0 = no, one other value (1 or 255, say) = yes
    ROOT/train/normals/<id>.npy|.png           float [H, W, 3] unit vectors, zero = missing; as PNG, v = 2 RGB / 255 - 1
    ROOT/train/depth/<id>.npy|.png             float [H, W] metres, 0 = missing; as 16-bit PNG, millimetres; other
                                               units, and whole numbers in .npy files, need `depth_unit`
    ROOT/train/<folder>/<id>.png|.npy          any other label, as the configuration declares it (`declared_labels`)
    ROOT/val/...                               the same

Only the folders of the requested tasks are needed. Without `val/`, `val_fraction` splits `train/` by a hash of the ids,
which never moves an image from one side to the other when others are added. With `subfolders`, `<id>` may hold folders
(images/a/x.jpg, semseg/a/x.png). Most tools write 255 for "yes" into masks (sal, edge); with `mask_ignore` it means
"ignore" there too, and 1 is "yes". Without it (False), 255 is "yes" in class maps of two classes as well. Of normals, x
points right and y down; z may point into the scene or towards the camera, for augmentation turns x and y only.
"""

import dataclasses
import glob
import hashlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.declared_labels import DEPTH_UNITS, ENDINGS, DeclaredLabel, read_depth, read_normals
from ditask_jax.errors import ConfigError, DataError, check_known, did_you_mean
from ditask_jax.files import user_path
from ditask_jax.labels import IGNORE

IMAGE_ENDINGS = (".jpg", ".jpeg", ".png", ".bmp", ".webp", ".tif", ".tiff")
SPLITS = ("train", "val")
_NOT_OURS = ("__MACOSX", "@eaDir")  # what systems put beside images


@dataclasses.dataclass(frozen=True)
class FolderSource:
    """Images and labels under a folder laid out as described in this module.

    Attributes:
      root: folder that holds `train/` and `val/`.
      split: "train" or "val".
      tasks: labels to read.
      num_classes: allowed class ids per task, for example {"semseg": 21}; a task left out is not checked.
      val_fraction: share of `train/` that serves as validation when there is no `val/`.
      mask_ignore: True: in sal and edge files, 255 is "ignore" and 1 is "yes". False: in class maps of two classes, 0
        is class 0 and any other value class 1. None: 255 is "ignore" in class maps alone.
      depth_unit: unit of all depth files, "metres" or "millimetres"; None: floats are metres, 16-bit PNG files
        millimetres, and whole numbers in .npy files are refused. Labels are in metres.
      subfolders: True: read images in folders below `images/` too. False: pass over them. None: refuse them.
      declared: by task, how its files are read where a configuration says so; a task left out is one of `READERS`.
      num_examples: use only the first that many (sorted by id); None for all.
      seed: of the automatic split.
      check: look for every label at the start; if not, a missing one is noticed when it is read.

    Labels of another size than their image are resized (nearest; normals cubic), provided the aspect ratio agrees
    within 2 %.

    Raises:
      DataError: the folder, an image or a label is missing (all missing labels are looked for at the start).

    An example is `{"image": uint8 [H, W, 3], "id": str, task: label, ...}` as of every source.
    """

    root: str | Path
    split: str
    tasks: tuple[str, ...]
    num_classes: Mapping[str, int] = dataclasses.field(default_factory=dict)
    val_fraction: float | None = None
    mask_ignore: bool | None = None
    num_examples: int | None = None
    seed: int = 0
    check: bool = True
    depth_unit: str | None = None
    subfolders: bool | None = None
    declared: Mapping[str, DeclaredLabel] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        check_known("folder: split", self.split, SPLITS)
        object.__setattr__(self, "declared", dict(self.declared))
        for task in self.tasks:
            check_known("folder: task", task, [*READERS, *self.declared])
        if self.depth_unit is not None:
            check_known("config: data.depth_unit of 'folder'", self.depth_unit, DEPTH_UNITS)
        object.__setattr__(self, "root", user_path(self.root, "folder: root"))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        object.__setattr__(self, "num_classes", dict(self.num_classes))
        for task, count in self.num_classes.items():
            if not 1 <= count <= IGNORE:
                raise ConfigError(
                    f"folder: num_classes of {task} (--config.data.{task}_classes; doctor, show: "
                    f"--{task.replace('_', '-')}-classes): got {count}, expected 1 to {IGNORE}, for ids take 8 bits "
                    f"and {IGNORE} means ignore"
                )
        object.__setattr__(self, "_entries", self._find())

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, index: int) -> dict:
        name, image_path, label_paths = self._entries[int(index)]
        image = image_files.read_image(image_path)
        example = {"image": image, "id": name}
        for task in self.tasks:
            path, form = label_paths[task], self.declared.get(task)
            label = READERS[task](path, self, task) if form is None else form.read(path)
            is_cubic = task == "normals" if form is None else form.kind == "normals"
            example[task] = image_files.fit_label(label, image.shape[:2], is_cubic, path)
        return example

    def _find(self) -> list[tuple[str, Path, dict[str, Path]]]:
        """Every example's id and files, sorted by id."""
        root, split = self.root, self.split
        if not os.path.isdir(root):  # unlike Path.is_dir, False where the system lets nobody look
            raise DataError(f"folder: {root} is not a folder; data.root must hold train/images (and val/images)")
        chosen: Callable[[str], bool] | None = None
        folder = root / split
        if not os.path.isdir(root / "val"):
            if self.val_fraction is None and split == "val":
                raise DataError(
                    f"folder: {root / 'val'} is missing; make val/images, or set val_fraction "
                    "(--config.data.val_fraction=0.1; doctor, show: --val-fraction 0.1) to take validation images "
                    "from train/"
                )
            if self.val_fraction is not None:
                if not 0 < self.val_fraction < 1:
                    raise ConfigError(f"folder: val_fraction is a share between 0 and 1, got {self.val_fraction}")
                folder, chosen = root / "train", self._chosen
        images = self._by_stem(folder / "images", IMAGE_ENDINGS)
        names = sorted(name for name in images if chosen is None or chosen(name))
        if not names:
            raise DataError(
                f"folder: the {split} split is empty: no images for it in {folder / 'images'}; endings that are "
                f"read: {' '.join(IMAGE_ENDINGS)}"
            )
        names = names[: self.num_examples]
        labels: dict[str, dict[str, Path]] = {}
        for task in self.tasks:
            form = self.declared.get(task)
            place, endings = (folder / task, _ENDINGS[task]) if form is None else (folder / form.folder, ENDINGS)
            labels[task] = self._by_stem(place, endings, form)
            missing = [name for name in names if name not in labels[task]]
            if not self.check:
                labels[task] |= {name: place / (name + endings[0]) for name in missing}
            elif missing:
                more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
                wanted = " or ".join(str(place / (missing[0] + ending)) for ending in endings)
                others = sorted(path.name for path in place.glob(f"{glob.escape(missing[0])}.*"))
                there = f"; there is {others[0]}, of an ending that is not read" if others else ""
                if not labels[task]:
                    there = there or f"; {place} holds no {' or '.join(endings)} file at all"
                raise DataError(f"folder: image '{missing[0]}'{more} has no {task} label: {wanted} is missing{there}")
        return [(name, images[name], {task: labels[task][name] for task in self.tasks}) for name in names]

    def _by_stem(self, folder: Path, endings: tuple[str, ...], form: DeclaredLabel | None = None) -> dict[str, Path]:
        """Files of a folder by their name without the ending; hidden files and other endings are passed over."""
        if form is not None and not os.path.isdir(folder):
            others = [name for name in label_folders(folder.parent) if name != "images"]
            near = f" {did_you_mean(form.folder, others)}" if others else ""
            raise DataError(
                f"folder: {folder} is missing (needed for '{form.name}', {self.split} split); where its files have "
                f"another folder, set --config.task.{form.name}.folder.{near}"
            )
        found: dict[str, Path] = {}
        for entry in self._list(folder, endings):
            stem, ending = os.path.splitext(entry)
            if ending.lower() not in endings:
                continue
            if stem in found:
                raise DataError(
                    f"folder: {folder / entry} and {found[stem].name} have the same id '{stem}'; remove one"
                )
            found[stem] = folder / entry
        return found

    def _list(self, folder: Path, endings: tuple[str, ...]) -> list[str]:
        """Names in a folder, sorted, with those in folders below it where these are read; hidden ones are left out."""
        if not os.path.isdir(folder):
            raise DataError(f"folder: {folder} is missing (needed for the {self.split} split)")
        names: list[str] = []
        visited: set[str] = set()  # links may lead back to where they stand
        for place, folders, entries in os.walk(folder, onerror=_cannot_list, followlinks=True):
            inner = Path(place).relative_to(folder)
            real = os.path.realpath(place)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            below = sorted(name for name in folders if not name.startswith(".") and name not in _NOT_OURS)
            # A folder that is called like an image is one to the eye; reading it says what it is.
            named_so = [name for name in below if os.path.splitext(name)[1].lower() in endings]
            seen = sorted(name for name in (*entries, *named_so) if not name.startswith("."))
            if inner.parts and not self.subfolders:
                if endings is IMAGE_ENDINGS and any(os.path.splitext(name)[1].lower() in endings for name in seen):
                    raise DataError(
                        f"folder: {place} holds images below {folder}, which are not read; set "
                        "--config.data.subfolders=true (doctor, show: --subfolders true) to read them, false to pass "
                        "over them, or move them up"
                    )
                seen = []
            names += [(inner / name).as_posix() for name in seen]
            folders[:] = [] if self.subfolders is False else [name for name in below if name not in named_so]
        return sorted(names)

    def _chosen(self, name: str) -> bool:
        digest = hashlib.sha256(f"{self.seed}/{name}".encode("utf-8", "surrogateescape")).digest()
        is_val = int.from_bytes(digest[:8], "big") < self.val_fraction * 2**64
        return is_val == (self.split == "val")


def label_folders(split: Path) -> list[str]:
    """Names of the folders in that of a split, sorted; none where it is not there."""
    if not os.path.isdir(split):
        return []
    names = sorted(entry.name for entry in os.scandir(split) if entry.is_dir())
    return [name for name in names if not name.startswith(".") and name not in _NOT_OURS]


def unread_files(folder: Path) -> list[str]:
    """Names of the files in a folder of images whose endings are not read, sorted; none where there is no folder."""
    if not os.path.isdir(folder):
        return []
    names = sorted(entry.name for entry in os.scandir(folder) if entry.is_file() and not entry.name.startswith("."))
    return [name for name in names if os.path.splitext(name)[1].lower() not in IMAGE_ENDINGS]


def _cannot_list(error: OSError) -> None:
    raise DataError(f"folder: {error.filename} cannot be read: {error.strerror}") from error


def _read_classes(path: Path, source: FolderSource, task: str) -> np.ndarray:
    count = source.num_classes.get(task, IGNORE)
    if count == 2 and source.mask_ignore is False:
        return _read_mask(path, source, task)
    ids = image_files.read_indices(path)
    try:
        return image_files.check_classes(ids, count, path)
    except DataError as error:
        if count == 2 and source.mask_ignore is None and len(np.unique(ids[ids != 0])) == 1:
            raise DataError(
                f"{error}; if it is the second class, set --config.data.mask_ignore=false (doctor, show: --mask-ignore "
                "false)"
            ) from error
        raise


def _read_mask(path: Path, source: FolderSource, _: str) -> np.ndarray:
    values = image_files.read_indices(path)
    ignored = (values == IGNORE) if source.mask_ignore else np.zeros(values.shape, bool)
    other = np.unique(values[(values != 0) & ~ignored]).tolist()
    if len(other) > 1:
        hint = "threshold soft masks first"
        if other == [1, IGNORE]:
            hint = (
                "set mask_ignore if 255 means ignore (--config.data.mask_ignore=true; doctor, show: --mask-ignore true)"
            )
        raise DataError(f"folder: {path} holds the values {other[:4]}; a mask has 0 and one other value; {hint}")
    return np.where(ignored, IGNORE, values != 0).astype(np.uint8)


def _read_normals(path: Path, source: FolderSource, _: str) -> np.ndarray:
    return read_normals(path)


def _read_depth(path: Path, source: FolderSource, _: str) -> np.ndarray:
    remedy = "--config.data.depth_unit=millimetres or metres (doctor, show: --depth-unit)"
    return read_depth(path, source.depth_unit, remedy)


READERS: dict[str, Callable[[Path, FolderSource, str], np.ndarray]] = {
    "semseg": _read_classes,
    "human_parts": _read_classes,
    "sal": _read_mask,
    "edge": _read_mask,
    "normals": _read_normals,
    "depth": _read_depth,
}
_ENDINGS = {task: ENDINGS if task in ("normals", "depth") else (".png",) for task in READERS}
