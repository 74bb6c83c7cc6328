"""What stands where: rooms, things, people, painted decals and shadows."""

import math

import cv2
import numpy as np

from ditask_jax.scenes import shapes
from ditask_jax.scenes.canvas import GROUND, WALL, Camera, Canvas, Dice
from ditask_jax.scenes.materials import Materials
from ditask_jax.scenes.shapes import (
    HEAD,
    LOWER_ARM,
    LOWER_LEG,
    TORSO,
    UPPER_ARM,
    UPPER_LEG,
    draw_figure,
    random_skeleton,
)

CLASSES = (
    "background", "ground", "person", "box", "ball", "cylinder", "cone", "ring", "star", "tree", "house", "pole",
)  # fmt: skip
THINGS = CLASSES[2:]
_TYPICAL_SHARE = 0.7  # of things that look as their kind does; the others take any colour and texture
_CLASS_ID = {name: i for i, name in enumerate(CLASSES)}


def _hull(x: float, y0: float, y1: float, z: float) -> np.ndarray:
    """Corners of the box |X| <= x, y0 <= Y <= y1, |Z| <= z."""
    return np.array([(a, b, c) for a in (-x, x) for b in (y0, y1) for c in (-z, z)], np.float32)


class Stage:
    """One image in the making: the canvas, its materials, and the shadows on the ground."""

    def __init__(self, camera: Camera, dice: Dice) -> None:
        self.dice = dice
        self.camera = camera
        self.canvas = Canvas(camera)
        self.materials = Materials(dice)
        self.footprints: list[tuple[float, float, float, float]] = []  # sideways, ahead, radius, height

    # ------------------------------------------------------------------------------------------ surroundings

    def build_room(self) -> None:
        """Ground, and most times one wall or a corner of two, of which the top may be open to the sky."""
        camera, canvas, dice = self.camera, self.canvas, self.dice
        rays = camera.rays.reshape(3, -1)
        height, width = canvas.depth.shape
        full = (slice(0, height), slice(0, width))
        down = camera.up @ rays
        t = np.where(down < -1e-4, -camera.height / np.minimum(down, np.float32(-1e-4)), np.float32(np.inf))
        t[t > 60] = np.inf
        canvas.write(full, t, camera.up[:, None], GROUND, self.materials.add())
        if dice.chance(0.12):
            return
        ahead = dice.uniform(5.0, 9.5)
        top = dice.uniform(1.5, 4.0) if dice.chance(0.4) else 100.0
        yaws = [dice.uniform(-0.5, 0.5)]
        if dice.chance(0.4):
            yaws = [dice.uniform(-0.9, -0.3), dice.uniform(0.3, 0.9)]
        through = camera.ground_point(dice.uniform(-1.5, 1.5), ahead)
        for yaw in yaws:
            normal = -(math.cos(yaw) * camera.forward + math.sin(yaw) * camera.right)
            facing = normal @ rays
            t = np.where(facing < -1e-4, float(through @ normal) / np.minimum(facing, np.float32(-1e-4)), np.inf)
            t = t.astype(np.float32)
            t[t * down + camera.height > top] = np.inf
            canvas.write(full, t, normal[:, None], WALL, self.materials.add())

    def paint_decals(self, count: int) -> None:
        """Flat painted shapes on walls and ground: they look like things but belong to the surface they are on."""
        canvas, dice = self.canvas, self.dice
        height, width = canvas.depth.shape
        scale = max(height, width)
        painted = np.zeros((height, width), np.int16)
        for _ in range(count):
            material = self.materials.add()
            x, y, r = dice.uniform(0, width), dice.uniform(0, height), scale * dice.log_uniform(0.02, 0.14)
            kind, turn = dice.integer(0, 5), dice.uniform(0, 2 * math.pi)
            corners = {0: 3, 1: 4, 2: 16, 3: 10, 4: 16, 5: 4}[kind]
            angles = turn + np.arange(corners) * (2 * math.pi / corners)
            radii = np.where(np.arange(corners) % 2, 0.45, 1.0) * r if kind == 3 else np.full(corners, r)
            squeeze = dice.uniform(0.1, 0.25) if kind == 5 else dice.uniform(0.6, 1.0)
            shape = np.stack([radii * np.cos(angles), squeeze * radii * np.sin(angles)], 1)
            c, s = math.cos(turn), math.sin(turn)
            shape = shape @ np.array([[c, s], [-s, c]]) + (x, y)
            if kind == 4:
                cv2.polylines(painted, [np.int32(shape)], True, material, max(1, int(r / 4)))
            else:
                cv2.fillPoly(painted, [np.int32(shape)], material)
        surface = (painted > 0) & ((canvas.instance == GROUND) | (canvas.instance == WALL))
        np.copyto(canvas.material, painted, where=surface)

    def shadows(self) -> np.ndarray:
        """Soft dark blobs where things meet the ground: float32 [H, W], 1 = no shadow. Drawn for the ground only."""
        camera, dice = self.camera, self.dice
        shadow = np.ones(self.canvas.depth.shape, np.float32)
        direction, length = dice.uniform(0, 2 * math.pi), dice.uniform(0.0, 0.9)
        angles = np.arange(14) * (2 * math.pi / 14)
        for sideways, ahead, radius, height in self.footprints:
            stretch = np.where(np.cos(angles - direction) > 0, length * height, 0.0)
            x = sideways + radius * np.cos(angles) + stretch * math.cos(direction)
            z = np.maximum(ahead + radius * np.sin(angles) + stretch * math.sin(direction), 0.3)
            points = np.outer(x, camera.right) + np.outer(z, camera.forward) - camera.height * camera.up
            points[:, 2] = np.maximum(points[:, 2], 0.25)
            cv2.fillConvexPoly(shadow, np.int32(camera.pixels(points)), dice.uniform(0.25, 0.6))
        shadow = cv2.GaussianBlur(shadow, (0, 0), dice.uniform(0.8, 2.5))
        shadow[self.canvas.instance != GROUND] = 1.0
        return shadow

    # ------------------------------------------------------------------------------------------------ things

    def _upright(self) -> np.ndarray:
        yaw = self.dice.uniform(0, 2 * math.pi)
        c, s = math.cos(yaw), math.sin(yaw)
        return np.stack([c * self.camera.right + s * self.camera.forward, self.camera.up,
                         c * self.camera.forward - s * self.camera.right], 1)  # fmt: skip

    def _tumbled(self) -> np.ndarray:
        q, r = np.linalg.qr(np.array([self.dice.vector(-1, 1, 3) for _ in range(3)]))
        return (q * np.where(np.diag(r) < 0, -1, 1)).astype(np.float32)

    def _plate(self) -> np.ndarray:
        """Axes of a plate seen from within 40 degrees of its front."""
        yaw, pitch, spin = (self.dice.uniform(-0.7, 0.7), self.dice.uniform(-0.35, 0.35), self.dice.uniform(0, 6.3))
        sy, cy, sp, cp = math.sin(yaw), math.cos(yaw), math.sin(pitch), math.cos(pitch)
        x, y, z = np.array([(cy, 0, -sy), (-sy * sp, cp, -cy * sp), (sy * cp, sp, cy * cp)])
        c, s = math.cos(spin), math.sin(spin)
        return np.stack([c * x + s * y, c * y - s * x, z], 1).astype(np.float32)

    def add(self, name: str, sideways: float, ahead: float, size: float) -> None:
        """Places one thing of a class on the ground (balls, boxes, ... may float, plates always do).

        Args:
          name: class name, one of `THINGS`.
          sideways, ahead: metres on the ground.
          size: about the height in metres that a person of 1.7 would compare to (1 = usual size of the class).
        """
        instance = self.canvas.add_instance(_CLASS_ID[name])
        getattr(self, "_add_" + name)(instance, sideways, ahead, size)

    def _material(self, look: str | None = None) -> int:
        if look is not None and self.dice.chance(_TYPICAL_SHARE):
            return self.materials.add_typical(look)
        like = self.dice.choice((1, 2)) if self.dice.chance(0.25) else None
        return self.materials.add(like=like)

    def _stand(self, sideways: float, ahead: float, radius: float, height: float) -> np.ndarray:
        self.footprints.append((sideways, ahead, radius, height))
        return self.camera.ground_point(sideways, ahead)

    def _hover(self, sideways: float, ahead: float, reach: float) -> np.ndarray:
        """A point in the air, inside the image if things up to `reach` from it are to clear the ground."""
        height = self.camera.axis_height(ahead) + self.dice.uniform(-0.3, 0.3) * ahead
        return self.camera.ground_point(sideways, ahead) + max(height, reach) * self.camera.up

    def _pose(self, sideways: float, ahead: float, radius: float, height: float) -> tuple[np.ndarray, np.ndarray]:
        """Axes and position of a solid of the given half-width and height: standing, or tumbling in the air."""
        if self.dice.chance(0.7):
            return self._upright(), self._stand(sideways, ahead, radius, height)
        axes = self._tumbled()
        middle = self._hover(sideways, ahead, 0.6 * max(radius, height))
        return axes, middle - axes[:, 1] * (height / 2)

    def _trace(self, shape, parameters, axes, position, corners, instance, material) -> None:
        self.canvas.trace(shape, parameters, axes, position.astype(np.float32), corners, instance, material)

    def _add_person(self, instance, sideways, ahead, size) -> None:
        height = 1.7 * size
        foot = self._stand(sideways, ahead, 0.25 * size, height)
        shirt, trousers, hair = (self._material() for _ in range(3))
        skin = self._material("skin")
        wardrobe = {
            0: hair,
            HEAD: skin,
            TORSO: shirt,
            UPPER_ARM: shirt,
            LOWER_ARM: self.dice.choice((shirt, skin)),
            UPPER_LEG: trousers,
            LOWER_LEG: self.dice.choice((trousers, trousers, skin)),
        }
        draw_figure(self.canvas, random_skeleton(self.dice, height), foot, instance, wardrobe)

    def _add_box(self, instance, sideways, ahead, size) -> None:
        x, y, z = (size * self.dice.uniform(0.4, 1.0) for _ in range(3))
        axes, position = self._pose(sideways, ahead, 0.6 * max(x, z), y)
        self._trace(shapes.polyhedron, shapes.box_planes(x, y, z), axes, position, _hull(x / 2, 0, y, z / 2), instance,
                    self._material("box"))  # fmt: skip

    def _add_ball(self, instance, sideways, ahead, size) -> None:
        r = size * self.dice.uniform(0.25, 0.45)
        if self.dice.chance(0.6):
            middle = self._stand(sideways, ahead, r, r) + r * self.camera.up
        else:
            middle = self._hover(sideways, ahead, r)
        self._trace(shapes.ellipsoid, ((r, r, r),), self._upright(), middle, _hull(r, -r, r, r), instance,
                    self._material("ball"))  # fmt: skip

    def _add_cylinder(self, instance, sideways, ahead, size) -> None:
        r = size * self.dice.uniform(0.18, 0.35)
        height = r * self.dice.uniform(1.6, 3.5)
        axes, position = self._pose(sideways, ahead, r, height)
        self._trace(shapes.cylinder, (r, height), axes, position, _hull(r, 0, height, r), instance,
                    self._material("cylinder"))  # fmt: skip

    def _add_cone(self, instance, sideways, ahead, size) -> None:
        r = size * self.dice.uniform(0.25, 0.45)
        height = r * self.dice.uniform(1.6, 3.2)
        axes, position = self._pose(sideways, ahead, r, height)
        self._trace(shapes.cone, (r, height), axes, position, _hull(r, 0, height, r), instance,
                    self._material("cone"))  # fmt: skip

    def _add_ring(self, instance, sideways, ahead, size) -> None:
        r = size * self.dice.uniform(0.3, 0.5)
        tube = r * self.dice.uniform(0.18, 0.36)
        middle = self._hover(sideways, ahead, r)
        self._trace(shapes.ring, (r, tube), self._plate(), middle, _hull(r + tube, -r - tube, r + tube, tube), instance,
                    self._material("ring"))  # fmt: skip

    def _add_star(self, instance, sideways, ahead, size) -> None:
        outer = size * self.dice.uniform(0.4, 0.65)
        inner, rise = outer * self.dice.uniform(0.38, 0.5), outer * self.dice.uniform(0.15, 0.35)
        middle = self._hover(sideways, ahead, outer)
        self._trace(shapes.star, (outer, inner, rise), self._plate(), middle, _hull(outer, -outer, outer, rise),
                    instance, self._material("star"))  # fmt: skip

    def _add_tree(self, instance, sideways, ahead, size) -> None:
        dice = self.dice
        height, r = 2.2 * size * dice.uniform(0.8, 1.2), 0.09 * size * dice.uniform(0.7, 1.3)
        foot = self._stand(sideways, ahead, 0.5 * size, height)
        axes, up = self._upright(), self.camera.up
        trunk = height * dice.uniform(0.3, 0.5)
        self._trace(shapes.cylinder, (r, trunk * 1.3), axes, foot, _hull(r, 0, trunk * 1.3, r), instance,
                    self._material("tree"))  # fmt: skip
        leaves = self._material("tree")
        crown = height - trunk
        if dice.chance(0.4):
            for k in range(2):
                base, tall = foot + (trunk + 0.35 * k * crown) * up, crown * (0.65 if k else 0.75)
                wide = crown * (0.36 - 0.1 * k)
                self._trace(shapes.cone, (wide, tall), axes, base, _hull(wide, 0, tall, wide), instance, leaves)
            return
        for _ in range(3):
            a = crown * dice.uniform(0.26, 0.42)
            shift = crown * (dice.uniform(-0.25, 0.25) * axes[:, 0] + dice.uniform(-0.25, 0.25) * axes[:, 2])
            middle = foot + (trunk + crown * dice.uniform(0.3, 0.65)) * up + shift
            radii = (a, a * dice.uniform(0.8, 1.2), a)
            self._trace(shapes.ellipsoid, (radii,), axes, middle, _hull(a, -radii[1], radii[1], a), instance, leaves)

    def _add_house(self, instance, sideways, ahead, size) -> None:
        x, z = (1.25 * size * self.dice.uniform(0.6, 1.1) for _ in range(2))
        wall, roof = size * self.dice.uniform(0.6, 1.0), size * self.dice.uniform(0.35, 0.8)
        foot, axes = self._stand(sideways, ahead, 0.5 * x, wall), self._upright()
        self._trace(shapes.polyhedron, shapes.house_planes(x, wall, z, roof), axes, foot,
                    _hull(x / 2, 0, wall + roof, z / 2), instance, self._material("house"))  # fmt: skip

    def _add_pole(self, instance, sideways, ahead, size) -> None:
        r, height = 0.05 * size * self.dice.uniform(0.7, 1.4), 2.2 * size * self.dice.uniform(0.6, 1.2)
        foot, axes = self._stand(sideways, ahead, r, height), self._upright()
        tilt = self.dice.uniform(-0.15, 0.15)
        lean = axes.copy()  # a rotation around the third axis
        lean[:, 0] = math.cos(tilt) * axes[:, 0] - math.sin(tilt) * axes[:, 1]
        lean[:, 1] = math.sin(tilt) * axes[:, 0] + math.cos(tilt) * axes[:, 1]
        self._trace(shapes.cylinder, (r, height), lean, foot, _hull(r, 0, height, r), instance, self._material("pole"))
