"""The 19 tasks of VTAB-1k: their classes, and where the catalogue of tensorflow-datasets keeps them.

References:
  X. Zhai et al. A large-scale study of representation learning with the visual task adaptation benchmark. 2019.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from ditask_jax.errors import ConfigError, check_known

GROUPS = ("natural", "specialized", "structured")
EXAMPLES, TUNING_EXAMPLES = 1000, 800


def _label(name: str, divisor: float = 1.0) -> Callable[[Mapping], int]:
    return lambda example: int(int(example[name]) // divisor)


def _bin(value: float, edges: tuple[float, ...]) -> int:
    """The last edge below a value."""
    return int(np.searchsorted(edges, value, side="left")) - 1


def _nearest_object(example: Mapping) -> int:
    return _bin(np.min(np.asarray(example["objects"]["pixel_coords"])[:, 2]), (0, 8, 8.5, 9, 9.5, 10, 100))


def _nearest_vehicle(example: Mapping) -> int:
    objects = example["objects"]
    depth = np.asarray(objects["location"], np.float64).reshape(-1, 3)[:, 2]
    vehicles = depth[np.asarray(objects["type"]).reshape(-1) < 3]  # car, van, truck
    return _bin(min(vehicles.tolist(), default=1000.0), (-100, 8, 20, 999))


@dataclasses.dataclass(frozen=True)
class VtabTask:
    """One task of the benchmark.

    Attributes:
      name: its name here.
      group: "natural", "specialized" or "structured".
      num_classes: classes.
      folders: names of its folder in the layout with lists; the first is ours.
      builder: name (and configuration) in the catalogue of tensorflow-datasets.
      second: split, and per cent of it, after which the last 200 of the 1,000 training pictures come.
      test: split, and per cent of it, after which the test pictures come.
      label: from an example of the catalogue to its class.
      image_factor: what pixels are multiplied by.
    """

    name: str
    group: str
    num_classes: int
    folders: tuple[str, ...]
    builder: str
    second: tuple[str, int]
    test: tuple[str, int]
    label: Callable[[Mapping[str, Any]], int]
    image_factor: int = 1


def _task(name, group, num_classes, builder=None, second=("validation", 0), test=("test", 0), label=None, alias=None,
          image_factor=1) -> VtabTask:  # fmt: skip
    folders = (name,) if alias is None else (name, alias)
    return VtabTask(name, GROUPS[group], num_classes, folders, builder or name, second, test,
                    label or _label("label"), image_factor)  # fmt: skip


_NATURAL, _SPECIALIZED, _STRUCTURED = range(3)
_SIXTY_TWENTY = {"second": ("train", 60), "test": ("train", 80)}
_CLEVR = {"builder": "clevr", "second": ("train", 90), "test": ("validation", 0)}
_DSPRITES = {"builder": "dsprites", "second": ("train", 80), "test": ("train", 90), "image_factor": 255}
_SMALLNORB = {"builder": "smallnorb", "second": ("test", 0), "test": ("test", 50)}

VTAB_TASKS: dict[str, VtabTask] = {
    task.name: task
    for task in (
        _task("cifar100", _NATURAL, 100, second=("train", 90), alias="cifar"),
        _task("caltech101", _NATURAL, 102, second=("train", 90)),
        _task("dtd", _NATURAL, 47),
        _task("oxford_flowers102", _NATURAL, 102),
        _task("oxford_iiit_pet", _NATURAL, 37, second=("train", 80)),
        _task("svhn", _NATURAL, 10, "svhn_cropped", second=("train", 90)),
        _task("sun397", _NATURAL, 397, "sun397/tfds"),
        _task("patch_camelyon", _SPECIALIZED, 2),
        _task("eurosat", _SPECIALIZED, 10, "eurosat/rgb", **_SIXTY_TWENTY),
        _task("resisc45", _SPECIALIZED, 45, **_SIXTY_TWENTY),
        _task("diabetic_retinopathy", _SPECIALIZED, 5, "diabetic_retinopathy_detection/btgraham-300"),
        _task("clevr_count", _STRUCTURED, 8, label=lambda e: len(e["objects"]["pixel_coords"]) - 3, **_CLEVR),
        _task("clevr_dist", _STRUCTURED, 6, label=_nearest_object, **_CLEVR),
        _task("dmlab", _STRUCTURED, 6),
        _task("kitti_dist", _STRUCTURED, 4, "kitti", label=_nearest_vehicle, alias="kitti"),
        _task("dsprites_loc", _STRUCTURED, 16, label=_label("label_x_position", 2), **_DSPRITES),
        _task("dsprites_ori", _STRUCTURED, 16, label=_label("label_orientation", 40 / 16), **_DSPRITES),
        _task("smallnorb_azi", _STRUCTURED, 18, label=_label("label_azimuth"), **_SMALLNORB),
        _task("smallnorb_ele", _STRUCTURED, 9, label=_label("label_elevation"), **_SMALLNORB),
    )
}
"""By name, in the order of the benchmark's tables."""


def vtab_task(name: str | None) -> VtabTask:
    """The task of a name.

    Raises:
      ConfigError: no or an unknown name.

    >>> vtab_task("sun397").num_classes
    397
    >>> vtab_task("cifar10")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: data.vtab_task: unknown name 'cifar10'. Did you mean 'cifar100'? Known: \
cifar100 caltech101 dtd oxford_flowers102 oxford_iiit_pet svhn sun397 patch_camelyon eurosat resisc45 \
diabetic_retinopathy clevr_count clevr_dist dmlab kitti_dist dsprites_loc dsprites_ori smallnorb_azi smallnorb_ele
    """
    if name is None:
        raise ConfigError(f"config: data.vtab_task: got None, expected one of {' '.join(VTAB_TASKS)}")
    check_known("config: data.vtab_task", name, VTAB_TASKS)
    return VTAB_TASKS[name]
