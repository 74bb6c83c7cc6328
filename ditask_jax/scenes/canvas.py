"""Named random draws, the camera, and the canvas that it fills."""

import dataclasses
import math
import zlib

import numpy as np

# Cheap scalar random draws: one block of uniforms per image instead of one generator call per number.


_BLOCK = 1024


class Dice:
    """Scalar draws from one `numpy.random.Generator`, read from blocks of uniforms.

    A generator call costs a microsecond or more and a scene needs several hundred numbers.

    Args:
      rng: the generator; `Dice` owns it from now on (arrays of noise come from `dice.rng`).

    >>> dice = Dice(np.random.default_rng(0))
    >>> 2.0 <= dice.uniform(2.0, 3.0) < 3.0
    True
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._block = iter(())

    def random(self) -> float:
        """A float in [0, 1)."""
        value = next(self._block, None)
        if value is None:
            self._block = iter(self.rng.random(_BLOCK).tolist())
            value = next(self._block)
        return value

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * self.random()

    def log_uniform(self, low: float, high: float) -> float:
        """A float in [low, high) whose logarithm is uniform."""
        return low * (high / low) ** self.random()

    def integer(self, low: int, high: int) -> int:
        """An int in low..high, both included."""
        return low + int((high - low + 1) * self.random())

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def choice(self, items):
        """One item of a sequence."""
        return items[int(len(items) * self.random())]

    def vector(self, low: float, high: float, size: int) -> np.ndarray:
        """A float32 vector of uniforms."""
        return np.array([self.uniform(low, high) for _ in range(size)], np.float32)


def dice_for(seed: int, split: str, index: int) -> Dice:
    """The dice of one image: a function of its three arguments, the same in every process.

    >>> dice_for(0, "train", 5).random() == dice_for(0, "train", 5).random()
    True
    >>> dice_for(0, "train", 5).random() == dice_for(0, "val", 5).random()
    False
    """
    # crc32 and not hash(): Python salts the hash of strings per process.
    entropy = (int(seed) & 0xFFFFFFFFFFFFFFFF, zlib.crc32(split.encode()), int(index))
    return Dice(np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy))))


# Pinhole camera: rays through pixel centres and the directions right, up and forward of the world in camera axes.


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera above the ground. Axes: x right, y down, z into the scene (right-handed), lengths in metres.

    Attributes:
      height: camera height over the ground.
      focal: focal length in pixels; the principal point is the centre of the image.
      rays: float32 [3, H, W], direction through each pixel centre with z = 1, so that `t * ray` has depth t.
      right, up, forward: float32 [3], the world's horizontal and vertical directions in camera axes.
    """

    height: float
    focal: float
    rays: np.ndarray
    right: np.ndarray
    up: np.ndarray
    forward: np.ndarray

    def ground_point(self, sideways: float, ahead: float) -> np.ndarray:
        """Camera coordinates float32 [3] of a point of the ground."""
        return sideways * self.right + ahead * self.forward - self.height * self.up

    @property
    def nearest_ground(self) -> float:
        """Metres ahead at which the ground enters the image at its lower border."""
        below = self.rays[1, -1, 0]
        down = below * self.up[1] + self.up[2]
        return float(self.height * (below * self.forward[1] + self.forward[2]) / max(-float(down), 1e-3))

    def axis_height(self, ahead: float) -> float:
        """Height over the ground of the middle of the image at a distance ahead."""
        return self.height + ahead * float(self.up[2] / self.forward[2])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Projects points [N, 3] in front of the camera to pixel positions [N, 2] (x, y), centres at half-integers."""
        height, width = self.rays.shape[1:]
        return points[:, :2] * (self.focal / points[:, 2:]) + np.array([width / 2, height / 2], np.float32)

    def window(self, points: np.ndarray, margin: float = 1.0) -> tuple[slice, slice] | None:
        """Rows and columns that hold the projection of the hull of `points` [N, 3]; None if outside the image."""
        if float(points[:, 2].min()) < 0.2:
            return None
        height, width = self.rays.shape[1:]
        at = self.pixels(points)
        left, top = (at.min(0) - margin).tolist()
        right, bottom = (at.max(0) + margin).tolist()
        rows = slice(max(0, int(top)), min(height, int(bottom) + 1))
        columns = slice(max(0, int(left)), min(width, int(right) + 1))
        if rows.start >= rows.stop or columns.start >= columns.stop:
            return None
        return rows, columns


def random_camera(dice: Dice, size: tuple[int, int]) -> Camera:
    """A camera at eye or knee height, pitched down a little and rolled by a few degrees."""
    height, width = size
    focal = max(height, width) * dice.uniform(0.95, 1.3)
    pitch, roll = math.radians(dice.uniform(2.0, 16.0)), math.radians(dice.uniform(-6.0, 6.0))
    sp, cp, sr, cr = math.sin(pitch), math.cos(pitch), math.sin(roll), math.cos(roll)
    x = (np.arange(width, dtype=np.float32) + 0.5 - width / 2) / np.float32(focal)
    y = (np.arange(height, dtype=np.float32) + 0.5 - height / 2) / np.float32(focal)
    rays = np.empty((3, height, width), np.float32)
    rays[0], rays[1], rays[2] = x, y[:, None], 1.0
    # Without roll: right (1, 0, 0), up (0, -cos p, -sin p), forward (0, -sin p, cos p); roll turns x and y.
    return Camera(
        height=dice.uniform(0.9, 2.0),
        focal=focal,
        rays=rays,
        right=np.array([cr, sr, 0.0], np.float32),
        up=np.array([sr * cp, -cr * cp, -sp], np.float32),
        forward=np.array([sr * sp, -cr * sp, cp], np.float32),
    )


# Z-buffer with everything the labels and the shading need: depth, normal, instance, material, body part.


SKY, WALL, GROUND = 0, 1, 2
MAX_DEPTH = 10.0


class Canvas:
    """Buffers of one image, filled front-most first by depth comparison.

    Shapes: depth float32 [H, W] (infinite = sky), normal float32 [3, H, W] (zero = sky), instance, material int16 and
    part uint8 [H, W]. `classes[i]` is the class id of instance i; 0, 1, 2 are sky, wall and ground.
    """

    def __init__(self, camera: Camera) -> None:
        height, width = camera.rays.shape[1:]
        self.camera = camera
        self.depth = np.full((height, width), np.inf, np.float32)
        self.normal = np.zeros((3, height, width), np.float32)
        self.instance = np.zeros((height, width), np.int16)
        self.material = np.zeros((height, width), np.int16)
        self.part = np.zeros((height, width), np.uint8)
        self.classes = [0, 0, 1]

    def add_instance(self, class_id: int) -> int:
        """Registers an object and returns its instance number."""
        self.classes.append(class_id)
        return len(self.classes) - 1

    def write(self, window, t: np.ndarray, n: np.ndarray, instance: int, material, part=0) -> None:
        """Puts a surface into a window where it is nearer than what is there.

        Args:
          window: rows and columns (slices).
          t: float32 [N] depth of every pixel of the window, row by row, infinite where the surface is absent.
          n: float32 [3, N] normals in camera axes (or one [3, 1] for all).
          instance: instance number.
          material: material number, or int16 [N].
          part: body part, or uint8 [N].
        """
        old = self.depth[window]
        t = t.reshape(old.shape)
        nearer = t < old
        np.copyto(old, t, where=nearer)
        rows, columns = window
        for component, values in zip(self.normal, n, strict=True):
            np.copyto(component[rows, columns], values.reshape(old.shape if values.size > 1 else ()), where=nearer)
        np.copyto(self.instance[window], np.int16(instance), where=nearer)
        for buffer, value in ((self.material, material), (self.part, part)):
            if isinstance(value, np.ndarray):
                value = value.reshape(old.shape)
            np.copyto(buffer[window], value, where=nearer, casting="unsafe")

    def trace(self, shape, parameters, axes, position, corners, instance: int, material: int) -> None:
        """Draws a solid of `shapes`: `axes` [3, 3] holds its directions as columns, `position` [3] its origin,
        `corners` [N, 3] points in its own axes whose hull contains it."""
        window = self.camera.window(corners @ axes.T + position)
        if window is None:
            return
        rows, columns = window
        d = axes.T @ self.camera.rays[:, rows, columns].reshape(3, -1)
        o = tuple((-position @ axes).tolist())
        t, n = shape(o, d, *parameters)
        self.write(window, t, axes @ n, instance, material)
