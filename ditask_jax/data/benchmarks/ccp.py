"""Clothing Co-Parsing: photographs of people in the street, with one map of 59 kinds of clothing behind four labels."""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.benchmarks.tree import Exists, File, Tree, check_choice, find_root
from ditask_jax.errors import DataError
from ditask_jax.labels import class_borders

# A clone of the public repository:
#
#     ROOT/photos/0001.jpg ... 2098.jpg             photographs, about 550x825
#     ROOT/annotations/pixel-level/<id>.mat         `groundtruth` of 0001 to 1004, uint8 of the photograph's size
#     ROOT/annotations/image-level/<id>.mat         tags of the others; not read
#     ROOT/label_list.mat                           the names below; not read
#
# The data set comes without a split: every photograph whose number is divisible by five is for validation. Four of the
# 59 names (clogs, glasses, intimate, panties) never occur, and half of the others are too rare to be learnt from a
# thousand photographs, so the names are grouped.
#
# References: Yang, Luo, Lin, Clothing co-parsing by joint image segmentation and labeling, 2014.


REPOSITORY = "https://github.com/bearpaw/clothing-co-parsing"
_CLONE = f"a clone of {REPOSITORY}"

NAMES = (
    "null", "accessories", "bag", "belt", "blazer", "blouse", "bodysuit", "boots", "bra", "bracelet", "cape",
    "cardigan", "clogs", "coat", "dress", "earrings", "flats", "glasses", "gloves", "hair", "hat", "heels", "hoodie",
    "intimate", "jacket", "jeans", "jumper", "leggings", "loafers", "necklace", "panties", "pants", "pumps", "purse",
    "ring", "romper", "sandals", "scarf", "shirt", "shoes", "shorts", "skin", "skirt", "sneakers", "socks", "stockings",
    "suit", "sunglasses", "sweater", "sweatshirt", "swimwear", "t-shirt", "tie", "tights", "top", "vest", "wallet",
    "watch", "wedges",
)  # fmt: skip
"""What the numbers of the files mean."""

# Class of semseg -> names; 0 is what has none.
_GROUPS = {
    "skin": "skin",
    "hair": "hair",
    "upper": "blouse bodysuit bra cardigan hoodie intimate jumper shirt sweater sweatshirt t-shirt top vest swimwear",
    "outer": "blazer cape coat jacket suit",
    "dress": "dress romper",
    "skirt": "skirt",
    "trousers": "jeans leggings pants shorts panties",
    "legwear": "socks stockings tights",
    "footwear": "boots clogs flats heels loafers pumps sandals shoes sneakers wedges",
    "bag": "bag purse wallet",
    "headwear": "hat glasses sunglasses",
    "accessory": "accessories belt bracelet earrings gloves necklace ring scarf tie watch",
}
# Class of human_parts -> classes of semseg.
_PARTS = {
    "head": "hair headwear",
    "skin": "skin",
    "torso": "upper outer dress",
    "legs": "skirt trousers legwear",
    "feet": "footwear",
    "carried": "bag accessory",
}

_FORMS = {"semseg": "classes", "human_parts": "classes", "sal": "classes", "edge": "classes"}
_CLASS_COUNTS = {"semseg": 1 + len(_GROUPS), "human_parts": 1 + len(_PARTS), "sal": 2, "edge": 2}
_EXPECTED = {"train": 803, "val": 200}
_UNLABELLED = ("0536",)  # its file says "null" everywhere, and there is a person on the photograph
_EVERY = 5
_ID = re.compile(r"\d{4}")


def _table(classes: dict[str, str], members: Sequence[str]) -> np.ndarray:
    """Number of a member -> number of its class, from 1 in the order of `classes`; 0 for what is in none."""
    number = {member: k for k, names in enumerate(classes.values(), 1) for member in names.split()}
    return np.array([number.get(member, 0) for member in members], np.uint8)


GROUP_OF_NAME = _table(_GROUPS, NAMES)
"""Number of the files -> class of semseg."""
PART_OF_NAME = _table(_PARTS, ("null", *_GROUPS))[GROUP_OF_NAME]
"""Number of the files -> class of human_parts."""


class CcpTree(Tree):
    """The clone of this module."""

    name = "ccp"
    layout = "clone"
    usual_tasks = ("semseg", "human_parts", "sal", "edge")
    forms = _FORMS
    class_counts = _CLASS_COUNTS
    expected = _EXPECTED

    def _find_ids(self, split: str) -> Sequence[str]:
        found = (path.stem for path in (self.root / "annotations/pixel-level").glob("*.mat"))
        numbered = sorted(name for name in found if _ID.fullmatch(name) and name not in _UNLABELLED)
        return [name for name in numbered if (int(name) % _EVERY == 0) == (split == "val")]

    def files(self, split: str, name: str, what: str, exists: Exists = Path.exists) -> tuple[File, ...]:
        if what == "image":
            return (File(self.root / "photos" / f"{name}.jpg", _CLONE),)
        return (File(self.root / "annotations/pixel-level" / f"{name}.mat", _CLONE),)

    def _read(self, task: str, paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
        names = read_names(paths[0])
        if task == "semseg":
            return GROUP_OF_NAME[names]
        if task == "human_parts":
            return PART_OF_NAME[names]
        return (names > 0).astype(np.uint8) if task == "sal" else class_borders(names)


def read_names(path: Path) -> np.ndarray:
    """Numbers of `NAMES`, uint8 [H, W].

    Raises:
      DataError: other numbers, or no map at all.
    """
    numbers = image_files.read_mat(path, "groundtruth")
    if numbers.ndim != 2 or not numbers.size or numbers.dtype.kind not in "buif":
        raise DataError(f"data: {path} holds {numbers.dtype} {list(numbers.shape)}; expected numbers of names [H, W]")
    wrong = (numbers < 0) | (numbers >= len(NAMES)) | (numbers != np.floor(numbers))
    if wrong.any():
        raise DataError(
            f"data: {path} holds {numbers[wrong][0]:g}; allowed are the numbers of names, 0..{len(NAMES) - 1}"
        )
    return numbers.astype(np.uint8)


def open_ccp(root: Path, layout: str | None = None, depth_unit: str | None = None) -> CcpTree:
    """Finds the clone in a folder.

    Raises:
      DataError: it is not there.
    """
    check_choice("ccp", "layout", layout, (CcpTree.layout,))
    check_choice("ccp", "depth_unit", depth_unit, ())
    advice = f"run `git clone {REPOSITORY}` and give the folder that it makes"
    return CcpTree(find_root(root, "ccp", ("annotations/pixel-level",), ("clothing-co-parsing",), advice))
