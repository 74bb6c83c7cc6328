"""NYUDv2 with the labels of the multi-task benchmark, in the three packages that exist; their endings tell them apart.

    ROOT/gt_sets/{train,val}.txt                 ids, 795 and 654

|                      | astmt               | vandenhende    | atrc                |
|----------------------|---------------------|----------------|---------------------|
| ROOT/images/<id>     | .jpg                | .jpg           | .png                |
| ROOT/segmentation/   | .mat `segmentation` | .png           | .png                |
| ROOT/depth/          | .mat `depth`        | .npy           | .npy                |
| ROOT/normals/        | .jpg colours        | .npy           | .png colours        |
| ROOT/edge/           | .png                | .npy           | .png                |

Segmentation: 0 = unlabelled, 1..40 become classes 0..39. Depth: 0 = missing, metres or millimetres. Normals: zero =
missing; JPEG blurs that, so vectors shorter than a quarter count as zero in `astmt`.
"""

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.benchmarks.tree import Exists, File, Tree, check_choice, find_root, read_id_list
from ditask_jax.errors import DataError
from ditask_jax.labels import IGNORE

FOLDERS = {"image": "images", "semseg": "segmentation", "depth": "depth", "normals": "normals", "edge": "edge"}
PACKAGES = {
    "vandenhende": {"image": ".jpg", "semseg": ".png", "depth": ".npy", "normals": ".npy", "edge": ".npy"},
    "astmt": {"image": ".jpg", "semseg": ".mat", "depth": ".mat", "normals": ".jpg", "edge": ".png"},
    "atrc": {"image": ".png", "semseg": ".png", "depth": ".npy", "normals": ".png", "edge": ".png"},
}
ARCHIVES = {
    "vandenhende": "NYUD_MT.tgz of Vandenhende et al. (also used by MTLoRA and DiTASK)",
    "astmt": "NYUD_MT.tgz of ASTMT",
    "atrc": "NYUDv2.tar.gz of ATRC and InvPT",
}
DEPTH_UNITS = ("metres", "millimetres")

_CLASS_COUNTS = {"semseg": 40, "edge": 2}
_EXPECTED = {"train": 795, "val": 654}
_MILLIMETRES_FROM = 100
_UNIT_FILES = 5
_SHORT = 0.25


class NyudTree(Tree):
    """One package of NYUDv2.

    Args:
      root: folder of the tree.
      layout: a key of `PACKAGES`.
      depth_unit: of the files, "metres" or "millimetres"; None: found from the first files, once depth is read.

    Attributes:
      file_unit: unit of the depth files; None: not looked at.
    """

    name = "nyud"
    usual_tasks = ("semseg", "depth", "normals")
    class_counts = _CLASS_COUNTS
    expected = _EXPECTED

    def __init__(self, root: Path, layout: str, depth_unit: str | None = None) -> None:
        super().__init__(root)
        self.layout = layout
        normals = "vectors" if layout == "vandenhende" else "colours"
        self.forms = {"semseg": "classes", "depth": "distances", "normals": normals, "edge": "classes"}
        self.file_unit = depth_unit

    def _find_ids(self, split: str) -> Sequence[str]:
        return read_id_list(self.root / "gt_sets" / f"{split}.txt", self.name, ARCHIVES[self.layout])

    def files(self, split: str, name: str, what: str, exists: Exists = Path.exists) -> tuple[File, ...]:
        ending = PACKAGES[self.layout][what]
        return (File(self.root / FOLDERS[what] / f"{name}{ending}", ARCHIVES[self.layout]),)

    def check_tasks(self, tasks: Sequence[str]) -> None:
        super().check_tasks(tasks)
        if "depth" in tasks:
            self._unit()  # now, so that threads and worker processes need not find it again

    def _read(self, task: str, paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
        (path,) = paths
        if task == "semseg":
            return self._read_classes(path)
        if task == "depth":
            return self._read_depth(path)
        if task == "normals":
            return self._read_normals(path)
        if path.suffix == ".npy":
            stored = image_files.read_array(path)
            stored = image_files.as_floats(stored.astype(np.uint8) if stored.dtype == bool else stored, 1, path)
        else:
            stored = image_files.read_grey(path)
        half = 0.5 if stored.max() <= 1 else 127.5
        return (stored > half).astype(np.uint8)

    def _read_classes(self, path: Path) -> np.ndarray:
        stored = image_files.read_mat(path, "segmentation") if path.suffix == ".mat" else image_files.read_indices(path)
        if stored.ndim != 2:
            raise DataError(f"data: {path} holds {stored.dtype} {list(stored.shape)}; expected class ids [H, W]")
        return _SHIFT[image_files.check_classes(stored, self.class_counts["semseg"] + 1, path)]

    def _read_depth(self, path: Path) -> np.ndarray:
        values = _depth_as_stored(path)
        if (values < 0).any():
            raise DataError(f"data: {path} holds a negative depth ({values.min():g}); missing values are 0")
        return values * np.float32(0.001) if self._unit() == "millimetres" else values

    def _read_normals(self, path: Path) -> np.ndarray:
        if path.suffix == ".npy":
            return image_files.as_floats(image_files.read_array(path), 3, path)
        colours = image_files.read_colours(path)
        if path.suffix == ".jpg":
            vectors = image_files.colours_to_vectors(colours)
            short = (vectors * vectors).sum(-1) < _SHORT**2
            colours = np.where(short[..., None], np.uint8(0), colours)
        return colours

    def _unit(self) -> str:
        if self.file_unit is None:
            self.file_unit = self._detect_unit()
        return self.file_unit

    def _detect_unit(self) -> str:
        """Millimetres if any of the first depth files holds more than 100: no room is that deep in metres."""
        largest = []
        for name in self.ids("train")[:_UNIT_FILES]:
            (file,) = self.files("train", name, "depth")
            try:
                largest.append(float(_depth_as_stored(file.path).max(initial=0)))
            except DataError:
                continue  # reading the example will say what is wrong with it
        unit = "millimetres" if max(largest, default=0) > _MILLIMETRES_FROM else "metres"
        if largest:
            self.notes.append(
                f"depth is in {unit}: the largest value of the first {len(largest)} files is {max(largest):.4g} "
                "(if that is wrong, set --config.data.depth_unit; --depth-unit of doctor, build and show)"
            )
        return unit


def _depth_as_stored(path: Path) -> np.ndarray:
    return image_files.as_floats(
        image_files.read_mat(path, "depth") if path.suffix == ".mat" else image_files.read_array(path), 1, path
    )


_SHIFT = np.full(256, IGNORE, np.uint8)
_SHIFT[1:41] = np.arange(40)


def open_nyud(root: Path, layout: str | None = None, depth_unit: str | None = None) -> NyudTree:
    """Finds the tree in a folder and tells its package by the endings of its files.

    Raises:
      DataError: no tree, or endings that belong to no package.
    """
    check_choice("nyud", "layout", layout, tuple(PACKAGES))
    check_choice("nyud", "depth_unit", depth_unit, DEPTH_UNITS)
    advice = "unpack NYUD_MT.tgz or NYUDv2.tar.gz and give the folder with images and gt_sets in it"
    folder = find_root(root, "nyud", ("images", "gt_sets"), ("NYUD_MT", "NYUDv2"), advice)
    if layout is not None:
        return NyudTree(folder, layout, depth_unit)
    tree = NyudTree(folder, detect_package(folder), depth_unit)
    tree.notes.append(f"the package is '{tree.layout}' by the endings of its files: {ARCHIVES[tree.layout]}")
    return tree


def detect_package(root: Path) -> str:
    """The package whose endings the folders of a tree have.

    Raises:
      DataError: files of several packages, or none.
    """
    found = {what: _ending(root / folder, what) for what, folder in FOLDERS.items()}
    found = {what: ending for what, ending in found.items() if ending}
    if not found:
        raise DataError(f"nyud: the folders {' '.join(FOLDERS.values())} of {root} hold no files of any package")
    for package, endings in PACKAGES.items():
        if all(endings[what] == ending for what, ending in found.items()):
            return package
    shown = ", ".join(f"{FOLDERS[what]}/*{ending}" for what, ending in found.items())
    raise DataError(
        f"nyud: {root} mixes packages ({shown}); set data.layout to {' or '.join(PACKAGES)}, and use only tasks whose "
        "files are of that package"
    )


def _ending(folder: Path, what: str) -> str | None:
    """The ending of the first file that any package could have in a folder."""
    possible = {endings[what] for endings in PACKAGES.values()}
    try:
        entries = sorted(os.listdir(folder))
    except OSError:  # not there, no folder, or not for us
        return None
    for entry in entries:
        ending = os.path.splitext(entry)[1]
        if ending in possible and not entry.startswith("."):
            return ending
    return None
