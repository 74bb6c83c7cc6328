"""Whole pictures: a room or landscape with several things and people."""

import numpy as np

from ditask_jax.data.scenes.camera import random_camera
from ditask_jax.data.scenes.canvas import Canvas
from ditask_jax.data.scenes.dice import Dice
from ditask_jax.data.scenes.layout import THINGS, Stage
from ditask_jax.data.scenes.materials import expose, shade

_OTHER_THINGS = tuple(name for name in THINGS if name != "person")
# Clutter is small.
_SMALL_THINGS = ("box", "ball", "cylinder", "cone", "ring", "star")
_PEOPLE_SHARE = 0.75  # of pictures in which people are placed; a few of them end up hidden or outside


def compose_scene(dice: Dice, size: tuple[int, int], with_image: bool = True) -> tuple[np.ndarray | None, Canvas]:
    """A room or landscape with things, often people, and painted decals.

    Args:
      dice: draws of this picture.
      size: height and width in pixels.
      with_image: False skips the shading when only labels are wanted (the labels do not change).

    Returns:
      The picture uint8 [H, W, 3] (None without `with_image`) and the canvas to read labels from.
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
