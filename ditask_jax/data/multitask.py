"""PASCAL-Context, NYUDv2 and Cityscapes from a folder: the prepared set in it or, without one, the original files."""

from collections.abc import Sequence
from pathlib import Path

from ditask_jax.data.prepared import PreparedSource, find_prepared
from ditask_jax.data.trees import TreeSource, open_tree
from ditask_jax.errors import DataError
from ditask_jax.files import user_path


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
