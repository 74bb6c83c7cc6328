"""Data sets by name: every source that `data.name` of a config can mean."""

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ditask_jax.data.benchmarks import TREES, TreeSource, open_tree
from ditask_jax.data.folder import FolderSource
from ditask_jax.data.prepared.prepared_source import PreparedSource, find_prepared
from ditask_jax.data.vtab import open_vtab
from ditask_jax.data.wrappers import stored_labels, with_derived_labels
from ditask_jax.errors import ConfigError, DataError, check_known, defined_in, did_you_mean
from ditask_jax.files import user_path
from ditask_jax.scenes import ScenesSource


@dataclasses.dataclass(frozen=True)
class Request:
    """What a source is opened with; an opener reads what concerns it.

    Attributes:
      split: "train" or "val".
      tasks: labels that are needed.
      root: folder of the data set, None for generated data.
      image_size: height and width that generated images are made in (files keep their own size).
      num_examples: use only (or make) that many examples; None for all.
      seed: of generated data and of an automatic split.
      options: further keyword arguments of the source.
    """

    split: str
    tasks: tuple[str, ...]
    root: Path | None
    image_size: tuple[int, int]
    num_examples: int | None
    seed: int
    options: dict[str, Any]


def _open_scenes(request: Request):
    return _with_options(
        "scenes",
        ScenesSource,
        request.split,
        request.image_size,
        request.seed,
        request.num_examples,
        request.tasks,
        **request.options,
    )


def _open_folder(request: Request):
    if request.root is None:
        raise DataError("data: 'folder' needs data.root, the folder that holds train/images and val/images")
    return _with_options(
        "folder",
        FolderSource,
        request.root,
        request.split,
        request.tasks,
        num_examples=request.num_examples,
        seed=request.seed,
        **request.options,
    )


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
      name: a key of `benchmarks.TREES`.
      root: folder of the prepared set or of the unpacked archives.
      split: "train" or "val".
      tasks: labels to read; only their files are needed.
      num_examples: use only the first that many; None for all.
      layout, depth_unit, semseg_classes: see `benchmarks.open_tree`; of a prepared set, what it must have.
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


def _open_multitask(name: str) -> Callable[[Request], Any]:
    def opener(request: Request):
        return _with_options(
            name,
            open_multitask,
            name,
            request.root,
            request.split,
            request.tasks,
            request.num_examples,
            **request.options,
        )

    return opener


def _open_vtab(request: Request):
    options = {"task": None, **request.options}
    return _with_options("vtab", open_vtab, request.root, request.split, num_examples=request.num_examples, **options)


OPENERS: dict[str, Callable[[Request], Any]] = {
    "scenes": _open_scenes,
    "folder": _open_folder,
    **{name: _open_multitask(name) for name in TREES},
    "vtab": _open_vtab,
}


def open_source(
    name: str,
    split: str,
    tasks: Sequence[str],
    root: str | Path | None = None,
    image_size: int | tuple[int, int] = (128, 128),
    num_examples: int | None = None,
    seed: int = 0,
    **options,
):
    """Opens a split of a data set.

    Args:
      name: a key of `OPENERS`.
      split, tasks, root, image_size, num_examples, seed: see `Request`.
      options: keyword arguments of the source, for example `num_classes` or `val_fraction` of `FolderSource`.

    Returns:
      A random-access source of examples: `len(source)`, `source[k]`.

    Raises:
      ConfigError: unknown data set, split, task or option.
      DataError: files are missing or cannot be read.

    >>> len(open_source("scenes", "val", ["depth"], num_examples=7))
    7
    >>> open_source("scene", "val", ["depth"])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: data.name: unknown name 'scene'. Did you mean 'scenes'? Known: scenes ...
    """
    check_known("config: data.name", name, OPENERS)
    size = (image_size, image_size) if isinstance(image_size, int) else (int(image_size[0]), int(image_size[1]))
    stored = stored_labels(tasks)
    folder = user_path(root, "data: root") if root else None
    request = Request(split, stored, folder, size, num_examples, int(seed), options)
    opener = OPENERS[name]
    _check_call(f"data set '{name}' ({defined_in(opener)}): opener", opener, request)
    source = opener(request)
    if not (hasattr(source, "__len__") and hasattr(source, "__getitem__")):
        raise ConfigError(
            f"data set '{name}' ({defined_in(opener)}): opener returned a {type(source).__name__}, expected a source: "
            "len(source) and source[k]"
        )
    if not len(source):
        raise DataError(f"data set '{name}' ({defined_in(opener)}): there are no examples of the split '{split}'")
    return with_derived_labels(source, tasks)


def _check_call(where: str, function: Callable, *arguments) -> None:
    """Raises ConfigError where a function cannot be called so; what goes wrong inside it is another matter."""
    try:
        signature = inspect.signature(function)
    except ValueError:  # some functions written in C do not tell theirs
        return
    try:
        signature.bind(*arguments)
    except TypeError:
        raise ConfigError(f"{where} takes {signature}, expected one argument, the Request") from None


def _with_options(name: str, source: Callable, *arguments, **options):
    """Calls a source of the package with options of the user's."""
    parameters = inspect.signature(source).parameters
    known = [option for option, parameter in parameters.items() if parameter.kind is not parameter.POSITIONAL_ONLY]
    for option in options:
        if option not in known:
            own = known[len(arguments) :]
            raise ConfigError(f"config: data: '{name}' has no option '{option}'. {did_you_mean(option, own)}")
    return source(*arguments, **options)
