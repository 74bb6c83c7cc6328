"""Reads image and label files, and says in one line what is wrong with them."""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ditask_jax.errors import DataError

_MAX_PIXELS = 1 << 28


def read_image(path: Path) -> np.ndarray:
    """A colour picture as uint8 [H, W, 3] RGB.

    Grey, palette and 16-bit pictures become RGB, an alpha channel is dropped. A picture that carries an EXIF rotation
    is refused: whether its labels were drawn on the rotated or on the stored picture cannot be known.

    Raises:
      DataError: missing, unreadable, truncated or rotated.
    """
    image = _open(path)
    if image.getexif().get(0x0112, 1) not in (0, 1):
        raise DataError(
            f"data: {path} carries an EXIF rotation, and its labels may follow either orientation; "
            "rewrite it upright (for example `mogrify -auto-orient`) and check its labels"
        )
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = (np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if "transparency" in image.info:  # Pillow warns unless such palettes pass through RGBA
        image = image.convert("RGBA")
    return np.asarray(image.convert("RGB"))


def read_indices(path: Path) -> np.ndarray:
    """A label PNG as stored integers [H, W]: palette files give indices (not colours), 16-bit files keep all bits.

    Raises:
      DataError: missing, unreadable, or a colour picture.
    """
    image = _open(path)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode not in ("L", "P", "I", "I;16", "I;16B"):
        raise DataError(
            f"data: {path} is a colour picture ({image.mode}); a label map needs one channel of class ids "
            "(8-bit grey, palette, or 16-bit grey)"
        )
    return np.asarray(image)


def read_array(path: Path) -> np.ndarray:
    """An array from a `.npy` file (pickled objects are refused).

    Raises:
      DataError: missing or not a plain array file.
    """
    try:
        return np.load(path, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError(f"data: {path} is missing") from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"data: {path} cannot be read as a .npy array: {_first_line(error)}") from error


def read_colour_vectors(path: Path) -> np.ndarray:
    """Directions stored as colours, float32 [H, W, 3] = 2 v / 255 - 1 (RGB = x, y, z).

    Pure black and the two mid-greys that zero rounds to, (127, 127, 127) and (128, 128, 128), are the zero vector.

    Raises:
      DataError: missing, unreadable, or not a colour picture.
    """
    image = _open(path)
    if image.mode not in ("RGB", "RGBA"):
        raise DataError(f"data: {path} has mode {image.mode}; normals need an 8-bit RGB picture or a .npy array")
    values = np.asarray(image.convert("RGB"))
    vectors = values.astype(np.float32) * np.float32(2 / 255) - 1
    same = (values[..., 0] == values[..., 1]) & (values[..., 1] == values[..., 2])
    vectors[same & np.isin(values[..., 0], (0, 127, 128))] = 0
    return vectors


def resize_label(label: np.ndarray, size: tuple[int, int], cubic: bool) -> np.ndarray:
    """Resizes a label [H, W] or [H, W, C] to (height, width): nearest, or cubic for directions."""
    interpolation = cv2.INTER_CUBIC if cubic else cv2.INTER_NEAREST
    return cv2.resize(label, (size[1], size[0]), interpolation=interpolation)


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(path.read_bytes()))  # from memory: a damaged file leaves no open handle behind
        if image.width * image.height > _MAX_PIXELS:
            raise DataError(
                f"data: {path} has {image.width}x{image.height} pixels, more than the limit of {_MAX_PIXELS}"
            )
        image.load()  # decode now: Pillow opens lazily and would report a truncated file only later
    except FileNotFoundError as error:
        raise DataError(f"data: {path} is missing") from error
    except UnidentifiedImageError as error:
        raise DataError(f"data: {path} is not an image file (empty, damaged or of an unknown format)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"data: {path} cannot be decoded: {_first_line(error)}") from error
    return image


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
