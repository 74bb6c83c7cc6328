"""Tasks by name, from a string such as `semseg+depth` to objects; which data set has which."""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ditask_jax.errors import ConfigError, check_known, did_you_mean
from ditask_jax.tasks.annotated_edge import AnnotatedEdges
from ditask_jax.tasks.base import Task
from ditask_jax.tasks.class_map import HumanParts, SemanticSegmentation
from ditask_jax.tasks.classification import Classification
from ditask_jax.tasks.declared import check_declaration, declared_task
from ditask_jax.tasks.depth import Depth
from ditask_jax.tasks.edge import EdgeDetection
from ditask_jax.tasks.normals import SurfaceNormals
from ditask_jax.tasks.sal import Saliency

# Which tasks each data set has, with how many classes, and what they are called.


IMAGE_MEAN = (0.485, 0.456, 0.406)
IMAGE_STD = (0.229, 0.224, 0.225)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split(", "))


VOC_CLASSES = _names(
    "background, aeroplane, bicycle, bird, boat, bottle, bus, car, cat, chair, cow, diningtable, dog, horse, "
    "motorbike, person, pottedplant, sheep, sofa, train, tvmonitor"
)
NYUD_CLASSES = _names(
    "wall, floor, cabinet, bed, chair, sofa, table, door, window, bookshelf, picture, counter, blinds, desk, shelves, "
    "curtain, dresser, pillow, mirror, floor mat, clothes, ceiling, books, refrigerator, television, paper, towel, "
    "shower curtain, box, whiteboard, person, night stand, toilet, sink, lamp, bathtub, bag, other structure, "
    "other furniture, other prop"
)
CITYSCAPES_CLASSES = _names(
    "road, sidewalk, building, wall, fence, pole, traffic light, traffic sign, vegetation, terrain, sky, person, "
    "rider, car, truck, bus, train, motorcycle, bicycle"
)
CITYSCAPES_CATEGORIES = _names("flat, construction, object, nature, sky, human, vehicle")
SCENES_CLASSES = _names("background, ground, person, box, ball, cylinder, cone, ring, star, tree, house, pole")
CCP_CLASSES = _names(
    "background, skin, hair, upper, outer, dress, skirt, trousers, legwear, footwear, bag, headwear, accessory"
)
CCP_PARTS = _names("background, head, skin, torso, legs, feet, carried")
CAMVID_CLASSES = _names("sky, building, pole, road, pavement, tree, sign, fence, car, pedestrian, bicyclist")
HUMAN_PARTS = _names("background, head, torso, upper arm, lower arm, upper leg, lower leg")


_VTAB_TERMS = "one task of VTAB-1k, under the terms of that data set"
_OWN_TERMS = "the user's own images; their terms are the user's to state"


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Tasks and classes of a data set.

    Attributes:
      tasks: task ids, in the order of its tables.
      class_names: names of the classes of each class-map task; a task absent here takes its number of classes from
        the user.
      depth_unit: "metres", "pixels" of disparity or "inverse" depth.
      train_examples, val_examples: lengths of the splits; None where only the files know.
      terms: what its images are and under whose terms, one line for model cards.
      distilled: tasks whose labels come from other networks.
      keeps_lines: thin lines stay whole where edge labels shrink to the size of the network.
      annotators: labels of edge hold what several people drew.
      other_class_names: names of the classes of other packages of the data set, which the number of classes selects.
    """

    tasks: tuple[str, ...]
    class_names: Mapping[str, tuple[str, ...]]
    depth_unit: str = "metres"
    train_examples: int | None = None
    val_examples: int | None = None
    other_class_names: Mapping[str, tuple[tuple[str, ...], ...]] = dataclasses.field(default_factory=dict)
    terms: str = ""
    distilled: tuple[str, ...] = ()
    keeps_lines: bool = False
    annotators: bool = False


DATASETS: dict[str, DatasetInfo] = {
    "pascal": DatasetInfo(
        ("semseg", "human_parts", "sal", "normals", "edge"),
        {"semseg": VOC_CLASSES, "human_parts": HUMAN_PARTS},
        train_examples=4998,
        val_examples=5105,
        terms="PASCAL-Context with labels of several tasks; photographs under the terms of their owners, for research",
        distilled=("sal", "normals"),
    ),
    "nyud": DatasetInfo(
        ("semseg", "depth", "normals", "edge"),
        {"semseg": NYUD_CLASSES},
        train_examples=795,
        val_examples=654,
        terms="NYUDv2; rooms in the United States, under its own terms, for research",
    ),
    "cityscapes": DatasetInfo(
        ("semseg", "depth"),
        {"semseg": CITYSCAPES_CLASSES},
        "pixels",
        2975,
        500,
        {"semseg": (CITYSCAPES_CATEGORIES,)},
        "Cityscapes; streets of German and neighbouring cities, under its own terms, non-commercial",
    ),
    "ccp": DatasetInfo(
        ("semseg", "human_parts", "sal", "edge"),
        {"semseg": CCP_CLASSES, "human_parts": CCP_PARTS},
        train_examples=803,
        val_examples=200,
        terms="Clothing Co-Parsing; photographs of people in the street, whose own terms nobody states; for research",
        keeps_lines=True,
    ),
    "camvid": DatasetInfo(
        ("semseg", "edge"),
        {"semseg": CAMVID_CLASSES},
        train_examples=367,
        val_examples=101,
        terms="CamVid, the copy of SegNet's authors; streets of Cambridge, CC BY-NC 4.0",
        keeps_lines=True,
    ),
    # How many examples there are depends on which part is scored.
    "bsds": DatasetInfo(
        ("edge",),
        {},
        terms="BSDS500; photographs of the Corel collection, outlines drawn by people, for non-commercial research",
        annotators=True,
    ),
    "scenes": DatasetInfo(
        ("semseg", "human_parts", "sal", "normals", "depth", "edge"),
        {"semseg": SCENES_CLASSES, "human_parts": HUMAN_PARTS},
        train_examples=2000,
        val_examples=500,
        terms="procedural images made by this package (Apache-2.0); no photograph, no person",
    ),
    # 19 tasks of 1,000 training images each; which one, and so its number of classes, is data.vtab_task.
    "vtab": DatasetInfo(("classification",), {}, train_examples=1000, terms=_VTAB_TERMS),
    "folder": DatasetInfo(("semseg", "human_parts", "sal", "normals", "depth", "edge"), {}, terms=_OWN_TERMS),
}


# From a string such as `semseg+depth` to task objects.


# Tasks with a number of classes, and the most there can be: 255 means "no label" in maps.
_CLASSES = {"semseg": SemanticSegmentation, "human_parts": HumanParts, "classification": Classification}
_MOST_CLASSES = {"semseg": 255, "human_parts": 255, "classification": 2**20}
_MAPS = ("semseg", "human_parts")  # of these the configuration has a field
_OTHERS: dict[str, Callable[[DatasetInfo], Task]] = {
    "sal": lambda info: Saliency(),
    "normals": lambda info: SurfaceNormals(),
    # A zoom divides distances, not disparities; the benchmark on inverse depth divides that as well (MTAN).
    "depth": lambda info: Depth(unit=info.depth_unit, scales_inversely=info.depth_unit != "pixels"),
    "edge": lambda info: AnnotatedEdges() if info.annotators else EdgeDetection(keeps_lines=info.keeps_lines),
}
_BUILT_IN = frozenset((*_CLASSES, *_OTHERS))


def check_name(where: str, name: str) -> None:
    """Raises ConfigError for a text that cannot be the name of a task or data set.

    It becomes part of paths and of configurations, where "+" joins tasks and "_shared" ends what all tasks share.
    """
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or name.endswith("shared") or name in ("image", "id"):
        raise ConfigError(f"{where}: a name is made of small letters, digits and _, such as 'people'")


def create_tasks(
    names: str | Sequence[str],
    dataset: str = "scenes",
    num_classes: Mapping[str, int] | None = None,
    depth_unit: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> tuple[Task, ...]:
    """Task objects of a data set, in the order they are named.

    Args:
      names: task ids joined by "+", or a sequence of them.
      dataset: one of `ditask_jax.tasks.task_registry.DATASETS`.
      num_classes: number of classes of `semseg` (needed) and `human_parts` (7 unless given), background included and
        at most 255, for the data set `folder`; of `classification` for `vtab`. Elsewhere it is known.
      depth_unit: of the depth labels, where a data set comes in several; None: its usual one.
      options: by task, what a configuration says in `task.NAME.*`: `{"edge": {"loss_weight": 5.0}}`; for `folder` also
        tasks of one's own, `{"garments": {"kind": "classes", "classes": ("background", "shirt")}}`.

    Returns:
      One `Task` per name.

    Raises:
      ConfigError: unknown data set or task, a task named twice, none named, class counts or options that do not fit.

    >>> [task.name for task in create_tasks("semseg+depth", dataset="nyud")]
    ['semseg', 'depth']
    >>> create_tasks("semsge", dataset="pascal")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: tasks: 'semsge' is not a task of 'pascal'. Did you mean 'semseg'? \
Known: semseg human_parts sal normals edge
    """
    check_known("config: data.name", dataset, DATASETS)
    info = DATASETS[dataset]
    if depth_unit is not None:
        info = dataclasses.replace(info, depth_unit=depth_unit)
    chosen = [name.strip() for name in (names.split("+") if isinstance(names, str) else names)]
    if chosen in ([], [""]):
        raise ConfigError(f"config: tasks: none given; join one or more with '+'. Known: {' '.join(info.tasks)}")
    options = {name: dict(said) for name, said in (options or {}).items()}
    declared = [name for name in chosen if "kind" in options.get(name, ())]
    known = list(dict.fromkeys((*info.tasks, *(name for name in options if "kind" in options[name]))))
    for position, name in enumerate(chosen):
        if name not in info.tasks and name not in declared:
            own = "; task.NAME.kind declares one of your own" if dataset == "folder" else ""
            raise ConfigError(f"config: tasks: '{name}' is not a task of '{dataset}'. {did_you_mean(name, known)}{own}")
        if name in chosen[:position]:
            raise ConfigError(f"config: tasks: '{name}' is named twice in '{'+'.join(chosen)}'")
        _check_options(name, dataset, options.get(name, {}))
    others = [name for name in chosen if name not in declared]
    class_names = _class_names(others, dataset, info, dict(num_classes or {}))
    found = []
    for name in chosen:
        if name in declared:
            task = declared_task(name, options[name])
        elif name in _CLASSES:
            task = _CLASSES[name](num_outputs=len(class_names[name]), class_names=class_names[name])
        else:
            task = _OTHERS[name](info)
        weight = options.get(name, {}).get("loss_weight")
        found.append(task if weight is None else dataclasses.replace(task, loss_weight=float(weight)))
    return tuple(found)


def _check_options(name: str, dataset: str, said: Mapping[str, Any]) -> None:
    check_declaration(name, said)
    if "kind" not in said:
        return
    check_name(f"config: task.{name}", name)
    if dataset != "folder":
        raise ConfigError(
            f"config: task.{name}.kind: labels of your own are those of data.name=folder, and this is '{dataset}', "
            f"which knows what its labels are: {' '.join(DATASETS[dataset].tasks)}"
        )
    if name in _OTHERS and name not in _BUILT_IN:
        raise ConfigError(f"config: task.{name}.kind: code has registered a task '{name}'; declare it by another name")


def add_task(task: Task, datasets: Sequence[str]) -> None:
    """Lets data sets have a further task; `ditask_jax.registering.register_task` says where its label comes from.

    Raises:
      ConfigError: an unknown data set, or a task of that name is there already.
    """
    for dataset in datasets:
        check_known(f"task '{task.name}': datasets", dataset, DATASETS)
    if task.name in _CLASSES or task.name in _OTHERS:
        raise ConfigError(f"task '{task.name}' is registered already; choose another name")
    _OTHERS[task.name] = lambda info: task
    for dataset in datasets:
        info = DATASETS[dataset]
        DATASETS[dataset] = dataclasses.replace(info, tasks=(*info.tasks, task.name))


def known_tasks() -> list[str]:
    """Names of every task, of whichever data set."""
    return [*_CLASSES, *_OTHERS]


def _classes_field(name: str) -> str:
    """What sets the number of classes of a task: a field for maps, elsewhere the argument of `create_tasks` alone."""
    return f"config: data.{name}_classes" if name in _MAPS else f"create_tasks: num_classes of '{name}'"


def has_classes(name: str) -> bool:
    """Whether the number of classes of a task is for a data set, or the user, to say.

    >>> has_classes("semseg"), has_classes("depth")
    (True, False)
    """
    return name in _CLASSES


def dataset_with(names: Sequence[str]) -> str:
    """The first data set that has all of these tasks, "folder" and "vtab" before any with classes of its own.

    >>> dataset_with(["semseg", "depth"]), dataset_with(["classification"])
    ('folder', 'vtab')
    """
    order = dict.fromkeys(["folder", "vtab", *DATASETS])
    return next((dataset for dataset in order if set(names) <= set(DATASETS[dataset].tasks)), "folder")


def primary_score(name: str) -> tuple[str, bool]:
    """The primary metric of a task of whichever data set, and whether it is a fraction.

    >>> primary_score("semseg"), primary_score("depth")
    (('mIoU', True), ('rmse', False))
    """
    task = _CLASSES[name] if name in _CLASSES else _OTHERS[name](DatasetInfo((), {}))
    return task.primary_metric, task.unit == "fraction"


def _class_names(
    chosen: Sequence[str], dataset: str, info: DatasetInfo, num_classes: Mapping[str, int]
) -> dict[str, tuple[str, ...]]:
    for name, count in num_classes.items():
        check_known("create_tasks: num_classes", name, _CLASSES)
        most = _MOST_CLASSES[name]
        if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= most:
            raise ConfigError(f"{_classes_field(name)}: got {count!r}, expected a whole number from 2 to {most}")
        known = info.class_names.get(name)
        if count in [len(names) for names in info.other_class_names.get(name, ())]:
            continue
        if name in info.tasks and known is not None and count != len(known):
            raise ConfigError(
                f"{_classes_field(name)}: got {count}, but '{dataset}' has {len(known)}; "
                "set it for data.name=folder only"
            )
    result = dict(info.class_names)
    for name, others in info.other_class_names.items():
        for names in others:
            if len(names) == num_classes.get(name):
                result[name] = names
    for name in chosen:
        if name not in _CLASSES or name in result:
            continue
        background = () if name == "classification" else ("background",)
        if name in num_classes:
            result[name] = (*background, *(f"class {k}" for k in range(len(background), num_classes[name])))
        elif name == "human_parts":
            result[name] = HUMAN_PARTS
        else:
            included = " (background included)" if background else ""
            raise ConfigError(
                f"{_classes_field(name)}: '{dataset}' needs the number of classes of '{name}'{included}, for example "
                + (f"--config.data.{name}_classes=21" if name in _MAPS else f"num_classes={{'{name}': 21}}")
            )
    return result
