"""Joint augmentation of an image and its label maps."""

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ditask_jax.errors import ConfigError, DataError, check_known
from ditask_jax.labels import IGNORE, MOST_ANNOTATORS, LabelSpec

# What the joint augmentation draws, and the choices it leaves open.
#
# References: the protocol of the PASCAL-Context and NYUDv2 multi-task benchmarks (Vandenhende et al., MTLoRA, DiTASK).
# Side effects of theirs are kept by default where published numbers contain them: padding becomes class 0 (`pad_ignore`
# makes it ignored), cubic interpolation leaves rings of interpolated normals around masks (`erode_normals` removes
# them), and an image without people has no label for human parts at all (`ignore_empty_maps`). One is a mistake and is
# put right: where a cubic interpolation overshoots, values are clipped and do not wrap around in uint8
# (`compat_uint8_wrap` brings the wrap back).


RESIZES = ("cubic", "pillow")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random joint augmentation, and how images and labels are treated on the way.

    Attributes:
      hflip: probability of a horizontal flip, 0..1.
      rotation: largest rotation in degrees; the angle is uniform in -rotation..rotation.
      scale: (low, high) of a uniform zoom factor, or, with `scales_are_choices`, the factors to choose from.
      scales_are_choices: read `scale` as a list of equally likely factors.
      pad_ignore: pixels that the warp brings in from outside are ignored instead of class 0.
      erode_normals: pixels by which the labelled area of direction fields shrinks after the warp (0 = keep all).
      ignore_empty_maps: a map of zeros of a task whose zeros are no label by themselves (human parts without people)
        is ignored as a whole; False keeps it as background.
      compat_uint8_wrap: cut digits off and let cubic overshoot wrap around in uint8, as the released code does.
      resize: "cubic" (OpenCV, no anti-aliasing, as the dense benchmarks) or "pillow" (bicubic with anti-aliasing, as
        the classification benchmarks) for images.
      fast_warp: one bilinear warp straight to the size of the network in place of a cubic warp and a cubic resize.

    >>> Augmentation(rotation=0.0, scale=(1.0, 1.2, 1.5), scales_are_choices=True).hflip
    0.5
    """

    hflip: float = 0.5
    rotation: float = 20.0
    scale: tuple[float, ...] = (0.75, 1.25)
    scales_are_choices: bool = False
    pad_ignore: bool = False
    erode_normals: int = 0
    ignore_empty_maps: bool = True
    compat_uint8_wrap: bool = False
    resize: str = "cubic"
    fast_warp: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", tuple(float(s) for s in self.scale))
        if not 0 <= self.hflip <= 1:
            raise ConfigError(f"augmentation: hflip is a probability in 0..1, got {self.hflip}")
        if not self.scale or min(self.scale) <= 0:
            raise ConfigError(f"augmentation: scale needs positive factors, got {self.scale}")
        if not self.scales_are_choices and (len(self.scale) != 2 or self.scale[0] > self.scale[1]):
            raise ConfigError(f"augmentation: scale is (low, high) with low <= high, got {self.scale}")
        check_known("augmentation: resize", self.resize, RESIZES)

    @property
    def is_random(self) -> bool:
        """Whether two draws can differ."""
        return bool(self.hflip or self.rotation or self.scale[0] != self.scale[-1])

    def for_evaluation(self) -> "Augmentation":
        """The same without what concerns training labels only, so that scores stay comparable.

        >>> Augmentation(erode_normals=2, compat_uint8_wrap=True).for_evaluation().erode_normals
        0
        """
        return dataclasses.replace(self, erode_normals=0, pad_ignore=False)


PRESETS: dict[str, Augmentation | None] = {
    "pascal": Augmentation(),
    "nyud": Augmentation(rotation=0.0, scale=(1.0, 1.2, 1.5), scales_are_choices=True),
    "cityscapes": Augmentation(rotation=0.0, scale=(1.0, 1.2, 1.5), scales_are_choices=True),
    "ccp": Augmentation(resize="pillow"),
    "camvid": Augmentation(rotation=0.0, scale=(1.0, 1.2, 1.5), scales_are_choices=True, resize="pillow"),
    "bsds": Augmentation(),
    "scenes": Augmentation(),
    "folder": Augmentation(),
    "vtab": Augmentation(hflip=0.0, rotation=0.0, scale=(1.0, 1.0), resize="pillow"),
    "none": None,
}


def preset(name: str, **changes) -> Augmentation | None:
    """A named preset, with fields replaced. "none" is None: resize only, as in evaluation.

    >>> preset("pascal", rotation=5.0).rotation
    5.0
    """
    check_known("augmentation", name, PRESETS)
    found = PRESETS[name]
    return dataclasses.replace(found, **changes) if found is not None and changes else found


@dataclasses.dataclass(frozen=True)
class Draw:
    """One sample of an `Augmentation`: angle in degrees (counter-clockwise as seen), zoom factor, flip."""

    flip: bool = False
    angle: float = 0.0
    scale: float = 1.0


def sample(augmentation: Augmentation | None, rng: np.random.Generator) -> Draw:
    """Draws one sample; always three uniforms, so that switching one option leaves the others' draws alone."""
    if augmentation is None:
        return Draw()
    flip, turn, zoom = rng.random(3).tolist()
    scale = augmentation.scale
    if augmentation.scales_are_choices:
        factor = scale[min(int(zoom * len(scale)), len(scale) - 1)]
    else:
        factor = scale[0] + (scale[1] - scale[0]) * zoom
    return Draw(flip < augmentation.hflip, (2 * turn - 1) * augmentation.rotation, factor)


# Joint augmentation of an image and its labels on the host, driven by `LabelSpec`.
#
# Order: horizontal flip, one affine warp (rotation and zoom), resize (aspect ratio not kept), missing values marked.
# Images and normals are interpolated cubically, in float32 from the first step to the last; images are rounded and
# clipped once, at the end. Other maps take the nearest value. See `Augmentation` for what can be chosen.


# What OpenCV resizes and warps.
_MOVABLE = tuple(np.dtype(kind) for kind in (np.uint8, np.uint16, np.int16, np.float32, np.float64))
_INTERPOLATION = {"nearest": cv2.INTER_NEAREST, "linear": cv2.INTER_LINEAR, "cubic": cv2.INTER_CUBIC}


def rotate_directions(directions: np.ndarray, degrees: float) -> np.ndarray:
    """Turns the in-plane part of vectors [..., 3] with an image that is rotated counter-clockwise by `degrees`.

    >>> rotate_directions(np.array([1.0, 0.0, 0.0]), 90.0).round(6) + 0.0  # right becomes up, and y points down
    array([ 0., -1.,  0.])
    """
    return directions @ _rotation(degrees).astype(directions.dtype).T


def transform(
    example: Mapping,
    specs: Sequence[LabelSpec],
    image_size: tuple[int, int],
    draw: Draw | None = None,
    augmentation: Augmentation | None = None,
    keep_label_size: bool = False,
) -> dict:
    """Applies one drawn augmentation (none by default), resizes, and marks missing values.

    Args:
      example: "image" uint8 [H, W, 3] and one raw label per spec (zero = missing in continuous maps).
      specs: behaviour of the labels; only these are read.
      image_size: height and width of the result.
      draw: flip, angle and zoom.
      augmentation: the options that are not random (`pad_ignore` and those after it).
      keep_label_size: resize the image only, for scores at the labels' own resolution.

    Returns:
      `{"image": uint8 [h, w, 3], "labels": {name: uint8 or float32 [h, w] or [h, w, 3], or an int32 number}}`;
      missing is `LabelSpec.missing` (255 in maps).

    Raises:
      DataError: a label is absent, has another size than the image, or is no class.
    """
    draw, options = draw or Draw(), augmentation or Augmentation()
    _check_image(example)
    image = example["image"]
    for spec in specs:
        _check(example, spec)
        if spec.is_map and example[spec.name].dtype not in _MOVABLE:
            example = {**example, spec.name: _movable(example, spec)}
    motion = _Motion.of(image.shape[:2], tuple(image_size), draw, options)
    of_labels = dataclasses.replace(motion, size=None) if keep_label_size else motion
    for spec in specs:
        if spec.keeps_lines:
            example = {**example, spec.name: _thickened(example[spec.name], of_labels.size, draw.scale)}
    together = _move_together(example, specs, of_labels, options)
    labels = {}
    for spec in specs:
        label = example[spec.name]
        if not spec.is_map:
            labels[spec.name] = np.asarray(label, spec.dtype)
        elif spec.is_direction_field:
            labels[spec.name] = _transform_directions(label, spec, of_labels, draw, options)
        else:
            moved = together.get(spec.name)
            if moved is None:
                moved = of_labels(label, _INTERPOLATION[spec.interpolation], _padding(spec, options))
            labels[spec.name] = _finish_map(moved, spec, draw, options)
    return {"image": _transform_image(image, motion, options), "labels": labels}


@dataclasses.dataclass(frozen=True)
class _Motion:
    """Where pixels go: a flip, a forward matrix (or None), and a new size (or None); `fused` does it in one step."""

    flip: bool
    matrix: np.ndarray | None
    size: tuple[int, int] | None
    fused: bool = False

    @staticmethod
    def of(old: tuple[int, int], new: tuple[int, int], draw: Draw, options: Augmentation) -> "_Motion":
        matrix = None
        if draw.angle != 0 or draw.scale != 1:
            matrix = cv2.getRotationMatrix2D((old[1] / 2, old[0] / 2), draw.angle, draw.scale)
        fused = options.fast_warp and matrix is not None
        if fused:
            # Centres of pixels stay centres of pixels, as in a resize: x' + 1/2 = (x + 1/2) new / old.
            zoom = np.array([new[1] / old[1], new[0] / old[0]])
            matrix = np.column_stack([matrix[:, :2] * zoom[:, None], matrix[:, 2] * zoom + (zoom - 1) / 2])
        return _Motion(draw.flip, matrix, None if old == new else new, fused)

    def __call__(self, array: np.ndarray, interpolation: int, padding: int = 0) -> np.ndarray:
        """Moves `[H, W]` or `[H, W, C]`; the very same array where there is nothing to do."""
        if self.flip:
            array = cv2.flip(array, 1)
        if self.matrix is not None:
            height, width = self.size if self.fused and self.size else array.shape[:2]
            four = self.fused and interpolation == cv2.INTER_CUBIC and array.ndim == 3 and array.shape[2] == 3
            if self.fused and interpolation == cv2.INTER_CUBIC:
                interpolation = cv2.INTER_LINEAR
            if four:  # OpenCV interpolates four channels twice as fast as three
                array = cv2.cvtColor(array, cv2.COLOR_RGB2RGBA)
            array = cv2.warpAffine(array, self.matrix, (width, height), flags=interpolation,
                                   borderMode=cv2.BORDER_CONSTANT, borderValue=(padding,) * 4)  # fmt: skip
            if four:
                array = cv2.cvtColor(array, cv2.COLOR_RGBA2RGB)
        if self.size is not None and not self.fused:
            array = cv2.resize(array, (self.size[1], self.size[0]), interpolation=interpolation)
        return array


def _thickened(label: np.ndarray, size: tuple[int, int] | None, zoom: float) -> np.ndarray:
    """Lines as thick as the steps in which a smaller map takes its pixels, so that none falls between them."""
    shrink = [old / (new * zoom) for old, new in zip(label.shape[:2], size or label.shape[:2], strict=True)]
    if max(shrink) <= 1:
        return label
    kernel = np.ones([int(step) + 1 if step > 1 else 1 for step in shrink], np.uint8)
    if label.dtype == np.uint16:  # a bit per annotator
        bits = [((label >> bit) & 1).astype(np.uint8) for bit in range(MOST_ANNOTATORS)]
        thick = [cv2.dilate(lines, kernel).astype(np.uint16) << bit for bit, lines in enumerate(bits)]
        return np.bitwise_or.reduce([label, *thick])
    lines = cv2.dilate((label == 1).astype(np.uint8), kernel)
    return np.where(label == IGNORE, label, lines)


def _transform_image(image: np.ndarray, motion: _Motion, options: Augmentation) -> np.ndarray:
    if motion.fused:
        return motion(image, cv2.INTER_CUBIC)
    if motion.flip:  # while a pixel is three bytes
        image, motion = cv2.flip(image, 1), dataclasses.replace(motion, flip=False)
    by_pillow = options.resize == "pillow" and motion.size is not None
    size = motion.size
    if by_pillow:
        motion = dataclasses.replace(motion, size=None)
    if motion.matrix is not None or motion.size is not None:
        moved = motion(image.astype(np.float32), cv2.INTER_CUBIC)
        if options.compat_uint8_wrap:
            image = moved.astype(np.int32).astype(np.uint8)
        else:
            image = cv2.convertScaleAbs(cv2.max(moved, 0.0))  # rounds and clips
    if by_pillow:
        resized = Image.fromarray(image).resize((size[1], size[0]), Image.Resampling.BICUBIC)
        image = np.asarray(resized)
    return image


def _padding(spec: LabelSpec, options: Augmentation) -> int:
    # Continuous maps say "missing" by zero, which is also what the warp pads with, unless zero is a value there.
    return IGNORE if spec.pad_missing or (options.pad_ignore and spec.dtype == "uint8") else 0


def _move_together(example: Mapping, specs: Sequence[LabelSpec], motion: _Motion, options: Augmentation) -> dict:
    """Moves class maps three at a time, as the channels of one image, which takes little longer than one of them."""
    maps = [spec for spec in specs if spec.is_map and (spec.dtype, spec.interpolation) == ("uint8", "nearest")]
    moved = {}
    for padding in (0, IGNORE) if motion.matrix is not None else ():
        alike = [spec for spec in maps if _padding(spec, options) == padding]
        for three in zip(alike[0::3], alike[1::3], alike[2::3], strict=False):
            joined = cv2.merge([np.asarray(example[spec.name], np.uint8) for spec in three])
            parts = cv2.split(motion(joined, cv2.INTER_NEAREST, padding))
            moved |= {spec.name: part for spec, part in zip(three, parts, strict=True)}
    return moved


def _finish_map(moved: np.ndarray, spec: LabelSpec, draw: Draw, options: Augmentation) -> np.ndarray:
    if spec.scales_inversely and draw.scale != 1:
        moved = moved / np.asarray(draw.scale, moved.dtype)
    moved = moved.astype(spec.dtype, copy=False)
    if spec.all_zero_is_missing and options.ignore_empty_maps and not ((moved != 0) & (moved != IGNORE)).any():
        return np.full_like(moved, IGNORE)
    if spec.zero_is_missing:
        return np.where(moved == 0, np.asarray(IGNORE, moved.dtype), moved)
    return moved


def _transform_directions(label, spec: LabelSpec, motion: _Motion, draw: Draw, options: Augmentation) -> np.ndarray:
    present = None
    if options.erode_normals and spec.zero_is_missing:
        present = motion(label.any(-1).astype(np.uint8), cv2.INTER_NEAREST)
        size = 2 * options.erode_normals + 1
        present = cv2.erode(present, np.ones((size, size), np.uint8), borderType=cv2.BORDER_REPLICATE)
    turn = _rotation(draw.angle) @ np.diag([-1.0 if draw.flip else 1.0, 1.0, 1.0])
    if draw.flip or draw.angle != 0:
        label = cv2.transform(label, turn.astype(label.dtype))
    moved = motion(label, _INTERPOLATION[spec.interpolation])
    return _unit_vectors(moved, spec, present)


def _unit_vectors(vectors: np.ndarray, spec: LabelSpec, present: np.ndarray | None) -> np.ndarray:
    """Vectors of length one; the zero vector stays zero, or becomes `IGNORE` where zero means missing."""
    vectors = vectors.astype(spec.dtype, copy=False)
    # OpenCV's functions, because NumPy broadcasts over three channels at a fifth of their speed.
    length = cv2.sqrt(cv2.transform(cv2.multiply(vectors, vectors), np.ones((1, 3), vectors.dtype)))
    known = length > 0 if present is None else (length > 0) & (present != 0)
    factor = known / np.maximum(length, np.finfo(length.dtype).tiny)
    unit = cv2.multiply(vectors, cv2.cvtColor(factor, cv2.COLOR_GRAY2RGB))
    if spec.zero_is_missing and not known.all():
        unit = cv2.add(unit, (float(IGNORE),) * 4, dst=unit, mask=(~known).view(np.uint8))
    return unit


def _rotation(degrees: float) -> np.ndarray:
    r = math.radians(degrees)
    return np.array([[math.cos(r), math.sin(r), 0], [-math.sin(r), math.cos(r), 0], [0, 0, 1]])


def _check_image(example: Mapping) -> None:
    where = f"data: example {example.get('id', '?')}"
    image = example.get("image")
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3:
        found = f"{image.dtype} {list(image.shape)}" if isinstance(image, np.ndarray) else type(image).__name__
        raise DataError(f"{where}: its image is {found}; expected uint8 [H, W, 3], RGB")


def _check(example: Mapping, spec: LabelSpec) -> None:
    where = f"data: example {example.get('id', '?')}"
    if spec.name not in example:
        raise DataError(f"{where} has no label '{spec.name}'")
    label: Any = example[spec.name]
    size = example["image"].shape[:2]
    if not spec.is_map:
        if spec.num_values and (np.ndim(label) or not 0 <= label < spec.num_values):
            last = spec.num_values - 1
            raise DataError(f"{where}: label '{spec.name}' is {label}; expected a class from 0 to {last}")
        if np.shape(label) != spec.shape(size):
            wanted = spec.shape(size) or "one number"
            raise DataError(f"{where}: label '{spec.name}' has shape {np.shape(label)}; expected {wanted}")
        return
    if not isinstance(label, np.ndarray) or label.dtype.kind not in "buif" or label.ndim < 2:
        found = f"{label.dtype} {list(label.shape)}" if isinstance(label, np.ndarray) else type(label).__name__
        raise DataError(f"{where}: label '{spec.name}' is {found}; expected an array {spec.dtype} {_words(spec)}")
    if label.shape[:2] != size:
        raise DataError(
            f"{where}: label '{spec.name}' is {label.shape[0]}x{label.shape[1]}, its image {size[0]}x{size[1]}"
        )
    if label.shape != spec.shape(size):
        raise DataError(
            f"{where}: label '{spec.name}' has shape {list(label.shape)}; expected {spec.dtype} {_words(spec)}"
        )


def _movable(example: Mapping, spec: LabelSpec) -> np.ndarray:
    """A label of another type, such as int64 or bool, in the type that its task declares."""
    label = example[spec.name]
    cast = label.astype(spec.dtype)
    if label.dtype.kind in "bui" and not np.array_equal(cast, label):
        raise DataError(
            f"data: example {example.get('id', '?')}: label '{spec.name}' holds {label.min()} to {label.max()}, which "
            f"{spec.dtype} cannot; convert it in the data set"
        )
    return cast


def _words(spec: LabelSpec) -> str:
    return f"[H, W, {spec.channels}]" if spec.channels > 1 else "[H, W]"
