"""Reads image and label files, and says in one line what is wrong with them.

Every `read_*` has a `decode_*` beside it for bytes that are in memory already, with the name to give in messages.
"""

import io
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ditask_jax.data import headers
from ditask_jax.errors import DataError
from ditask_jax.labels import IGNORE

_ORIENTATION = 0x0112


def read_bytes(path: Path) -> bytes:
    """The content of a file.

    Raises:
      DataError: it is missing, or the system does not let it be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise DataError(f"data: {path} is missing") from error
    except OSError as error:
        raise DataError(f"data: {path} cannot be read: {error.strerror or error}") from error


def read_image(path: Path) -> np.ndarray:
    """A colour picture as uint8 [H, W, 3] RGB.

    Grey, palette and 16-bit pictures become RGB, an alpha channel is dropped. A picture that carries an EXIF rotation
    is refused: whether its labels were drawn on the rotated or on the stored picture cannot be known.

    Raises:
      DataError: missing, unreadable, truncated or rotated.
    """
    image, orientation, _ = decode_image(read_bytes(path), path)
    if orientation != 1:
        raise DataError(
            f"data: {path} carries an EXIF rotation, and its labels may follow either orientation; "
            "rewrite it upright (for example `mogrify -auto-orient`) and check its labels"
        )
    return image


def decode_image(content: bytes, name: Path | str) -> tuple[np.ndarray, int, bool]:
    """A colour picture as it is stored.

    Returns:
      uint8 [H, W, 3] RGB; the EXIF orientation, 1 to 8 with 1 for upright (see `turn_upright`); and whether the file
      is a plain 8-bit RGB JPEG or PNG, which any decoder reads alike.

    Raises:
      DataError: unreadable or truncated.
    """
    pixels = headers.decode_plain(content)
    if pixels is not None and pixels.ndim == 3:
        return pixels, 1, True
    image = _open(content, name)
    orientation = _orientation(image)
    plain = image.mode == "RGB" and image.format in ("JPEG", "PNG") and "transparency" not in image.info
    if image.mode.startswith("I;16") or image.mode == "I":
        grey = (np.asarray(image, np.int64) >> 8).clip(0, 255).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2), orientation, False
    if "transparency" in image.info:  # Pillow warns unless such palettes pass through RGBA
        image = image.convert("RGBA")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB")), orientation, plain


def _orientation(image: Image.Image) -> int:
    found = image.getexif().get(_ORIENTATION, 1)
    return found if found in range(2, 9) else 1


def turn_upright(image: np.ndarray, orientation: int) -> np.ndarray:
    """Undoes an EXIF orientation: the picture as a viewer shows it.

    >>> turn_upright(np.array([[1, 2, 3], [4, 5, 6]]), 6).tolist()  # 6: turn clockwise
    [[4, 1], [5, 2], [6, 3]]
    """
    turned = image.swapaxes(0, 1) if orientation >= 5 else image
    if orientation in (3, 4, 7, 8):
        turned = turned[::-1]
    if orientation in (2, 3, 6, 7):
        turned = turned[:, ::-1]
    return np.ascontiguousarray(turned)


def image_size(path: Path) -> tuple[int, int]:
    """Height and width of a picture, from its header alone.

    Raises:
      DataError: missing or not a picture.
    """
    image = _open(read_bytes(path), path, load=False)
    return image.height, image.width


def read_indices(path: Path) -> np.ndarray:
    """A label PNG as stored integers [H, W]: palette files give indices (not colours), 16-bit files keep all bits.

    Raises:
      DataError: missing, unreadable, or a colour picture.
    """
    return decode_indices(read_bytes(path), path)


def decode_indices(content: bytes, name: Path | str) -> np.ndarray:
    """See `read_indices`."""
    pixels = headers.decode_plain(content)
    if pixels is not None and pixels.ndim == 2 and content[:2] != headers.JPEG_START:
        return pixels
    image = _open(content, name)
    if image.mode == "1":
        return np.asarray(image).astype(np.uint8)
    if image.mode not in ("L", "P", "I", "I;16", "I;16B"):
        raise DataError(
            f"data: {name} is a colour picture ({image.mode}); a label map needs one channel of class ids "
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


def read_mat(path: Path, variable: str) -> np.ndarray:
    """A variable of a MATLAB file of version 4 to 7.2.

    Raises:
      DataError: missing, unreadable, of version 7.3, or without that variable.
    """
    import scipy.io  # here: it takes as long to load as everything else in this package, and most data need no .mat

    content = io.BytesIO(read_bytes(path))
    try:
        variables = scipy.io.loadmat(content, variable_names=[variable])
    except NotImplementedError as error:
        raise DataError(f"data: {path} is a MATLAB 7.3 file; save it with `-v7`") from error
    except Exception as error:  # a damaged file makes scipy raise whatever the bytes lead it to
        raise DataError(f"data: {path} cannot be read as a .mat file: {_first_line(error)}") from error
    if variable not in variables:
        raise DataError(f"data: {path} holds no variable '{variable}'")
    return variables[variable]


def read_colours(path: Path) -> np.ndarray:
    """A label picture with three channels, uint8 [H, W, 3].

    Raises:
      DataError: missing, unreadable, or not a colour picture.
    """
    return decode_colours(read_bytes(path), path)


def decode_colours(content: bytes, name: Path | str) -> np.ndarray:
    """See `read_colours`."""
    pixels = headers.decode_plain(content)
    if pixels is not None and pixels.ndim == 3:
        return pixels
    image = _open(content, name)
    if image.mode not in ("RGB", "RGBA"):
        raise DataError(f"data: {name} has mode {image.mode}; normals need an 8-bit RGB picture or a .npy array")
    return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))


def colours_to_vectors(colours: np.ndarray) -> np.ndarray:
    """Directions coded as colours: float32 [H, W, 3] = 2 v / 255 - 1 (RGB = x, y, z).

    Pure black and the two mid-greys that zero rounds to, (127, 127, 127) and (128, 128, 128), are the zero vector.

    >>> colours_to_vectors(np.array([[[255, 0, 0], [128, 128, 128]]], np.uint8)).tolist()
    [[[1.0, -1.0, -1.0], [0.0, 0.0, 0.0]]]
    """
    vectors = cv2.LUT(colours, _LEVELS)
    pixels = cv2.cvtColor(colours, cv2.COLOR_RGB2RGBA).view(np.uint32)[..., 0]  # compared whole, at a third of the time
    missing = (pixels == _ZERO_GREYS[0]) | (pixels == _ZERO_GREYS[1]) | (pixels == _ZERO_GREYS[2])
    return cv2.subtract(vectors, vectors, vectors, missing.view(np.uint8))  # zero where it is missing


_ZERO_GREYS = np.array([[grey, grey, grey, 255] for grey in (0, 127, 128)], np.uint8).view(np.uint32)[:, 0]
_LEVELS = np.arange(256, dtype=np.float32) * np.float32(2 / 255) - 1


def read_colour_vectors(path: Path) -> np.ndarray:
    """Directions stored as a colour picture, float32 [H, W, 3]; see `colours_to_vectors`.

    Raises:
      DataError: missing, unreadable, or not a colour picture.
    """
    return colours_to_vectors(read_colours(path))


def check_classes(ids: np.ndarray, count: int, name: Path | str) -> np.ndarray:
    """Class ids as uint8, once all of them are below `count` or `IGNORE`.

    >>> check_classes(np.array([0, 7, 255]), 7, "a.png")
    Traceback (most recent call last):
    ...
    ditask_jax.errors.DataError: data: a.png holds class id 7; allowed are 0..6 and 255 (ignore)
    """
    wrong = (ids != IGNORE) & ((ids < 0) | (ids >= count))
    if wrong.any():
        raise DataError(
            f"data: {name} holds class id {ids[wrong][0]:g}; allowed are 0..{count - 1} and {IGNORE} (ignore)"
        )
    return ids.astype(np.uint8, copy=False)


def as_floats(values: np.ndarray, channels: int, name: Path | str) -> np.ndarray:
    """Numbers [H, W] (`channels` 1) or [H, W, 3] as finite float32; what is not finite becomes 0, "missing".

    Raises:
      DataError: another shape or type.
    """
    if values.ndim == 3 and values.shape[-1] == 1:
        values = values[..., 0]
    wanted = (values.ndim == 3 and values.shape[-1] == 3) if channels == 3 else values.ndim == 2
    if not wanted or values.dtype.kind not in "fiu":
        shape = "[H, W, 3]" if channels == 3 else "[H, W]"
        raise DataError(f"data: {name} holds {values.dtype} {list(values.shape)}; expected numbers {shape}")
    values = values.astype(np.float32)
    finite = np.isfinite(values)
    if finite.all():
        return values
    return np.where(finite.all(-1, keepdims=True) if channels == 3 else finite, values, np.float32(0))


def resize_label(label: np.ndarray, size: tuple[int, int], cubic: bool) -> np.ndarray:
    """Resizes a label [H, W] or [H, W, C] to (height, width): nearest, or cubic for directions."""
    interpolation = cv2.INTER_CUBIC if cubic else cv2.INTER_NEAREST
    return cv2.resize(label, (size[1], size[0]), interpolation=interpolation)


def fit_label(label: np.ndarray, size: tuple[int, int], cubic: bool, name: Path | str) -> np.ndarray:
    """Resizes a label to its picture.

    Raises:
      DataError: the aspect ratios differ by more than 2 %: it belongs to another picture.
    """
    height, width = label.shape[:2]
    if (height, width) == tuple(size):
        return label
    if abs(height * size[1] - width * size[0]) > 0.02 * height * size[1]:
        raise DataError(
            f"data: {name} is {height}x{width} (height x width) and its picture {size[0]}x{size[1]}: "
            "another aspect ratio, so it is not the label of this picture"
        )
    return resize_label(label, size, cubic)


def encode_png(array: np.ndarray) -> bytes:
    """uint8 or uint16 [H, W], or uint8 [H, W, 3] RGB, as a PNG without loss, made to be read quickly.

    Unfiltered class maps decode in a quarter of the time of filtered ones, and are small either way.
    """
    if array.ndim == 3:
        options = (cv2.IMWRITE_PNG_COMPRESSION, 6, cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_FILTERED,
                   cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP)  # fmt: skip
        return cv2.imencode(".png", array[..., ::-1], options)[1].tobytes()
    fast = (cv2.IMWRITE_PNG_COMPRESSION, 1, cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE)
    return cv2.imencode(".png", array, fast if array.dtype == np.uint8 else ())[1].tobytes()


def _open(content: bytes, name: Path | str, load: bool = True) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(content))  # from memory: a damaged file leaves no open handle behind
        if image.width * image.height > headers.MAX_PIXELS:
            raise DataError(
                f"data: {name} has {image.width}x{image.height} pixels, more than the limit of {headers.MAX_PIXELS}"
            )
        if load:
            image.load()  # decode now: Pillow opens lazily and would report a truncated file only later
    except UnidentifiedImageError as error:
        raise DataError(f"data: {name} is not an image file (empty, damaged or of an unknown format)") from error
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"data: {name} cannot be decoded: {_first_line(error)}") from error
    return image


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
