"""Which tasks each data set has, with how many classes, and what they are called."""

import dataclasses
from collections.abc import Mapping

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
HUMAN_PARTS = _names("background, head, torso, upper arm, lower arm, upper leg, lower leg")


_VTAB_TERMS = "one task of VTAB-1k, under the terms of that data set"
_OWN_TERMS = "the user's own pictures; their terms are the user's to state"


@dataclasses.dataclass(frozen=True)
class DatasetInfo:
    """Tasks and classes of a data set.

    Attributes:
      tasks: task ids, in the order of its tables.
      class_names: names of the classes of each class-map task; a task absent here takes its number of classes from
        the user.
      depth_unit: "metres", "pixels" of disparity or "inverse" depth.
      train_examples, val_examples: lengths of the splits; None where only the files know.
      terms: what its pictures are and under whose terms, one line for model cards.
      distilled: tasks whose labels come from other networks.
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
    "scenes": DatasetInfo(
        ("semseg", "human_parts", "sal", "normals", "depth", "edge"),
        {"semseg": SCENES_CLASSES, "human_parts": HUMAN_PARTS},
        train_examples=2000,
        val_examples=500,
        terms="procedural pictures made by this package (Apache-2.0); no photograph, no person",
    ),
    # 19 tasks of 1,000 training pictures each; which one, and so its number of classes, is data.vtab_task.
    "vtab": DatasetInfo(("classification",), {}, train_examples=1000, terms=_VTAB_TERMS),
    "folder": DatasetInfo(("semseg", "human_parts", "sal", "normals", "depth", "edge"), {}, terms=_OWN_TERMS),
}
