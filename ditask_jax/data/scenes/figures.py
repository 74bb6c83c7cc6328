"""Articulated human figures: tapered capsules for the limbs, with a body-part map.

Parts: 0 none, 1 head, 2 torso (with neck), 3 upper arm, 4 lower arm (with hand), 5 upper leg, 6 lower leg (with foot).
"""

import math

import numpy as np

from ditask_jax.data.scenes.canvas import Canvas
from ditask_jax.data.scenes.dice import Dice
from ditask_jax.data.scenes.shapes import facing, unit

HEAD, TORSO, UPPER_ARM, LOWER_ARM, UPPER_LEG, LOWER_LEG = 1, 2, 3, 4, 5, 6

_HAIR_LINE = 0.35  # share of the head's length below its top that is hair


def _swing(dice: Dice, spread: float) -> float:
    # Mean of two uniforms: a triangular law, so that extreme poses exist and are rarer.
    return spread * (dice.random() + dice.random() - 1.0)


def _step(at, angle: float, length: float):
    """The end of a bone that starts at `at`; angle 0 hangs straight down, positive swings to the right."""
    return at[0] + length * math.sin(angle), at[1] - length * math.cos(angle)


def random_skeleton(dice: Dice, height: float) -> list[tuple]:
    """Bones `(start, end, radius at start, radius at end, part, depth offset)` of a figure.

    Positions are metres in the plane of the figure: x right, y up, with the lowest foot at y = 0 and the hip at x = 0.
    """
    s = height / 1.75 * dice.uniform(0.95, 1.05)
    turned = dice.random()  # 0 frontal, 1 seen from the side
    side = dice.choice((-1.0, 1.0))
    build = dice.uniform(0.85, 1.3)
    lean = _swing(dice, 0.5)
    hip = (0.0, 0.0)
    chest = (hip[0] + 0.46 * s * math.sin(lean), hip[1] + 0.46 * s * math.cos(lean))
    neck = (chest[0] + 0.10 * s * math.sin(lean), chest[1] + 0.10 * s * math.cos(lean))
    nod = lean + _swing(dice, 0.6)
    crown = (neck[0] + 0.17 * s * math.sin(nod), neck[1] + 0.17 * s * math.cos(nod))
    brow = (neck[0] + 0.07 * s * math.sin(nod), neck[1] + 0.07 * s * math.cos(nod))
    shoulders = s * build * (0.18 - 0.12 * turned)
    hips = s * build * (0.09 - 0.06 * turned)
    waist = s * build * (0.125 - 0.015 * turned)
    left, right = ((chest[0] + sign * 0.7 * shoulders, chest[1] - 0.04 * s) for sign in (-1.0, 1.0))
    bones = [
        (brow, crown, 0.095 * s, 0.105 * s, HEAD, -0.02),
        (chest, neck, 0.06 * s, 0.055 * s, TORSO, 0.0),
        (chest, hip, 0.95 * waist, 0.9 * waist, TORSO, 0.0),
        (left, right, 0.085 * s, 0.085 * s, TORSO, 0.0),
        ((-hips, 0.02 * s), (hips, 0.02 * s), 0.095 * s * build, 0.095 * s * build, TORSO, 0.0),
    ]
    feet = []
    for sign in (-1.0, 1.0):
        layer = sign * side * 0.09 * (0.3 + turned)  # the far arm and leg of a figure seen from the side lie behind
        shoulder = (
            chest[0] + sign * shoulders * math.cos(lean),
            chest[1] - sign * shoulders * math.sin(lean) - 0.02 * s,
        )
        raised = dice.chance(0.25)
        arm = sign * dice.uniform(1.6, 2.9) if raised else sign * 0.25 * (1 - turned) + _swing(dice, 1.1) + 0.3 * lean
        elbow = _step(shoulder, arm, 0.29 * s * dice.uniform(0.75, 1.0))
        bend = arm + (sign if turned < 0.5 else side) * dice.uniform(0.0, 1.9 if dice.chance(0.5) else 0.5)
        wrist = _step(elbow, bend, 0.27 * s * dice.uniform(0.75, 1.0))
        hand = _step(wrist, bend, 0.08 * s)
        bones.append((shoulder, elbow, 0.06 * s * build, 0.047 * s * build, UPPER_ARM, layer - 0.03))
        bones.append((elbow, wrist, 0.046 * s * build, 0.035 * s, LOWER_ARM, layer - 0.05))
        bones.append((wrist, hand, 0.04 * s, 0.042 * s, LOWER_ARM, layer - 0.06))
        socket = (sign * hips, -0.02 * s)
        leg = sign * 0.08 * (1 - turned) + _swing(dice, 0.4 + 0.5 * turned)
        knee = _step(socket, leg, 0.43 * s * dice.uniform(0.8, 1.0))
        shin = leg - side * dice.uniform(0.0, 0.9) * turned + _swing(dice, 0.15)
        ankle = _step(knee, shin, 0.42 * s * dice.uniform(0.85, 1.0))
        toe = (ankle[0] + (side * 0.17 * turned + sign * 0.05) * s, ankle[1] - 0.02 * s)
        bones.append((socket, knee, 0.095 * s * build, 0.066 * s * build, UPPER_LEG, layer))
        bones.append((knee, ankle, 0.066 * s * build, 0.045 * s, LOWER_LEG, layer + 0.01))
        bones.append((ankle, toe, 0.047 * s, 0.04 * s, LOWER_LEG, layer))
        feet.append(min(ankle[1] - 0.047 * s, toe[1] - 0.04 * s))
    drop = -min(feet)
    return [((p[0], p[1] + drop), (q[0], q[1] + drop), *rest) for p, q, *rest in bones]


def draw_figure(canvas: Canvas, bones: list[tuple], foot: np.ndarray, instance: int, wardrobe: dict[int, int]) -> None:
    """Draws a figure standing at `foot` [3] in the plane parallel to the picture through that point.

    Args:
      bones: from `random_skeleton`.
      instance: instance number.
      wardrobe: material number of every part, and of the hair under key 0.
    """
    camera = canvas.camera
    ends = np.array([[*p, *q] for p, q, *_ in bones], np.float32)
    radii = np.array([[rp, rq] for _, _, rp, rq, *_ in bones], np.float32)
    offset = np.array([bone[5] for bone in bones], np.float32)
    # "Up" within the plane of the picture; the lean of the camera's pitch is left out on purpose (a flat figure).
    up = camera.up[:2] / np.hypot(*camera.up[:2])
    turn = np.array([[-up[1], up[0]], [up[0], up[1]]], np.float32)  # rows: rightwards, upwards
    # Positions relative to the foot: the expanded squares below keep their accuracy.
    p, q = ends[:, :2] @ turn, ends[:, 2:] @ turn
    reach = radii.max()
    hull = np.concatenate([p, q]) + foot[:2]
    low, high = hull.min(0) - reach, hull.max(0) + reach
    z = float(foot[2])
    corners = [[*low, z - 0.2], [*high, z - 0.2], [*low, z + 0.2], [*high, z + 0.2]]
    window = camera.window(np.array(corners, np.float32))
    if window is None:
        return
    rays = camera.rays[:, window[0], window[1]].reshape(3, -1)
    at = rays[:2] * np.float32(z) - foot[:2, None]
    v, thin = q - p, radii[:, :1]
    length = np.maximum((v * v).sum(1, keepdims=True), np.float32(1e-9))
    ahead = v @ at - (v * p).sum(1, keepdims=True)
    along = np.clip(ahead / length, 0, 1)
    # radius^2 - distance^2 to the axis, with |at - p - along v|^2 multiplied out.
    rise = np.square(thin + (radii[:, 1:] - thin) * along)
    rise -= (at * at).sum(0) - 2 * (p @ at) + (p * p).sum(1, keepdims=True)
    rise -= along * (along * length - 2 * ahead)
    surface = np.where(rise > 0, z + offset[:, None] - np.sqrt(np.maximum(rise, 0)), np.float32(np.inf))
    bone = surface.argmin(0)
    pick = (bone, np.arange(bone.size))
    height, share = np.maximum(rise[pick], 0), along[pick]
    aside = at - p.T.take(bone, 1) - share * v.T.take(bone, 1)
    n = unit(np.stack([aside[0], aside[1], -np.sqrt(height)]))
    part = np.array([b[4] for b in bones], np.uint8)[bone]
    material = np.array([wardrobe[b[4]] for b in bones], np.int16)[bone]
    material[(bone == 0) & (share > 1 - 2 * _HAIR_LINE)] = wardrobe[0]
    canvas.write(window, surface[pick], facing(n, rays), instance, material, part)
