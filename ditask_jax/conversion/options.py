"""Reading the options that the commands of conversion share."""

import math
from pathlib import Path

from ditask_jax.errors import ConfigError
from ditask_jax.files import user_path

SUFFIX = ".safetensors"


def image_size(text: str | None, command: str) -> tuple[int, int] | None:
    """`"224"` or `"224,320"` as (height, width); None stays None.

    >>> image_size("224", "convert"), image_size("224,320", "convert")
    ((224, 224), (224, 320))
    """
    if text is None:
        return None
    sides = text.split(",")
    if len(sides) > 2 or not all(side.strip().isdecimal() and len(side) < 6 and int(side) > 0 for side in sides):
        raise ConfigError(f"{command}: --image-size: got '{text}', expected a side in pixels, or HEIGHT,WIDTH")
    return int(sides[0]), int(sides[-1])


def printable(text: str) -> str:
    r"""A name out of a foreign file, fit to be shown and stored: line breaks, escapes and the like are spelled out.

    >>> print(printable("layers.0"), printable("a\nb"))
    layers.0 a\nb
    """
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def output_path(text: str, command: str, suffix: str = SUFFIX, source: str | None = None) -> Path:
    """The file to write, its suffix checked; it may not be the source, nor a folder."""
    path = user_path(text)
    if path.suffix != suffix:
        raise ConfigError(f"{command}: '{text}': expected a file name that ends in {suffix}")
    if path.is_dir():
        raise ConfigError(f"{command}: '{text}' is a folder; give a file name in it")
    origin = None if source is None else user_path(source)
    if origin is not None and path.exists() and origin.exists() and path.samefile(origin):
        raise ConfigError(f"{command}: '{text}' is the source itself; write to another file")
    return path


def channels(text: str | None, option: str, positive: bool = False) -> tuple[float, float, float] | None:
    """`"0.485,0.456,0.406"` as numbers per colour channel; None stays None.

    >>> channels("0.5,0.5,0.5", "--mean")
    (0.5, 0.5, 0.5)
    """
    if text is None:
        return None
    try:
        values = tuple(float(value) for value in text.split(","))
    except ValueError:
        values = ()
    if len(values) != 3 or not all(math.isfinite(v) and (v > 0 or not positive) for v in values):
        kind = " above 0" if positive else ""
        raise ConfigError(f"convert: {option}: got '{text}', expected three numbers{kind}, as in 0.485,0.456,0.406")
    return values
