"""PASCAL-Context, NYUDv2 and Cityscapes: the prepared set in a folder or, without one, the files as archives unpack
them.
"""

from collections.abc import Sequence
from pathlib import Path

from ditask_jax.data.benchmarks.cityscapes import open_cityscapes
from ditask_jax.data.benchmarks.nyud import open_nyud
from ditask_jax.data.benchmarks.pascal import open_pascal
from ditask_jax.data.benchmarks.tree import SPLITS, Tree, TreeSource, missing_text
from ditask_jax.data.prepared.prepared_source import PreparedSource, find_prepared
from ditask_jax.errors import DataError, check_known
from ditask_jax.files import user_path

# Data sets as their archives unpack: one file each, and what they share.


__all__ = ["SPLITS", "TREES", "Tree", "TreeSource", "missing_text", "open_tree"]

TREES = {"pascal": open_pascal, "nyud": open_nyud, "cityscapes": open_cityscapes}


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


# PASCAL-Context, NYUDv2 and Cityscapes from a folder: the prepared set in it or, without one, the original files.


def open_multitask(
    name: str,
    root: str | Path | None,
    split: str,
    tasks: Sequence[str],
    num_examples: int | None = None,
    layout: str | None = None,
    depth_unit: str | None = None,
    semseg_classes: int | None = None,
    check: bool = True,
) -> PreparedSource | TreeSource:
    """Opens a split of a multi-task benchmark.

    Args:
      name: "pascal", "nyud" or "cityscapes".
      root: folder of the prepared set or of the unpacked archives.
      split: "train" or "val".
      tasks: labels to read; only their files are needed.
      num_examples: use only the first that many; None for all.
      layout, depth_unit, semseg_classes: see `trees.open_tree`; of a prepared set, what it must have.
      check: of a tree, look for every file at the start.

    Returns:
      A source with `depth_unit` and `notes` (what was detected rather than told).

    Raises:
      ConfigError: unknown split, task or choice.
      DataError: nothing usable there.
    """
    if root is None:
        raise DataError(f"data: '{name}' needs data.root, the folder of its archives or of what was prepared from them")
    root = user_path(root)
    folder = find_prepared(root, name)
    if folder is None:
        tree = open_tree(name, root, layout, depth_unit, semseg_classes)
        return TreeSource(tree, split, tuple(tasks), num_examples, check)
    source = PreparedSource(folder, split, tuple(tasks), num_examples)
    _check_choices(source, layout, depth_unit, semseg_classes)
    return source


def _check_choices(
    source: PreparedSource, layout: str | None, depth_unit: str | None, semseg_classes: int | None
) -> None:
    manifest = source.manifest
    # The unit asked of NYUDv2 is that of its files, which preparing has turned into metres.
    asked_unit = None if manifest["data_set"] == "nyud" or "depth" not in source.tasks else depth_unit
    asked_classes = semseg_classes if "semseg" in source.tasks else None
    for field, asked, found in (
        ("layout", layout, manifest["layout"]),
        ("depth_unit", asked_unit, manifest["depth_unit"]),
        ("semseg_classes", asked_classes, manifest["class_counts"].get("semseg")),
    ):
        if asked is not None and asked != found:
            raise DataError(
                f"{manifest['data_set']}: data.{field} is {asked}, but {source.folder} was prepared with {found}; "
                "use that, or prepare a set of its own"
            )
