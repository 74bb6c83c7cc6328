"""Cityscapes as packed for MTAN: small pictures and labels as NumPy arrays, 7 or 19 classes, inverse depth.

    ROOT/{train,val}/image/<n>.npy       float [H, W, 3], 0..1
    ROOT/{train,val}/label_7/<n>.npy     classes, -1 = ignore
    ROOT/{train,val}/label_19/<n>.npy
    ROOT/{train,val}/depth/<n>.npy       float [H, W, 1] inverse depth, 0 = missing

References: Liu et al., End-to-end multi-task learning with attention, 2019.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditask_jax.data import files
from ditask_jax.data.trees.tree import Exists, File, Tree
from ditask_jax.errors import DataError
from ditask_jax.labels import IGNORE

ARCHIVE = "the Cityscapes package of MTAN"
_FORMS = {"semseg": "classes", "depth": "distances"}
_EXPECTED = {"train": 2975, "val": 500}


class MtanTree(Tree):
    """The package of this module.

    Args:
      root: folder that holds `train` and `val`.
      semseg_classes: 7 or 19.
    """

    name = "cityscapes"
    layout = "mtan"
    usual_tasks = ("semseg", "depth")
    forms = _FORMS
    expected = _EXPECTED
    depth_unit = "inverse"

    def __init__(self, root: Path, semseg_classes: int = 19) -> None:
        super().__init__(root)
        self.class_counts = {"semseg": semseg_classes}

    def _find_ids(self, split: str) -> Sequence[str]:
        """Every number that a picture or a depth has, in the order of numbers."""
        found = {path.stem for what in ("image", "depth") for path in (self.root / split / what).glob("*.npy")}
        return sorted(found, key=lambda name: (len(name), name))

    def files(self, split: str, name: str, what: str, exists: Exists = Path.exists) -> tuple[File, ...]:
        folder = f"label_{self.class_counts['semseg']}" if what == "semseg" else what
        return (File(self.root / split / folder / f"{name}.npy", ARCHIVE),)

    def _read_image(self, path: Path) -> tuple[np.ndarray, int, bytes | None]:
        stored = files.read_array(path)
        image = files.as_floats(stored, 3, path)
        if stored.dtype != np.uint8:
            if not np.isfinite(stored).all():
                raise DataError(f"data: {path} holds values that are not finite; expected a picture in 0..1")
            if image.min(initial=0) < 0 or image.max(initial=0) > 1:
                raise DataError(
                    f"data: {path} holds values from {image.min():g} to {image.max():g}; expected a picture in 0..1"
                )
            image = np.round(image * 255)
        return image.astype(np.uint8), 1, None

    def _read(self, task: str, paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
        (path,) = paths
        stored = files.read_array(path)
        values = files.as_floats(stored, 1, path)
        if task == "semseg":
            if not np.isfinite(stored).all():
                raise DataError(f"data: {path} holds values that are not finite; expected whole numbers of classes")
            return files.check_classes(
                np.where(values == -1, IGNORE, values), self.class_counts["semseg"], path
            ).astype(np.uint8)
        if (values < 0).any():
            raise DataError(f"data: {path} holds a negative inverse depth ({values.min():g}); missing values are 0")
        return values
