"""From a scene to its image and labels, and the source of such examples."""

import dataclasses
import functools
from collections.abc import Callable

import numpy as np

from ditask_jax.errors import ConfigError, check_known
from ditask_jax.scenes.canvas import GROUND, MAX_DEPTH, Canvas, Dice, dice_for, random_camera
from ditask_jax.scenes.layout import THINGS, Stage
from ditask_jax.scenes.materials import expose, shade

# Labels of six tasks, read off the z-buffer at pixel centres.


# Saliency rule: share of the best score that still counts as salient, smallest visible share of the image,
# width of the centre prior as a share of the image.
_SALIENT_RATIO, _SALIENT_AREA, _CENTRE_WIDTH = 0.6, 0.01, 0.3


def semseg(canvas: Canvas) -> np.ndarray:
    """Class id per pixel, uint8 [H, W]."""
    return np.asarray(canvas.classes, np.uint8)[canvas.instance]


def human_parts(canvas: Canvas) -> np.ndarray:
    """Body part per pixel, uint8 [H, W]; 0 where there is no person."""
    return canvas.part.copy()


@functools.lru_cache(8)
def _centre_prior(height: int, width: int) -> np.ndarray:
    y = (np.arange(height) + 0.5) / height - 0.5
    x = (np.arange(width) + 0.5) / width - 0.5
    return np.exp(-(y[:, None] ** 2 + x**2) / (2 * _CENTRE_WIDTH**2)).ravel()


def sal(canvas: Canvas) -> np.ndarray:
    """Salient things, uint8 [H, W] in {0, 1}.

    A thing's score is the number of its visible pixels, each weighted by a Gaussian around the centre of the image
    (large and central things catch the eye). The best thing is salient, and so is every other whose score reaches 0.6
    of the best; things that show less than 1% of the image never are.
    """
    height, width = canvas.instance.shape
    ids, count = canvas.instance.ravel(), len(canvas.classes)
    score = np.bincount(ids, _centre_prior(height, width), count)
    visible = np.bincount(ids, minlength=count) >= _SALIENT_AREA * height * width
    score = np.where(visible & (np.arange(count) > GROUND), score, 0)
    salient = (score > 0) & (score >= _SALIENT_RATIO * score.max())
    return salient[canvas.instance].astype(np.uint8)


def normals(canvas: Canvas) -> np.ndarray:
    """Unit surface normals in camera axes (x right, y down, z into the scene), float32 [H, W, 3]; zero in the sky."""
    return np.ascontiguousarray(np.moveaxis(canvas.normal, 0, -1))


def depth(canvas: Canvas) -> np.ndarray:
    """Depth along the optical axis in metres, float32 [H, W]; 0 in the sky and beyond 10 m."""
    return np.where(canvas.depth <= MAX_DEPTH, canvas.depth, np.float32(0))


def edge(canvas: Canvas) -> np.ndarray:
    """Boundaries between things and surfaces, one pixel wide, uint8 [H, W] in {0, 1}.

    Of two neighbours (left/right, above/below) that show different instances, the nearer pixel is marked.
    """
    instance, far = canvas.instance, canvas.depth
    marked = np.zeros(instance.shape, bool)
    for first, second in (((slice(None), slice(None, -1)), (slice(None), slice(1, None))),
                          ((slice(None, -1), slice(None)), (slice(1, None), slice(None)))):  # fmt: skip
        differs = instance[first] != instance[second]
        nearer = far[first] <= far[second]
        marked[first] |= differs & nearer
        marked[second] |= differs & ~nearer
    return marked.astype(np.uint8)


LABELS: dict[str, Callable[[Canvas], np.ndarray]] = {
    "semseg": semseg, "human_parts": human_parts, "sal": sal, "normals": normals, "depth": depth, "edge": edge,
}  # fmt: skip


# Whole images: a room or landscape with several things and people.


_OTHER_THINGS = tuple(name for name in THINGS if name != "person")
# Clutter is small.
_SMALL_THINGS = ("box", "ball", "cylinder", "cone", "ring", "star")
_PEOPLE_SHARE = 0.75  # of images in which people are placed; a few of them end up hidden or outside


def compose_scene(dice: Dice, size: tuple[int, int], with_image: bool = True) -> tuple[np.ndarray | None, Canvas]:
    """A room or landscape with things, often people, and painted decals.

    Args:
      dice: draws of this image.
      size: height and width in pixels.
      with_image: False skips the shading when only labels are wanted (the labels do not change).

    Returns:
      The image uint8 [H, W, 3] (None without `with_image`) and the canvas to read labels from.
    """
    camera = random_camera(dice, size)
    stage = Stage(camera, dice)
    stage.build_room()
    half_view = 0.5 * size[1] / camera.focal
    near = max(1.8, camera.nearest_ground)
    for _ in range(dice.integer(2, 5)):
        ahead = dice.log_uniform(near, 7.0)
        stage.add(
            dice.choice(_OTHER_THINGS), dice.uniform(-1.0, 1.0) * half_view * ahead, ahead, dice.uniform(0.7, 1.3)
        )
    if dice.chance(_PEOPLE_SHARE):
        for _ in range(dice.choice((1, 1, 1, 2, 2, 3))):
            ahead = dice.log_uniform(max(1.8, 0.8 * near), 3.2)
            stage.add("person", dice.uniform(-0.7, 0.7) * half_view * ahead, ahead, dice.uniform(0.9, 1.2))
    for _ in range(dice.integer(0, 3)):
        ahead = dice.log_uniform(near, 6.0)
        stage.add(dice.choice(_SMALL_THINGS), dice.uniform(-1, 1) * half_view * ahead, ahead, dice.uniform(0.2, 0.45))
    return _finish(stage, dice, dice.integer(2, 10)) if with_image else None, stage.canvas


def _finish(stage: Stage, dice: Dice, decals: int) -> np.ndarray:
    stage.paint_decals(decals)
    return expose(shade(stage.canvas, stage.materials, stage.shadows(), dice), dice)


# Random-access sources over generated images.


SPLITS = {"train": 2000, "val": 500}


def _checked_size(size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 16:
        raise ConfigError(f"scenes: size {height}x{width} is too small; use at least 16x16")
    return int(height), int(width)


@dataclasses.dataclass(frozen=True)
class ScenesSource:
    """Multi-task scenes, made on the fly: example k is a pure function of (seed, split, k, size).

    It does not depend on `num_examples`, `tasks`, the order of access, the thread or the process.

    Attributes:
      split: "train" or "val".
      size: height and width in pixels (or one int).
      seed: another seed is another data set.
      num_examples: length; None for 2000 (train) and 500 (val).
      tasks: labels to return.

    Returns of `source[k]`: `{"image": uint8 [H, W, 3], "id": str, task: label, ...}` with semseg (12 classes),
    human_parts (7), sal and edge uint8 [H, W]; normals float32 [H, W, 3] (zero = missing); depth float32 [H, W]
    metres (0 = missing).

    >>> example = ScenesSource("val", size=64, tasks=("semseg", "depth"))[3]
    >>> example["image"].shape, example["semseg"].dtype.name, example["id"]
    ((64, 64, 3), 'uint8', 'val-000003')
    """

    split: str
    size: int | tuple[int, int] = (128, 128)
    seed: int = 0
    num_examples: int | None = None
    tasks: tuple[str, ...] = tuple(LABELS)

    def __post_init__(self) -> None:
        check_known("scenes: split", self.split, SPLITS)
        for task in self.tasks:
            check_known("scenes: task", task, LABELS)
        object.__setattr__(self, "size", _checked_size(self.size))
        object.__setattr__(self, "tasks", tuple(self.tasks))
        if self.num_examples is None:
            object.__setattr__(self, "num_examples", SPLITS[self.split])
        _check_count(self.num_examples)

    def __len__(self) -> int:
        return self.num_examples

    def __getitem__(self, index: int) -> dict:
        index = _checked_index(index, self.num_examples)
        image, canvas = compose_scene(dice_for(self.seed, self.split, index), self.size)
        example = {"image": image, "id": f"{self.split}-{index:06d}"}
        for task in self.tasks:
            example[task] = LABELS[task](canvas)
        return example


def _check_count(count: int) -> None:
    if count < 1:
        raise ConfigError(f"scenes: num_examples must be at least 1, got {count}")


def _checked_index(index: int, count: int) -> int:
    index = int(np.int64(index))
    if not -count <= index < count:
        raise IndexError(f"scenes: index {index} is outside 0..{count - 1}")
    return index % count
