"""What the joint augmentation draws, and the choices it leaves open.

References: the protocol of the PASCAL-Context and NYUDv2 multi-task benchmarks (Vandenhende et al., MTLoRA, DiTASK).
Side effects of theirs are kept by default where published numbers contain them: padding becomes class 0 (`pad_ignore`
makes it ignored), cubic interpolation leaves rings of interpolated normals around masks (`erode_normals` removes
them), and a picture without people has no label for human parts at all (`ignore_empty_maps`). One is a mistake and is
put right: where a cubic interpolation overshoots, values are clipped and do not wrap around in uint8
(`compat_uint8_wrap` brings the wrap back).
"""

import dataclasses

import numpy as np

from ditask_jax.errors import ConfigError, check_known

RESIZES = ("cubic", "pillow")


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """Ranges of the random joint augmentation, and how pictures and labels are treated on the way.

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
        the classification benchmarks) for pictures.
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
