"""The benchmarks as their archives unpack or their repositories are cloned: a file each, and what they share."""

from pathlib import Path

from ditask_jax.data.benchmarks.bsds import open_bsds
from ditask_jax.data.benchmarks.camvid import open_camvid
from ditask_jax.data.benchmarks.ccp import open_ccp
from ditask_jax.data.benchmarks.cityscapes import open_cityscapes
from ditask_jax.data.benchmarks.nyud import open_nyud
from ditask_jax.data.benchmarks.pascal import open_pascal
from ditask_jax.data.benchmarks.tree import SPLITS, Tree, TreeSource, missing_text
from ditask_jax.errors import check_known
from ditask_jax.files import user_path

__all__ = ["SPLITS", "TREES", "Tree", "TreeSource", "missing_text", "open_tree"]

TREES = {
    "pascal": open_pascal,
    "nyud": open_nyud,
    "cityscapes": open_cityscapes,
    "ccp": open_ccp,
    "camvid": open_camvid,
    "bsds": open_bsds,
}


def open_tree(
    name: str,
    root: str | Path,
    layout: str | None = None,
    depth_unit: str | None = None,
    semseg_classes: int | None = None,
) -> Tree:
    """Finds the tree of a data set in a folder.

    Args:
      name: a key of `TREES`.
      root: the folder, or the one above it.
      layout: which package of the data set; None: found from the files.
      depth_unit: unit of depth: nyud metres or millimetres (of the files; None: found), cityscapes pixels or metres.
      semseg_classes: cityscapes only: 7 or 19 classes of the MTAN package.

    Raises:
      ConfigError: a choice that the data set does not have.
      DataError: no tree there.

    >>> open_tree("pascal", "/nowhere")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.DataError: pascal: /nowhere is not a folder; \
unpack PASCAL_MT.tgz and give the folder with JPEGImages and ImageSets in it
    """
    check_known("data set", name, TREES)
    # The others have one set of classes, against which the tasks are checked.
    options = {"semseg_classes": semseg_classes} if name == "cityscapes" else {}
    return TREES[name](user_path(root), layout=layout, depth_unit=depth_unit, **options)
