"""Solids, and persons, trees and houses made of them."""

import math

import numpy as np

from ditask_jax.scenes.canvas import Canvas, Dice

# Ray intersections of simple solids, vectorised over the pixels of a window.
#
# Every function takes the ray origin `o` (three Python floats) and directions `d` float32 [3, N] in the axes of the
# object (y is its upward axis) and returns `(t, n)`: ray parameter float32 [N], infinite where the ray misses, and
# outward normals float32 [3, N], unit where the ray hits and meaningless elsewhere. Components lead: NumPy is several
# times faster on three long rows than on many short ones.


Vector = tuple[float, float, float]
Hits = tuple[np.ndarray, np.ndarray]

_INF = np.float32(np.inf)
_TINY = np.float32(1e-9)


def _dot(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


def _nonzero(x: np.ndarray, tiny: np.float32 = _TINY) -> np.ndarray:
    return np.where(np.abs(x) < tiny, tiny, x)


def unit(n: np.ndarray) -> np.ndarray:
    """Columns of [3, N] scaled to length one (zero columns stay zero)."""
    return n / np.maximum(np.sqrt(_dot(n, n)), np.float32(1e-12))


def facing(n: np.ndarray, d: np.ndarray) -> np.ndarray:
    """Bends normals that look away from the viewer to the nearest direction that is still visible (grazing)."""
    away = np.float32(1.001) * np.maximum(_dot(n, d), 0) / _dot(d, d)
    return unit(n - away * d)


def ellipsoid(o: Vector, d: np.ndarray, radii: Vector) -> Hits:
    """Ellipsoid with centre 0."""
    radii = np.asarray(radii, np.float32)[:, None]
    origin, d = np.asarray(o, np.float32)[:, None] / radii, d / radii
    a, b, c = _dot(d, d), _dot(origin, d), _dot(origin, origin) - 1
    root = b * b - a * c
    t = (-b - np.sqrt(np.maximum(root, 0))) / a
    n = (origin + t * d) / radii
    return np.where((root > 0) & (t > 0), t, _INF), unit(n)


def polyhedron(o: Vector, d: np.ndarray, planes: np.ndarray, offsets: np.ndarray) -> Hits:
    """Convex solid {x: planes @ x <= offsets}; `planes` float32 [K, 3] unit outward normals, `offsets` [K]."""
    slope = planes @ d
    t = (offsets - planes @ np.asarray(o, np.float32))[:, None] / _nonzero(slope)
    entering = np.where(slope < 0, t, -_INF)
    leaving = np.where(slope < 0, _INF, t)
    face, near, far = entering.argmax(0), entering.max(0), leaving.min(0)
    return np.where((near < far) & (near > 0), near, _INF), planes.T.take(face, 1)


def box_planes(sx: float, sy: float, sz: float) -> tuple[np.ndarray, np.ndarray]:
    """Half-spaces of a box standing on y = 0, centred in x and z."""
    planes = np.array([[1, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1]], np.float32)
    return planes, np.array([sx / 2, sx / 2, sy, 0, sz / 2, sz / 2], np.float32)


def house_planes(sx: float, wall: float, sz: float, roof: float) -> tuple[np.ndarray, np.ndarray]:
    """Half-spaces of a box of height `wall` under a gable roof `roof` high whose ridge runs along z."""
    length = math.hypot(roof, sx / 2)
    nx, ny = roof / length, sx / 2 / length
    planes = np.array([[1, 0, 0], [-1, 0, 0], [0, -1, 0], [0, 0, 1], [0, 0, -1], [nx, ny, 0], [-nx, ny, 0]], np.float32)
    ridge = ny * (wall + roof)
    return planes, np.array([sx / 2, sx / 2, 0, sz / 2, sz / 2, ridge, ridge], np.float32)


def cylinder(o: Vector, d: np.ndarray, radius: float, height: float) -> Hits:
    """Capped cylinder around the y axis, 0 <= y <= height."""
    dx, dy, dz = d[0], _nonzero(d[1]), d[2]
    a = np.maximum(dx * dx + dz * dz, np.float32(1e-12))
    b = o[0] * dx + o[2] * dz
    root = b * b - a * (o[0] ** 2 + o[2] ** 2 - radius**2)
    width = np.sqrt(np.maximum(root, 0))
    side, out = (-b - width) / a, (-b + width) / a
    bottom, top = -o[1] / dy, (height - o[1]) / dy
    cap, cap_out = np.minimum(bottom, top), np.maximum(bottom, top)
    t = np.maximum(side, cap)
    on_side = cap <= side
    n = np.empty_like(d)
    n[0] = on_side * (o[0] + t * dx) / radius
    n[1] = np.where(on_side, 0, -np.sign(dy))
    n[2] = on_side * (o[2] + t * dz) / radius
    # Of a thin pole far away, few digits of the distance to its axis remain: normalise.
    return np.where((root > 0) & (t < np.minimum(out, cap_out)) & (t > 0), t, _INF), unit(n)


def cone(o: Vector, d: np.ndarray, radius: float, height: float) -> Hits:
    """Capped cone around the y axis: base of the given radius at y = 0, tip at y = height."""
    k2 = (radius / height) ** 2
    dx, dy, dz = d[0], _nonzero(d[1]), d[2]
    below = height - o[1]
    a = _nonzero(dx * dx + dz * dz - k2 * dy * dy)
    b = o[0] * dx + o[2] * dz + k2 * below * dy
    root = b * b - a * (o[0] ** 2 + o[2] ** 2 - k2 * below**2)
    width = np.sqrt(np.maximum(root, 0))
    side = np.full_like(a, _INF)
    for t in ((-b - width) / a, (-b + width) / a):
        y = o[1] + t * dy
        np.copyto(side, t, where=(root > 0) & (t > 0) & (y >= 0) & (y <= height) & (t < side))
    base = -o[1] / dy
    inside = (o[0] + base * dx) ** 2 + (o[2] + base * dz) ** 2 <= radius**2
    base = np.where(inside & (base > 0), base, _INF)
    t = np.minimum(side, base)
    at = np.where(t < _INF, t, 0)
    n = np.empty_like(d)
    n[0], n[1], n[2] = o[0] + at * dx, k2 * (below - at * dy), o[2] + at * dz
    n = unit(n)
    np.copyto(n, np.array([[0], [-1], [0]], np.float32), where=base < side)
    return t, n


def ring(o: Vector, d: np.ndarray, radius: float, tube: float) -> Hits:
    """Half torus as a relief on the plane z = 0 that bulges towards -z: centre line `radius`, half-width `tube`."""
    t, a, b = _on_plate(o, d)
    rho = np.maximum(np.sqrt(a * a + b * b), np.float32(1e-6))
    across = (rho - radius) / tube
    rise = np.sqrt(np.maximum(1 - across * across, 0))
    n = np.stack([across * a / rho, across * b / rho, -rise])
    return _relief(t, np.abs(across) < 1, tube * rise, n, d)


def star(o: Vector, d: np.ndarray, outer: float, inner: float, rise: float) -> Hits:
    """Five-pointed faceted star as a relief on the plane z = 0, its middle raised by `rise` towards -z."""
    t, a, b = _on_plate(o, d)
    wedge = np.float32(2 * math.pi / 5)
    turn = np.round(np.arctan2(a, -b) / wedge) * wedge
    cos, sin = np.cos(turn), np.sin(turn)
    # Fold into the wedge of one tip: `along` points to the tip, `aside` is the distance from its axis.
    along, aside = sin * a - cos * b, cos * a + sin * b
    mirror = np.where(aside < 0, np.float32(-1), np.float32(1))
    notch = inner * math.cos(math.pi / 5), inner * math.sin(math.pi / 5)
    e_along, e_aside = notch[1], outer - notch[0]  # normal of the edge from tip to notch
    full = e_along * outer
    reach = (e_along * along + e_aside * (aside * mirror)) / full
    slope = rise / full
    n_along, n_aside = slope * e_along, slope * e_aside * mirror
    n = np.stack([sin * n_along + cos * n_aside, sin * n_aside - cos * n_along, np.full_like(a, -1)])
    return _relief(t, reach < 1, rise * (1 - np.clip(reach, 0, 1)), unit(n), d)


def _on_plate(o: Vector, d: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    t = -o[2] / _nonzero(d[2], np.float32(1e-6))
    return t, o[0] + t * d[0], o[1] + t * d[1]


def _relief(t: np.ndarray, inside: np.ndarray, rise: np.ndarray, n: np.ndarray, d: np.ndarray) -> Hits:
    # The surface is `rise` above the plate: along the ray this is a step of rise / cos(angle), to first order.
    t = t - rise / np.maximum(np.abs(d[2]), np.float32(0.3))
    return np.where(inside & (t > 0), t, _INF), facing(n, d)


# Articulated human figures: tapered capsules for the limbs, with a body-part map.
#
# Parts: 0 none, 1 head, 2 torso (with neck), 3 upper arm, 4 lower arm (with hand), 5 upper leg, 6 lower leg (with
# foot).


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
    """Draws a figure standing at `foot` [3] in the plane parallel to the image through that point.

    Args:
      bones: from `random_skeleton`.
      instance: instance number.
      wardrobe: material number of every part, and of the hair under key 0.
    """
    camera = canvas.camera
    ends = np.array([[*p, *q] for p, q, *_ in bones], np.float32)
    radii = np.array([[rp, rq] for _, _, rp, rq, *_ in bones], np.float32)
    offset = np.array([bone[5] for bone in bones], np.float32)
    # "Up" within the plane of the image; the lean of the camera's pitch is left out on purpose (a flat figure).
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
