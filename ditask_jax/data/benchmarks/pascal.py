"""PASCAL-Context as multi-task learning uses it."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from ditask_jax.data import image_files
from ditask_jax.data.benchmarks.tree import Exists, File, Tree, check_choice, find_root, read_id_list
from ditask_jax.errors import DataError
from ditask_jax.labels import erode_lines

# Facts of PASCAL-Context and PASCAL-Part: which context classes have normals, which parts make which class.


# Ids of PASCAL-Context classes whose names are also NYUDv2 classes, and tvmonitor: the normals were distilled from a
# network trained on NYUDv2 and mean something on these only.
CLASSES_WITH_NORMALS = (
    3, 4, 6, 9, 10, 11, 13, 15, 17, 18, 22, 23, 29, 30, 33, 34, 36, 37, 38, 39, 41, 43, 46, 49, 50, 51, 53, 55, 56, 59,
    61, 62, 65, 66, 68, 69, 72, 73, 78, 83, 84, 85, 87, 88, 95, 96, 101, 104, 105, 107, 111, 113, 115, 122, 124, 135,
    141, 142, 143, 146, 150, 154, 157, 158, 159, 165, 172, 174, 181, 183, 184, 191, 193, 195, 197, 199, 202, 213, 215,
    216, 219, 220, 223, 225, 228, 230, 232, 233, 238, 239, 242, 243, 246, 250, 251, 252, 255, 260, 261, 263, 269, 272,
    273, 275, 281, 283, 284, 285, 286, 287, 288, 290, 291, 292, 293, 295, 304, 307, 309, 310, 314, 315, 319, 323, 329,
    330, 331, 336, 342, 345, 349, 350, 351, 352, 355, 357, 368, 370, 371, 374, 379, 380, 383, 384, 397, 401, 403, 405,
    407, 408, 411, 412, 413, 414, 417, 419, 421, 423, 427, 429, 430, 432, 440, 441, 442, 443, 444, 446, 454, 457,
)  # fmt: skip
NUM_CONTEXT_CLASSES = 459

PERSON = 15
_PARTS = (
    "hair head lear rear lebrow rebrow leye reye mouth nose",
    "neck torso",
    "luarm ruarm",
    "llarm rlarm lhand rhand",
    "luleg ruleg",
    "llleg rlleg lfoot rfoot",
)
# PASCAL-Part name -> 1 head, 2 torso, 3 upper arm, 4 lower arm, 5 upper leg, 6 lower leg.
PART_CLASSES = {name: number for number, names in enumerate(_PARTS, 1) for name in names.split()}


# PASCAL-Context with the labels of the multi-task benchmark (`PASCAL_MT`).
#
#     ROOT/JPEGImages/<id>.jpg                     images
#     ROOT/semseg/VOC12/<id>.png                   class indices 0..20, 255 = void; where there is none:
#     ROOT/semseg/pascal-context/<id>.png
#     ROOT/human_parts/<id>.mat                    PASCAL-Part annotation `anno`
#     ROOT/sal_distill/<id>.png                    grey, over one half = salient
#     ROOT/normals_distill/<id>.png                colours of directions
#     ROOT/pascal-context/trainval/<id>.mat        `LabelMap`, context ids 1..459 (normals and edge)
#     ROOT/ImageSets/Context/{train,val}.txt       ids, 4,998 and 5,105
#
# References: Maninis et al., Attentive single-tasking of multiple tasks, 2019; Chen et al., PASCAL-Part, 2014; Mottaghi
# et al., PASCAL-Context, 2014.


ARCHIVE = "PASCAL_MT.tgz"  # ATRC packs the same tree as PASCALContext.tar.gz
_LABELS = f"{ARCHIVE} (the plain PASCAL-Context download is not enough)"

_FORMS = {"semseg": "classes", "human_parts": "classes", "sal": "classes", "normals": "colours", "edge": "classes"}
_CLASS_COUNTS = {"semseg": 21, "human_parts": 7, "sal": 2, "edge": 2}
_EXPECTED = {"train": 4998, "val": 5105}


class PascalTree(Tree):
    """The tree of this module. Of normals, only those on context classes that have them are kept."""

    name = "pascal"
    layout = "pascal_mt"
    usual_tasks = ("semseg", "human_parts", "sal", "normals")
    forms = _FORMS
    class_counts = _CLASS_COUNTS
    expected = _EXPECTED
    resizes_labels = True

    def _find_ids(self, split: str) -> Sequence[str]:
        return read_id_list(self.root / "ImageSets/Context" / f"{split}.txt", self.name, ARCHIVE)

    def files(self, split: str, name: str, what: str, exists: Exists = Path.exists) -> tuple[File, ...]:
        root = self.root
        context = File(root / "pascal-context/trainval" / f"{name}.mat", _LABELS)
        if what == "semseg":
            places = [root / "semseg" / folder / f"{name}.png" for folder in ("VOC12", "pascal-context")]
            return (File(places[1] if exists(places[1]) and not exists(places[0]) else places[0], _LABELS),)
        if what == "normals":
            return File(root / "normals_distill" / f"{name}.png", _LABELS), context
        return {
            "image": (File(root / "JPEGImages" / f"{name}.jpg", ARCHIVE),),
            "human_parts": (File(root / "human_parts" / f"{name}.mat", _LABELS),),
            "sal": (File(root / "sal_distill" / f"{name}.png", _LABELS),),
            "edge": (context,),
        }[what]

    def _read(self, task: str, paths: Sequence[Path], size: tuple[int, int]) -> np.ndarray:
        if task == "semseg":
            return image_files.check_classes(image_files.read_indices(paths[0]), self.class_counts[task], paths[0])
        if task == "human_parts":
            return read_parts(paths[0], size)
        if task == "sal":
            return read_saliency(paths[0])
        if task == "normals":
            return read_normals(*paths)
        return context_edges(read_context(paths[0]))


def read_parts(path: Path, size: tuple[int, int]) -> np.ndarray:
    """PASCAL-Part's people as classes 1..6 (0 elsewhere), uint8 [H, W]; zeros of `size` where there is nobody.

    Parts are painted in the order of the file, later ones over earlier ones. Fields are taken by their position, which
    is what all releases of the annotation share: object = (class, class index, mask, parts), part = (name, mask).

    Raises:
      DataError: the annotation has another structure, or a part has an unknown name or another size.
    """
    anno = image_files.read_mat(path, "anno")
    try:
        people = [entry for entry in anno.reshape(-1)[0][1].reshape(-1) if _scalar(entry[1]) == PERSON]
        merged = np.zeros(np.shape(people[0][2]) if people else size, np.uint8)
        for person in people:
            for part in np.asarray(person[3]).reshape(-1):
                name, mask = str(_scalar(part[0])), np.asarray(part[1])
                if name not in PART_CLASSES:
                    raise DataError(f"data: {path} names a part '{name}', which no person of PASCAL-Part has")
                if mask.shape != merged.shape:
                    raise DataError(f"data: {path}: part '{name}' is {mask.shape}, its person {merged.shape}")
                merged[mask > 0] = PART_CLASSES[name]
    except (AttributeError, IndexError, TypeError, ValueError) as error:
        raise DataError(f"data: {path} is not a PASCAL-Part annotation: {error}") from error
    if merged.ndim != 2:
        raise DataError(f"data: {path}: its person is {list(merged.shape)}, expected a mask [H, W]")
    return merged


def _scalar(value):
    """The one element of what MATLAB nests in [1, 1] arrays."""
    return np.asarray(value).reshape(-1)[0]


def read_saliency(path: Path) -> np.ndarray:
    """1 where a grey image is brighter than one half."""
    grey = image_files.read_grey(path)
    if grey.dtype != np.uint8:
        raise DataError(f"data: {path} holds {grey.dtype}; saliency is an 8-bit grey image")
    return (grey >= 128).astype(np.uint8)


def read_normals(path: Path, context_path: Path) -> np.ndarray:
    """Colours of directions, black where the context class has none."""
    colours = image_files.read_colours(path)
    kept = image_files.fit_label(_HAS_NORMALS[read_context(context_path)], colours.shape[:2], False, context_path)
    return cv2.bitwise_and(colours, colours, mask=np.ascontiguousarray(kept))


def read_context(path: Path) -> np.ndarray:
    """Context ids [H, W], 0..459.

    Raises:
      DataError: other numbers, or no map at all.
    """
    ids = image_files.read_mat(path, "LabelMap")
    if ids.ndim != 2 or ids.dtype.kind not in "uif" or not ids.size or not np.isfinite(ids).all():
        raise DataError(f"data: {path} holds {ids.dtype} {list(ids.shape)}; expected context ids [H, W]")
    if ids.min() < 0 or ids.max() > NUM_CONTEXT_CLASSES:
        wrong = ids.max() if ids.max() > NUM_CONTEXT_CLASSES else ids.min()
        raise DataError(f"data: {path} holds context id {wrong:g}; allowed are 0..{NUM_CONTEXT_CLASSES}")
    return ids.astype(np.int32)


def context_edges(ids: np.ndarray) -> np.ndarray:
    """Borders between context classes, one pixel wide: where the 4-neighbour Laplacian of the ids is not 0, thinned."""
    borders = cv2.Laplacian(ids.astype(np.float32), cv2.CV_32F, ksize=1) != 0
    return erode_lines(borders).astype(np.uint8)


_HAS_NORMALS = np.isin(np.arange(NUM_CONTEXT_CLASSES + 1), CLASSES_WITH_NORMALS).astype(np.uint8)


def open_pascal(root: Path, layout: str | None = None, depth_unit: str | None = None) -> PascalTree:
    """Finds the tree in a folder.

    Raises:
      DataError: it is not there.
    """
    check_choice("pascal", "layout", layout, (PascalTree.layout,))
    check_choice("pascal", "depth_unit", depth_unit, ())
    advice = "unpack PASCAL_MT.tgz and give the folder with JPEGImages and ImageSets in it"
    return PascalTree(find_root(root, "pascal", ("JPEGImages", "ImageSets"), ("PASCAL_MT", "PASCALContext"), advice))
