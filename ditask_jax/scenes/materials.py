"""Procedural surfaces and light: textures are evaluated once for all pixels, after visibility is known."""

import colorsys
import functools
import math

import cv2
import numpy as np

from ditask_jax.scenes.canvas import SKY, Canvas, Dice

TEXTURES = ("stripes", "checks", "dots", "blotches")
# Hue, saturation and texture of most things of a class. As in photographs, looks are a hint and not an answer.
TYPICAL_LOOKS = {
    "skin": (0.06, 0.45, None),
    "box": (0.08, 0.75, "checks"),
    "ball": (0.0, 0.85, "dots"),
    "cylinder": (0.5, 0.6, "stripes"),
    "cone": (0.11, 0.9, "stripes"),
    "ring": (0.62, 0.8, None),
    "star": (0.16, 0.9, None),
    "tree": (0.33, 0.7, "blotches"),
    "house": (0.93, 0.5, "checks"),
    "pole": (0.72, 0.5, None),
}
_PLAIN = len(TEXTURES)
_TILE = 256


@functools.cache
def _noise_tile() -> np.ndarray:
    """Periodic smooth noise float32 [256, 256] in about -1..1, the same for every image."""
    rng = np.random.Generator(np.random.Philox(20240601))
    tile = np.zeros((_TILE, _TILE), np.float32)
    for cells, weight in ((8, 1.0), (16, 0.7), (32, 0.5), (64, 0.35)):
        coarse = rng.standard_normal((cells, cells)).astype(np.float32)
        padded = np.pad(coarse, 2, mode="wrap")
        step = _TILE // cells
        fine = cv2.resize(padded, None, fx=step, fy=step, interpolation=cv2.INTER_CUBIC)
        tile += np.float32(weight) * fine[2 * step : 2 * step + _TILE, 2 * step : 2 * step + _TILE]
    return tile / np.float32(1.2)


class Materials:
    """The materials of one image: two colours, a texture, its scale and directions. Number 0 is the sky.

    Unless they look as their kind does, things and surroundings share the few hues of their image.
    """

    def __init__(self, dice: Dice) -> None:
        self._dice = dice
        self._rows: list[tuple] = []
        hues = [dice.random() for _ in range(dice.integer(2, 4))]
        vivid = dice.uniform(0.05, 0.75)
        self._swatches = [
            colorsys.hsv_to_rgb(
                dice.choice(hues) + dice.uniform(-0.05, 0.05), vivid * dice.random(), dice.uniform(0.15, 0.95)
            )
            for _ in range(6)
        ]
        self.add()

    def add_typical(self, look: str) -> int:
        """A new material that looks as things of a kind mostly do (a key of `TYPICAL_LOOKS`), never twice the same."""
        dice = self._dice
        hue, saturation, texture = TYPICAL_LOOKS[look]
        bright = dice.uniform(0.45, 0.95)
        shades = [
            colorsys.hsv_to_rgb((hue + dice.uniform(-0.03, 0.03)) % 1.0, saturation * dice.uniform(0.7, 1.0), value)
            for value in (bright, bright * dice.uniform(0.45, 0.9))
        ]
        kind = _PLAIN if texture is None else TEXTURES.index(texture)
        return self._append(*shades, kind, dice.uniform(0.4, 1.0), dice.log_uniform(0.1, 0.35))

    def add(self, like: int | None = None) -> int:
        """A new material of any colour and texture; `like` is the number of one whose colours it takes (camouflage)."""
        dice = self._dice
        if like is None or like >= len(self._rows):
            a, b = dice.choice(self._swatches), dice.choice(self._swatches)
            if dice.chance(0.35):
                a = (dice.random(), dice.random(), dice.random())
        else:
            a, b = self._rows[like][:2]
        contrast = dice.uniform(0.25, 1.0)
        texture = _PLAIN if dice.chance(0.25) else dice.integer(0, len(TEXTURES) - 1)
        return self._append(a, b, texture, contrast, dice.log_uniform(0.07, 0.6))

    def _append(self, a, b, texture: int, contrast: float, period: float) -> int:
        """Its number; `period` is in metres between repeats of the texture."""
        dice = self._dice
        wave = 2 * math.pi / period
        first, second = self._directions(wave)
        gloss = dice.uniform(0.2, 0.8) if dice.chance(0.3) else 0.0
        self._rows.append((a, b, texture, first, second, dice.uniform(0, 60), contrast, wave, gloss))
        return len(self._rows) - 1

    def _directions(self, wave: float) -> tuple[list[float], list[float]]:
        """Two orthogonal wave vectors of length `wave`, not too close to the line of sight."""
        dice = self._dice
        angle = dice.uniform(0, 2 * math.pi)
        tilt = dice.uniform(-0.6, 0.6)
        c, s = math.cos(angle), math.sin(angle)
        return [wave * c, wave * s, wave * tilt], [-wave * s, wave * c, wave * dice.uniform(-0.6, 0.6)]

    def columns(self) -> list[np.ndarray]:
        """Float32 arrays over materials, in the order of a row."""
        return [np.asarray(column, np.float32) for column in zip(*self._rows, strict=True)]


def _texture(points: np.ndarray, material: np.ndarray, columns: list[np.ndarray], pixel: np.ndarray) -> np.ndarray:
    """Texture value in -1..1 per pixel: [N] from points [3, N], material [N], size of a pixel in metres [N]."""
    _, _, kinds, first, second, phase, contrast, wave, _ = columns
    shift = phase.take(material)
    s, t = (
        sum(w.take(material) * x for w, x in zip(waves.T, points, strict=True)) + shift for waves in (first, second)
    )
    kind = kinds.astype(np.int8).take(material)
    sin_s, sin_t = np.sin(s), np.sin(t)
    tile = _noise_tile().ravel()
    step = np.float32(_TILE / (2 * math.pi) / 12)
    column, row = (s * step).astype(np.int32) & (_TILE - 1), (t * step).astype(np.int32) & (_TILE - 1)
    value = np.where(kind == 0, 4 * sin_s, 6 * (sin_s * sin_t))
    np.copyto(value, 4 * (sin_s + sin_t) - 3, where=kind == 2)
    np.copyto(value, 2 * tile.take(row * _TILE + column), where=kind == 3)
    np.copyto(value, np.sin(np.float32(0.15) * s), where=kind == _PLAIN)
    # A period shorter than two pixels cannot be shown: it fades to its mean instead of aliasing.
    periods = np.float32(math.pi) / np.maximum(wave.take(material) * pixel, np.float32(1e-6))
    value = np.clip(value, -1, 1) * np.clip(periods - 1, 0, 1)
    value += np.float32(0.25) * tile.take(((row * 5) & (_TILE - 1)) * _TILE + ((column * 5) & (_TILE - 1)))
    value *= contrast.take(material)
    return value


def shade(canvas: Canvas, materials: Materials, shadow: np.ndarray, dice: Dice) -> np.ndarray:
    """Colours the image: textures, light by the normals, gloss, shadows, haze, uneven exposure.


    Args:
      shadow: float32 [H, W], share of direct light that arrives (1 = all).

    Returns:
      float32 [H, W, 3], about 0..1.
    """
    camera = canvas.camera
    columns = materials.columns()
    material = canvas.material.ravel().astype(np.intp)
    depth = np.minimum(canvas.depth, 40.0).ravel()
    points = camera.rays.reshape(3, -1) * depth
    mix = np.float32(0.5) + np.float32(0.5) * _texture(points, material, columns, depth / np.float32(camera.focal))

    azimuth, high = dice.uniform(0, 2 * math.pi), dice.uniform(0.25, 1.3)
    flat = math.cos(high)
    light = (
        flat * math.cos(azimuth) * camera.right + flat * math.sin(azimuth) * camera.forward + math.sin(high) * camera.up
    )
    half = light - np.array([0, 0, 1], np.float32)
    half /= np.sqrt(half @ half)
    normal = canvas.normal.reshape(3, -1)
    direct, fill, shine = np.stack([light, camera.up, half]) @ normal
    ambient = dice.uniform(0.25, 0.6)
    direct = np.maximum(direct, 0) * shadow.ravel()
    lit = ambient * (1 + np.float32(0.25) * fill) + (1.15 - ambient) * direct
    for _ in range(4):  # the 16th power: a soft highlight
        shine = shine * np.maximum(shine, 0)
    shine *= columns[8].take(material) * shadow.ravel()
    lit[canvas.instance.ravel() == SKY] = 1.0

    haze = dice.uniform(0.02, 0.12) if dice.chance(0.4) else 0.0
    veil, air = 1 - np.exp(-np.float32(haze) * np.minimum(depth, 15)), dice.vector(0.4, 0.9, 3)
    patches = dice.rng.random((4, 4), np.float32) * np.float32(dice.uniform(0.1, 0.7)) + np.float32(0.75)
    uneven = cv2.resize(patches, canvas.depth.shape[::-1], interpolation=cv2.INTER_CUBIC).ravel()
    planes = []
    for a, b, c in zip(columns[0].T, columns[1].T, air.tolist(), strict=True):
        plane = (a.take(material) + mix * (b - a).take(material)) * lit + shine
        if haze:
            plane += veil * (c - plane)
        planes.append((plane * (uneven * np.float32(dice.uniform(0.8, 1.2)))).reshape(canvas.depth.shape))
    return cv2.merge(planes)


def expose(picture: np.ndarray, dice: Dice) -> np.ndarray:
    """Camera effects: blur, gamma, contrast, sensor noise. Float [H, W, 3] -> uint8."""
    picture = cv2.GaussianBlur(picture, (5, 5), dice.uniform(0.35, 0.9))
    gamma, contrast = dice.uniform(0.7, 1.2), dice.uniform(0.65, 1.1)
    # The curve by table: a power per value would cost as much as all the rest.
    curve = np.linspace(0, 1, 256, dtype=np.float32) ** np.float32(gamma) * np.float32(contrast)
    curve = 255 * curve + np.float32(255 * dice.uniform(0, max(1 - contrast, 0.0)) + 0.5)
    picture = cv2.LUT(cv2.convertScaleAbs(np.maximum(picture, 0), alpha=255), curve)
    picture += _sensor_noise(picture.shape, dice) * np.float32(255 * dice.log_uniform(0.006, 0.025))
    return np.clip(picture, 0, 255).astype(np.uint8)


@functools.cache
def _noise_table() -> np.ndarray:
    """Normal noise float32 [2^19], the same for every image: drawing it anew is the dearest part of an image."""
    return np.random.Generator(np.random.Philox(20240602)).standard_normal(1 << 19, np.float32)


def _sensor_noise(shape: tuple[int, ...], dice: Dice) -> np.ndarray:
    """Normal noise of a shape from a random place of the table (which repeats if the image is larger)."""
    table, count = _noise_table(), int(np.prod(shape))
    start = dice.integer(0, table.size - 1)
    if start + count > table.size:
        table = np.tile(table, -(-(start + count) // table.size))
    return table[start : start + count].reshape(shape)
