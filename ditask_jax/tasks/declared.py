"""Tasks that a configuration declares, so that labels of one's own need no code; and what may be said of any task.

A *declaration* is plain data by the names of `TaskOptions`, without what is not said: `{"kind": "classes", "classes":
("background", "shirt")}`. The fields `task.NAME.*` of a configuration hold it, adapter files record it.
"""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from ditask_jax.errors import ConfigError, check_known, did_you_mean
from ditask_jax.options import NOT_NEGATIVE, POSITIVE, Rule, is_integer, is_number, one_of, option, options_of, wrong
from ditask_jax.tasks.base import Colour, Task
from ditask_jax.tasks.class_map import ClassMap
from ditask_jax.tasks.depth import Depth
from ditask_jax.tasks.edge import EdgeDetection
from ditask_jax.tasks.normals import SurfaceNormals
from ditask_jax.tasks.regression import Regression
from ditask_jax.tasks.sal import Saliency

KINDS = ("classes", "mask", "regression", "normals", "depth")
MOST_CLASSES = 255  # 255 itself means "no label" behind the reader
_COLOUR = re.compile(r"#?[0-9a-fA-F]{6}")


def _texts(value: Any) -> tuple[str, ...]:
    """Texts joined by commas, or several of them, as a tuple; what is neither comes back empty."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    good = isinstance(value, tuple | list) and all(isinstance(item, str) and item.strip() for item in value)
    return tuple(item.strip() for item in value) if good else ()


def _are_classes(value: Any) -> bool:
    count = value if is_integer(value) else len(_texts(value))
    return 2 <= count <= MOST_CLASSES and len(set(_texts(value))) == len(_texts(value))


def _are_colours(value: Any) -> bool:
    texts = _texts(value)
    return bool(texts) and all(map(_COLOUR.fullmatch, texts)) and len({parse_colour(t) for t in texts}) == len(texts)


def _items(value: Any) -> tuple[Any, ...]:
    """One value, or several, as a tuple."""
    if isinstance(value, str):
        return _texts(value)
    return tuple(value) if isinstance(value, tuple | list) else (value,)


def _is_ignored(value: Any) -> bool:
    is_colour = lambda item: isinstance(item, str) and bool(_COLOUR.fullmatch(item))
    return bool(_items(value)) and all(is_number(item) or is_colour(item) for item in _items(value))


def _are_ids(value: Any) -> bool:
    ids = _items(value)
    return bool(ids) and all(is_integer(item) and 0 <= item < 2**16 for item in ids) and len(set(ids)) == len(ids)


def _is_folder(value: Any) -> bool:
    parts = value.replace("\\", "/").split("/") if isinstance(value, str) else [""]
    return all(part.strip() and part != ".." for part in parts)


@dataclasses.dataclass(frozen=True)
class TaskOptions:
    """What is said of a single task NAME: the weight of its loss, and for your own labels (folder) what they are."""

    kind: str | None = option(
        None,
        "folder: what the label is: classes (a class per pixel), mask (yes or no), regression (a number), normals, "
        "depth; none: a task that the data set has.",
        one_of(*KINDS),
    )
    classes: int | str | tuple[str, ...] | None = option(
        None,
        "classes: their names in the order of their numbers in the files, from 0 up, joined by commas; or how many.",
        Rule(f"2 to {MOST_CLASSES} different names (background,shirt,hat), or their number", _are_classes),
    )
    colours: str | tuple[str, ...] | None = option(
        None,
        "classes: a colour per class, which images of it show; label files may then be colour images in them.",
        Rule("a different colour per class, as #rrggbb (#000000,#ff0000)", _are_colours),
    )
    ids: int | str | tuple[int, ...] | None = option(
        None,
        "classes: the number of each class in the files, where these are not 0, 1, 2 and so on.",
        Rule("a different whole number per class, from 0 to 65535 (0,128,200)", _are_ids),
    )
    ignore: float | str | tuple[float | str, ...] | None = option(
        None,
        "Value in the files that is no label, or several of them, or colours; none: 255 of classes, 0 of depth, no "
        "value of masks and regression. What is not finite never is one, and normals leave out zero vectors.",
        Rule("a number, a colour as #rrggbb, or several of them (0,255)", _is_ignored),
    )
    folder: str | None = option(
        None,
        "Folder of its files below train/ and val/; none: that of its name.",
        Rule("a folder below train/ and val/", _is_folder),
    )
    metric: str | None = option(
        None,
        "Its primary score: classes mIoU or pixel_accuracy; mask mIoU, maxF (best of the thresholds) or odsF (thin "
        "lines); regression rmse or mae; normals mean, rmse_true or within_11.25 ...; depth rmse; none: the first.",
        Rule("the name of a score", lambda value: isinstance(value, str) and bool(value.strip())),
    )
    scale: float | None = option(
        None,
        "regression, depth: factor from the numbers in the files to the unit (0.001 from millimetres to metres); none: "
        "1, and of depth in 16-bit images 0.001.",
        POSITIVE,
    )
    unit: str | None = option(
        None,
        "regression, depth: unit of the scaled numbers, which scores, images and files show; none: metres of depth.",
        Rule("a unit, such as metres or mm", lambda value: isinstance(value, str) and bool(value.strip())),
    )
    loss_weight: float | None = option(
        None,
        "Factor of its loss in the total, of whichever data set; none: that of the task, or of its kind (classes 1, "
        "mask 5, with odsF 50, regression 1, normals 10, depth 1).",
        NOT_NEGATIVE,
    )


@dataclasses.dataclass(frozen=True)
class _Kind:
    """What a kind of label takes, and the task it makes.

    Attributes:
      takes: options besides those of every kind.
      metrics: primary scores, the usual one first.
      make: from name, primary score and declaration.
    """

    takes: tuple[str, ...]
    metrics: tuple[str, ...]
    make: Callable[[str, str, Mapping[str, Any]], Task]


def _classes(name: str, metric: str, said: Mapping[str, Any]) -> Task:
    names, colours = class_names(said["classes"]), tuple(map(parse_colour, _texts(said.get("colours"))))
    return ClassMap(name=name, num_outputs=len(names), class_names=names, class_colours=colours, primary_metric=metric)


def _mask(name: str, metric: str, said: Mapping[str, Any]) -> Task:
    return EdgeDetection(name=name) if metric == "odsF" else Saliency(name=name, primary_metric=metric)


def _regression(name: str, metric: str, said: Mapping[str, Any]) -> Task:
    return Regression(name=name, primary_metric=metric, unit=said.get("unit", ""))


def _normals(name: str, metric: str, said: Mapping[str, Any]) -> Task:
    share = metric.startswith("within")
    unit = "fraction" if share else "degrees"
    return SurfaceNormals(name=name, primary_metric=metric, higher_is_better=share, unit=unit)


def _depth(name: str, metric: str, said: Mapping[str, Any]) -> Task:
    unit = said.get("unit", "metres")
    return Depth(name=name, primary_metric=metric, unit=unit, scales_inversely=unit != "pixels")


_OF_EVERY_KIND = ("kind", "folder", "metric", "loss_weight")
_OF_THE_TASK = ("kind", "classes", "colours", "metric", "unit")  # the others say how files are read
_KINDS = {
    "classes": _Kind(("classes", "colours", "ids", "ignore"), ("mIoU", "pixel_accuracy"), _classes),
    "mask": _Kind(("ignore",), ("mIoU", "maxF", "odsF"), _mask),
    "regression": _Kind(("ignore", "scale", "unit"), ("rmse", "mae"), _regression),
    "normals": _Kind((), ("mean", "rmse_true", "within_11.25", "within_22.5", "within_30"), _normals),
    "depth": _Kind(("ignore", "scale", "unit"), ("rmse",), _depth),
}


def parse_colour(text: str) -> Colour:
    """Red, green, blue in 0..255 of `#rrggbb`.

    >>> parse_colour("#ff8000")
    (255, 128, 0)
    """
    return tuple(bytes.fromhex(text.removeprefix("#")))


def class_names(value: int | str | tuple[str, ...]) -> tuple[str, ...]:
    """Names of classes, as given, or numbered.

    >>> class_names("hat, bag"), class_names(3)
    (('hat', 'bag'), ('background', 'class 1', 'class 2'))
    """
    if is_integer(value):
        return ("background", *(f"class {k}" for k in range(1, value)))
    return _texts(value)


def check_declaration(name: str, said: Mapping[str, Any]) -> None:
    """Checks what is said of a task, each option and all together.

    Raises:
      ConfigError: the first thing wrong, as `config: task.NAME.OPTION: got ..., expected ...`.

    >>> check_declaration("heat", {"kind": "regresion"})  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: task.heat.kind: unknown name 'regresion'. Did you mean 'regression'? ...
    """
    where, known = f"config: task.{name}", options_of(TaskOptions)
    for key, value in said.items():
        if key not in known:
            raise ConfigError(f"{where}.{key}: unknown field. {did_you_mean(key, known)}")
        known[key].check(f"{where}.{key}", value)
    if "kind" not in said:
        if others := [key for key in said if key != "loss_weight"]:
            raise ConfigError(
                f"{where}.{others[0]}: is said of labels of your own, and task.{name}.kind says what they are: set "
                f"--config.task.{name}.kind to one of {' '.join(KINDS)}"
            )
        return
    kind = _KINDS[said["kind"]]
    for key in said:
        if key not in (*_OF_EVERY_KIND, *kind.takes):
            owners = " ".join(f"'{other}'" for other in KINDS if key in _KINDS[other].takes)
            has = " ".join((*kind.takes, *_OF_EVERY_KIND[1:]))
            raise ConfigError(f"{where}.{key}: an option of kind {owners}; '{said['kind']}' has: {has}")
    if (folder := said.get("folder") or name) == "images":
        raise ConfigError(f"{where}.folder: got '{folder}', which holds the images; name the folder of the labels")
    check_known(f"{where}.metric", said.get("metric", kind.metrics[0]), kind.metrics)
    if said["kind"] == "classes":
        _check_classes(name, where, said)
    elif colours := [item for item in _items(said.get("ignore", ())) if isinstance(item, str)]:
        raise wrong(f"{where}.ignore", colours[0], f"a number: colours are those of classes, not of '{said['kind']}'")


def _check_classes(name: str, where: str, said: Mapping[str, Any]) -> None:
    if "classes" not in said:
        raise ConfigError(
            f"{where}.classes: missing: kind 'classes' needs the names of the classes in the order of their numbers in "
            f"the files (--config.task.{name}.classes=background,shirt,hat), or their number; 'python -m "
            "ditask_jax.data doctor folder --root DIR' counts what the files hold"
        )
    names = class_names(said["classes"])
    for key in ("colours", "ids"):
        if key in said and len(_items(said[key])) != len(names):
            raise ConfigError(
                f"{where}.{key}: got {len(_items(said[key]))} of them, expected {len(names)}: one for each of "
                f"{_shortened(names)}"
            )
    facts = label_facts(name, said)
    numbers = dict(zip(facts["ids"], names, strict=True))
    colours = dict(zip(facts["colours"], names, strict=False))
    for item in facts["ignore"]:
        if (owner := (colours if isinstance(item, tuple) else numbers).get(item)) is not None and "ignore" in said:
            raise ConfigError(
                f"{where}.ignore: {said['ignore']!r} is the class '{owner}' as well; leave that class out of "
                f"task.{name}.classes and give the numbers of the others, --config.task.{name}.ids=1,2,3"
            )
        if isinstance(item, tuple) and not colours:
            raise wrong(f"{where}.ignore", said["ignore"], f"a number, or set task.{name}.colours, which classes have")


def _shortened(names: tuple[str, ...]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def label_facts(name: str, said: Mapping[str, Any]) -> dict[str, Any]:
    """How the files of a declared task are read: the fields of `ditask_jax.data.declared_labels.DeclaredLabel`.

    >>> label_facts("g", {"kind": "classes", "classes": 3})["ids"], label_facts("m", {"kind": "mask"})["folder"]
    ((0, 1, 2), 'm')
    """
    kind, names = said["kind"], class_names(said.get("classes", ()))
    ids = tuple(_items(said["ids"])) if "ids" in said else tuple(range(len(names)))
    usual = {"classes": () if MOST_CLASSES in ids else (MOST_CLASSES,), "depth": (0,)}.get(kind, ())
    ignore = _items(said["ignore"]) if "ignore" in said else usual
    return {
        "name": name,
        "kind": kind,
        "folder": said.get("folder") or name,
        "class_names": names,
        "ids": ids,
        "colours": tuple(map(parse_colour, _texts(said.get("colours")))),
        "ignore": tuple(parse_colour(item) if isinstance(item, str) else item for item in ignore),
        "scale": said.get("scale"),
    }


def declared_task(name: str, said: Mapping[str, Any]) -> Task:
    """The task that a declaration makes; `check_declaration` has passed it.

    >>> task = declared_task("garments", {"kind": "classes", "classes": ("background", "shirt")})
    >>> task.num_outputs, task.primary_metric, task.loss_weight
    (2, 'mIoU', 1.0)
    """
    kind = _KINDS[said["kind"]]
    task = kind.make(name, said.get("metric", kind.metrics[0]), said)
    record = {key: said[key] for key in _OF_THE_TASK if key in said}
    return dataclasses.replace(task, declaration=json.dumps(record, allow_nan=False))
