"""BSDS500, the Berkeley segmentation data set: photographs with the outlines that four to nine people drew."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.benchmarks.tree import Exists, File, Tree, check_choice, find_root
from ditask_jax.errors import DataError
from ditask_jax.labels import MOST_ANNOTATORS, pack_annotators

# The folder `BSDS500` of a clone of a public mirror:
#
#     ROOT/data/images/{train,val,test}/<id>.jpg          photographs, 481x321 or 321x481
#     ROOT/data/groundTruth/{train,val,test}/<id>.mat     `groundTruth`, a cell per annotator with `Boundaries`, 0 or 1
#
# Published tables train on `train` and `val` and score `test`; to choose anything, train on `train` and score `val`.
#
# References: Arbelaez, Maire, Fowlkes, Malik, Contour detection and hierarchical image segmentation, 2011.


REPOSITORY = "https://github.com/BIDS/BSDS500"
_CLONE = f"a clone of {REPOSITORY}"

# Folder below `data` and ending of the files.
_PLACES = {"image": ("images", ".jpg"), "edge": ("groundTruth", ".mat")}
# Layout -> folders of each split, and their numbers of photographs.
LAYOUTS = {
    "test": {"train": {"train": 200, "val": 100}, "val": {"test": 200}},
    "val": {"train": {"train": 200}, "val": {"val": 100}},
}


class BsdsTree(Tree):
    """The folder of this module.

    Args:
      root: folder that holds `data`.
      layout: a key of `LAYOUTS`.
    """

    name = "bsds"
    usual_tasks = ("edge",)
    forms = {"edge": "annotators"}  # noqa: RUF012 (never changed)
    class_counts = {}  # noqa: RUF012

    def __init__(self, root: Path, layout: str = "test") -> None:
        super().__init__(root)
        self.layout = layout
        self.expected = {split: sum(folders.values()) for split, folders in LAYOUTS[layout].items()}
        self._folder_of: dict[str, str] = {}

    def _find_ids(self, split: str) -> Sequence[str]:
        """Every id that a photograph or its outlines have, folder by folder."""
        found = []
        for folder in LAYOUTS[self.layout][split]:
            places = ((self.root / "data" / place / folder, ending) for place, ending in _PLACES.values())
            names = {path.stem for place, ending in places for path in place.glob(f"*{ending}")}
            found += sorted(names)
            self._folder_of |= dict.fromkeys(names, folder)
        return found

    def files(self, split: str, name: str, what: str, exists: Exists = Path.exists) -> tuple[File, ...]:
        self.ids(split)
        place, ending = _PLACES[what]
        return (File(self.root / "data" / place / self._folder_of[name] / f"{name}{ending}", _CLONE),)

    def _read(self, task: str, paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
        return read_outlines(paths[0])


def read_outlines(path: Path) -> np.ndarray:
    """The outlines of all annotators, packed: uint16 [H, W], see `ditask_jax.labels.pack_annotators`.

    Raises:
      DataError: the file has another structure, or annotators differ in size.
    """
    cells = image_files.read_mat(path, "groundTruth")
    try:
        drawn = [np.asarray(cell["Boundaries"].reshape(-1)[0]) for cell in cells.reshape(-1)]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"data: {path} holds no cells with 'Boundaries': {error}") from error
    if not 1 <= len(drawn) <= MOST_ANNOTATORS:
        raise DataError(f"data: {path} holds {len(drawn)} annotators; expected 1 to {MOST_ANNOTATORS}")
    for number, outlines in enumerate(drawn, 1):
        if outlines.ndim != 2 or not outlines.size or outlines.dtype.kind not in "buif":
            raise DataError(
                f"data: {path}: annotator {number} has {outlines.dtype} {list(outlines.shape)}, expected [H, W]"
            )
        if outlines.shape != drawn[0].shape:
            raise DataError(
                f"data: {path}: outlines of annotator {number} are {list(outlines.shape)}, of the first "
                f"{list(drawn[0].shape)}"
            )
    return pack_annotators([outlines > 0 for outlines in drawn])


def open_bsds(root: Path, layout: str | None = None, depth_unit: str | None = None) -> BsdsTree:
    """Finds the folder in a clone.

    Args:
      root: the folder, or one above it.
      layout: what is scored, a key of `LAYOUTS`; None: "test".

    Raises:
      DataError: it is not there.
    """
    check_choice("bsds", "layout", layout, tuple(LAYOUTS))
    check_choice("bsds", "depth_unit", depth_unit, ())
    advice = f"run `git clone {REPOSITORY}` and give its folder BSDS500"
    folders = ("BSDS500", "BSDS500/BSDS500")
    return BsdsTree(find_root(root, "bsds", ("data/groundTruth",), folders, advice), layout or "test")
