"""Scenes: a procedural multi-task data set with exact labels that needs no download.

An image is traced analytically into a z-buffer (depth, normal, instance, body part), labels are read off at pixel
centres, and the surfaces are then textured, lit and photographed badly. Most things look as their kind does, the rest
take any colour; colours are shared between things and surroundings, decals look like things, and light, haze and noise
vary: looks are a hint and never the answer.

Axes of normals: x right, y down, z into the scene, so that a visible surface has n . ray < 0; flipping an image
negates x, and a counter-clockwise rotation by r turns (x, y) into (x cos r + y sin r, y cos r - x sin r).

Images are equal between processes of one machine and NumPy version; on another processor the last bit of a float,
and with it a rare uint8 step, may differ.
"""

from ditask_jax.scenes.layout import CLASSES
from ditask_jax.scenes.scene_source import ScenesSource

PARTS = ("background", "head", "torso", "upper_arm", "lower_arm", "upper_leg", "lower_leg")

__all__ = ["CLASSES", "PARTS", "ScenesSource"]
