"""Whole pictures: scenes with several things and people, and portraits of one thing for classification."""

import numpy as np

from ditask_jax.data.scenes.camera import random_camera
from ditask_jax.data.scenes.canvas import GROUND, Canvas
from ditask_jax.data.scenes.dice import Dice
from ditask_jax.data.scenes.layout import THINGS, Stage
from ditask_jax.data.scenes.materials import TEXTURES, expose, shade

_OTHER_THINGS = tuple(name for name in THINGS if name != "person")
# Clutter is small; houses, trees and poles would hide the subject of a portrait.
_SMALL_THINGS = ("box", "ball", "cylinder", "cone", "ring", "star")
_PEOPLE_SHARE = 0.62  # of pictures in which people are placed; a few of them end up hidden or outside
# A portrait is drawn again until its subject shows this share of the picture (less for poles, which are thin).
_PORTRAIT_SHARE, _ATTEMPTS = 0.05, 20

CLASSIFICATION_CLASSES = tuple(f"{texture} {thing}" for thing in THINGS for texture in TEXTURES)


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
    for _ in range(dice.integer(2, 7)):
        ahead = dice.log_uniform(near, 7.0)
        stage.add(
            dice.choice(_OTHER_THINGS), dice.uniform(-1.0, 1.0) * half_view * ahead, ahead, dice.uniform(0.7, 1.3)
        )
    if dice.chance(_PEOPLE_SHARE):
        for _ in range(dice.choice((1, 1, 1, 2, 2, 3))):
            ahead = dice.log_uniform(near, 5.0)
            stage.add("person", dice.uniform(-0.8, 0.8) * half_view * ahead, ahead, dice.uniform(0.8, 1.15))
    for _ in range(dice.integer(0, 5)):
        ahead = dice.log_uniform(near, 6.0)
        stage.add(dice.choice(_SMALL_THINGS), dice.uniform(-1, 1) * half_view * ahead, ahead, dice.uniform(0.2, 0.45))
    return _finish(stage, dice, dice.integer(2, 10)) if with_image else None, stage.canvas


def compose_portrait(dice: Dice, size: tuple[int, int]) -> tuple[np.ndarray, int]:
    """One dominant thing near the middle before clutter.

    Returns:
      The picture uint8 [H, W, 3] and its class, an index of `CLASSIFICATION_CLASSES`.
    """
    label = dice.integer(0, len(CLASSIFICATION_CLASSES) - 1)
    thing, texture = THINGS[label // len(TEXTURES)], label % len(TEXTURES)
    least = _PORTRAIT_SHARE * size[0] * size[1] * (0.3 if thing == "pole" else 1.0)
    for _ in range(_ATTEMPTS):
        stage = _portrait(dice, size, thing, texture)
        if np.count_nonzero(stage.canvas.instance == GROUND + 1) >= least:
            break
    return _finish(stage, dice, dice.integer(1, 6)), label


def _portrait(dice: Dice, size: tuple[int, int], thing: str, texture: int) -> Stage:
    camera = random_camera(dice, size)
    stage = Stage(camera, dice)
    stage.build_room()
    half_view = 0.5 * size[1] / camera.focal
    # Distance at which a thing of usual size spans about half of the picture; farther off it grows to match.
    usual = {"person": 2.6, "tree": 3.3, "house": 3.4, "pole": 3.2}.get(thing, 1.9) * dice.uniform(0.9, 1.5)
    ahead = max(usual, 1.1 * camera.nearest_ground)
    scale = dice.uniform(0.9, 1.1) * ahead / usual
    stage.add(thing, dice.uniform(-0.25, 0.25) * half_view * ahead, ahead, scale, texture)
    for _ in range(dice.integer(1, 5)):
        away = ahead * dice.uniform(1.3, 2.5)
        stage.add(dice.choice(THINGS), dice.uniform(-1, 1) * half_view * away, away, dice.uniform(0.3, 0.8))
    return stage


def _finish(stage: Stage, dice: Dice, decals: int) -> np.ndarray:
    stage.paint_decals(decals)
    return expose(shade(stage.canvas, stage.materials, stage.shadows(), dice), dice)
