"""Cityscapes as released, and as MTAN prepared it."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.benchmarks.tree import DEPTH_FACTOR, Exists, File, Tree, check_choice, find_root
from ditask_jax.errors import ConfigError, DataError, check_known
from ditask_jax.labels import IGNORE

# Cityscapes: the official tree with 19 classes and disparities.
#
#     ROOT/leftImg8bit/{train,val}/<city>/<id>_leftImg8bit.png     images, 2,975 and 500
#     ROOT/gtFine/{train,val}/<city>/<id>_gtFine_labelIds.png      ids 0..33, of which 19 count; the others are ignored
#     ROOT/disparity/{train,val}/<city>/<id>_disparity.png         16-bit: 0 = missing, else disparity (v - 1) / 256
#     ROOT/camera/{train,val}/<city>/<id>_camera.json              needed for depth in metres only
#
# Depth is the disparity in pixels unless metres are asked for: baseline times focal length over the disparity. A
# disparity of exactly 0 (v = 1) lies infinitely far and counts as missing in both units. The MTAN package is in
# `trees.mtan`.
#
# References: Cordts et al., The Cityscapes dataset for semantic urban scene understanding, 2016.


RAW_IDS = (7, 8, 11, 12, 13, 17, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 31, 32, 33)
_MAX_RAW_ID = 33
_UNITS = ("pixels", "metres")
# What -> folder and archive (without .zip), ending.
_PLACES = {
    "image": ("leftImg8bit", "leftImg8bit_trainvaltest.zip", "leftImg8bit.png"),
    "semseg": ("gtFine", "gtFine_trainvaltest.zip", "gtFine_labelIds.png"),
    "depth": ("disparity", "disparity_trainvaltest.zip", "disparity.png"),
    "camera": ("camera", "camera_trainvaltest.zip", "camera.json"),
}
_FORMS = {"semseg": "classes", "depth": "disparity"}
_CLASS_COUNTS = {"semseg": 19}
_EXPECTED = {"train": 2975, "val": 500}


class CityscapesTree(Tree):
    """The official tree.

    Args:
      root: folder that holds `leftImg8bit`.
      depth_unit: "pixels" of disparity, or "metres".
    """

    name = "cityscapes"
    layout = "official"
    usual_tasks = ("semseg", "depth")
    forms = _FORMS
    class_counts = _CLASS_COUNTS
    expected = _EXPECTED

    def __init__(self, root: Path, depth_unit: str = "pixels") -> None:
        super().__init__(root)
        self.depth_unit = depth_unit

    def _find_ids(self, split: str) -> Sequence[str]:
        """Every id that an image or a label has: an image without labels, or the reverse, is then noticed."""
        found: set[str] = set()
        for folder, _, ending in (_PLACES[what] for what in ("image", "semseg")):
            for path in (self.root / folder / split).glob(f"*/*_{ending}"):
                found.add(path.name.removesuffix(f"_{ending}"))
        return sorted(found)

    def files(self, split: str, name: str, what: str, exists: Exists = Path.exists) -> tuple[File, ...]:
        city = name.partition("_")[0]
        wanted = (what, "camera") if what == "depth" and self.depth_unit == "metres" else (what,)
        return tuple(
            File(self.root / folder / split / city / f"{name}_{ending}", archive)
            for folder, archive, ending in (_PLACES[part] for part in wanted)
        )

    def _read(self, task: str, paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
        stored = image_files.read_indices(paths[0])
        if task == "semseg":
            return TRAIN_IDS[image_files.check_classes(stored, _MAX_RAW_ID + 1, paths[0])]
        if stored.dtype == np.uint8:
            raise DataError(f"data: {paths[0]} is an 8-bit image; disparity has 16 bits")
        if stored.min() < 0 or stored.max() > 65535:
            raise DataError(
                f"data: {paths[0]} holds values from {stored.min()} to {stored.max()}; disparity has 16 bits"
            )
        return stored.astype(np.uint16)

    def _constants(self, split: str, name: str, tasks: Sequence[str]) -> dict[str, float]:
        if self.depth_unit != "metres" or "depth" not in tasks:
            return {}
        return {DEPTH_FACTOR: read_depth_factor(self.files(split, name, "depth")[1].path)}


TRAIN_IDS = np.full(256, IGNORE, np.uint8)
"""Raw id -> class 0..18, or `IGNORE`."""
TRAIN_IDS[list(RAW_IDS)] = np.arange(len(RAW_IDS))


def read_depth_factor(path: Path) -> float:
    """Baseline (metres) times horizontal focal length (pixels) of a camera file.

    Raises:
      DataError: missing, no JSON, or without these numbers.
    """
    try:
        camera = json.loads(image_files.read_bytes(path))
        factor = float(camera["extrinsic"]["baseline"]) * float(camera["intrinsic"]["fx"])
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"data: {path} is not a camera file with extrinsic.baseline and intrinsic.fx ({type(error).__name__})"
        ) from error
    if not 0 < factor < float("inf"):
        raise DataError(f"data: {path}: baseline times focal length is {factor:g}, expected a number above 0")
    return factor


def open_cityscapes(
    root: Path, layout: str | None = None, depth_unit: str | None = None, semseg_classes: int | None = None
) -> Tree:
    """Finds the official tree or the MTAN package in a folder.

    Args:
      root: the folder, or one above it.
      layout: "official" or "mtan"; None: whichever is there.
      depth_unit: "pixels" (default) or "metres"; of the MTAN package, "inverse".
      semseg_classes: 7 for the coarse classes of the MTAN package; else 19.

    Raises:
      ConfigError: a unit or number of classes that the package does not have.
      DataError: neither is there.
    """
    check_choice("cityscapes", "layout", layout, ("official", "mtan"))
    advice = (
        "unpack leftImg8bit_trainvaltest.zip, gtFine_trainvaltest.zip and disparity_trainvaltest.zip there (or the "
        "MTAN package) and give that folder"
    )
    markers = {"official": ("leftImg8bit",), "mtan": ("train/image", "val/image")}
    wanted = markers[layout] if layout else sum(markers.values(), ())
    folder = find_root(root, "cityscapes", wanted, ("cityscapes", "Cityscapes"), advice)
    if layout is None:
        layout = "official" if (folder / "leftImg8bit").exists() else "mtan"
    if layout == "official":
        if depth_unit is not None:
            check_known("cityscapes: depth_unit of the official tree", depth_unit, _UNITS)
        if semseg_classes not in (None, 19):
            raise ConfigError(f"cityscapes: the official tree has 19 classes, got {semseg_classes}; MTAN's has 7 too")
        return CityscapesTree(folder, depth_unit or "pixels")
    if depth_unit is not None:
        check_known("cityscapes: depth_unit of the MTAN package", depth_unit, ("inverse",))
    if semseg_classes not in (None, 7, 19):
        raise ConfigError(f"cityscapes: the MTAN package has 7 or 19 classes, got {semseg_classes}")
    return MtanTree(folder, semseg_classes or 19)


# Cityscapes as packed for MTAN: small images and labels as NumPy arrays, 7 or 19 classes, inverse depth.
#
#     ROOT/{train,val}/image/<n>.npy       float [H, W, 3], 0..1
#     ROOT/{train,val}/label_7/<n>.npy     classes, -1 = ignore
#     ROOT/{train,val}/label_19/<n>.npy
#     ROOT/{train,val}/depth/<n>.npy       float [H, W, 1] inverse depth, 0 = missing
#
# References: Liu et al., End-to-end multi-task learning with attention, 2019.


ARCHIVE = "the Cityscapes package of MTAN"
_MTAN_FORMS = {"semseg": "classes", "depth": "distances"}
_MTAN_EXPECTED = {"train": 2975, "val": 500}


class MtanTree(Tree):
    """The package of this module.

    Args:
      root: folder that holds `train` and `val`.
      semseg_classes: 7 or 19.
    """

    name = "cityscapes"
    layout = "mtan"
    usual_tasks = ("semseg", "depth")
    forms = _MTAN_FORMS
    expected = _MTAN_EXPECTED
    depth_unit = "inverse"

    def __init__(self, root: Path, semseg_classes: int = 19) -> None:
        super().__init__(root)
        self.class_counts = {"semseg": semseg_classes}

    def _find_ids(self, split: str) -> Sequence[str]:
        """Every number that an image or a depth has, in the order of numbers."""
        found = {path.stem for what in ("image", "depth") for path in (self.root / split / what).glob("*.npy")}
        return sorted(found, key=lambda name: (len(name), name))

    def files(self, split: str, name: str, what: str, exists: Exists = Path.exists) -> tuple[File, ...]:
        folder = f"label_{self.class_counts['semseg']}" if what == "semseg" else what
        return (File(self.root / split / folder / f"{name}.npy", ARCHIVE),)

    def _read_image(self, path: Path) -> tuple[np.ndarray, int, bytes | None]:
        stored = image_files.read_array(path)
        image = image_files.as_floats(stored, 3, path)
        if stored.dtype != np.uint8:
            if not np.isfinite(stored).all():
                raise DataError(f"data: {path} holds values that are not finite; expected an image in 0..1")
            if image.min(initial=0) < 0 or image.max(initial=0) > 1:
                raise DataError(
                    f"data: {path} holds values from {image.min():g} to {image.max():g}; expected an image in 0..1"
                )
            image = np.round(image * 255)
        return image.astype(np.uint8), 1, None

    def _read(self, task: str, paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
        (path,) = paths
        stored = image_files.read_array(path)
        values = image_files.as_floats(stored, 1, path)
        if task == "semseg":
            if not np.isfinite(stored).all():
                raise DataError(f"data: {path} holds values that are not finite; expected whole numbers of classes")
            return image_files.check_classes(
                np.where(values == -1, IGNORE, values), self.class_counts["semseg"], path
            ).astype(np.uint8)
        if (values < 0).any():
            raise DataError(f"data: {path} holds a negative inverse depth ({values.min():g}); missing values are 0")
        return values
