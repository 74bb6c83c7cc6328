"""Pinhole camera: rays through pixel centres and the directions right, up and forward of the world in camera axes."""

import dataclasses
import math

import numpy as np

from ditask_jax.data.scenes.dice import Dice


@dataclasses.dataclass(frozen=True)
class Camera:
    """A camera above the ground. Axes: x right, y down, z into the scene (right-handed), lengths in metres.

    Attributes:
      height: camera height over the ground.
      focal: focal length in pixels; the principal point is the centre of the picture.
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
        """Metres ahead at which the ground enters the picture at its lower border."""
        below = self.rays[1, -1, 0]
        down = below * self.up[1] + self.up[2]
        return float(self.height * (below * self.forward[1] + self.forward[2]) / max(-float(down), 1e-3))

    def axis_height(self, ahead: float) -> float:
        """Height over the ground of the middle of the picture at a distance ahead."""
        return self.height + ahead * float(self.up[2] / self.forward[2])

    def pixels(self, points: np.ndarray) -> np.ndarray:
        """Projects points [N, 3] in front of the camera to pixel positions [N, 2] (x, y), centres at half-integers."""
        height, width = self.rays.shape[1:]
        return points[:, :2] * (self.focal / points[:, 2:]) + np.array([width / 2, height / 2], np.float32)

    def window(self, points: np.ndarray, margin: float = 1.0) -> tuple[slice, slice] | None:
        """Rows and columns that hold the projection of the hull of `points` [N, 3]; None if outside the picture."""
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
