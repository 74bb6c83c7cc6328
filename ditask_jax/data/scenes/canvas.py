"""Z-buffer with everything the labels and the shading need: depth, normal, instance, material, body part."""

import numpy as np

from ditask_jax.data.scenes.camera import Camera

SKY, WALL, GROUND = 0, 1, 2
MAX_DEPTH = 10.0


class Canvas:
    """Buffers of one picture, filled front-most first by depth comparison.

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
