"""What the bytes of an image file say: which files OpenCV reads exactly as Pillow does, and which way up an image is.

OpenCV reads faster. Whatever is out of the ordinary (palettes, alpha, orientations, other bit depths, files that break
off) is left to Pillow, which knows what to do with it or what to say about it.
"""

import io
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

from ditask_jax.errors import DataError

cv2.utils.logging.setLogLevel(
    cv2.utils.logging.LOG_LEVEL_SILENT
)  # what is wrong with a file is said once, with its name
MAX_PIXELS = 1 << 28
JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_GREY, _RGB = 0, 2  # colour types of PNG
_METADATA = 0xE1  # EXIF or XMP, either of which may turn the image
_FRAMES, _SCAN = (0xC0, 0xC1, 0xC2), 0xDA
# Chunks that change neither pixels nor orientation; text may hold a profile that does.
_HARMLESS = frozenset(
    (
        b"IHDR",
        b"IDAT",
        b"IEND",
        b"gAMA",
        b"cHRM",
        b"sRGB",
        b"iCCP",
        b"pHYs",
        b"tIME",
        b"bKGD",
        b"sBIT",
        b"hIST",
        b"sPLT",
    )
)
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_ORIENTATION, _COMPRESSION = 0x0112, 259  # tags of TIFF
_EXACT = ("PNG", "TIFF", "BMP", "DIB", "GIF", "PPM")
_EXACT_TIFF = (1, 2, 3, 4, 5, 8, 32773, 32946, 50000)  # compressions that lose nothing
_XMP_PREFIX = rb"""xmlns:([\w.-]+)\s*=\s*["']http://ns\.adobe\.com/tiff/1\.0/["']"""
_XMP_VALUE = rb"""):Orientation(?:\s*=\s*["']|(?:\s[^<>]*)?>(?:\s*<rdf:value>)?)\s*([1-8])\b"""
_PROFILES = (b"raw profile", b"xml:com.adobe.xmp", b"exif", b"xmp")


def decode_plain(content: bytes) -> np.ndarray | None:
    """A plain image: JPEG or 8-bit PNG with three channels uint8 [H, W, 3] RGB, or grey PNG uint8 or uint16 [H, W].

    None for everything else: files with an orientation anywhere in them, and damaged ones, included.

    >>> decode_plain(b"GIF89a") is None
    True
    """
    if content.startswith(PNG_START):
        flags = _png_flags(content)
    elif content.startswith(JPEG_START):
        flags = _jpeg_flags(content)
    else:
        return None
    return None if flags is None else decode_with_opencv(content, flags)


def decode_with_opencv(content: bytes, flags: int = cv2.IMREAD_UNCHANGED) -> np.ndarray | None:
    """What OpenCV reads from a file; None if it cannot, be it for want of memory."""
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), flags)
    except cv2.error:
        return None


def _png_flags(content: bytes) -> int | None:
    if not content.endswith(_PNG_END) or content[12:16] != b"IHDR":
        return None
    depth, kind = content[24], content[25]
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if not 0 < width * height <= MAX_PIXELS:
        return None
    if any(name not in _HARMLESS and not _is_plain_text(name, text) for name, text in _chunks(content)):
        return None
    if kind == _GREY and depth in (8, 16):
        return cv2.IMREAD_UNCHANGED
    return cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if (kind, depth) == (_RGB, 8) else None


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Names of all chunks of a PNG, each with the first bytes of what it holds."""
    at = 8
    while at + 12 <= len(content):
        yield content[at + 4 : at + 8], content[at + 8 : at + 32]
        at += 12 + int.from_bytes(content[at : at + 4])


def _is_plain_text(name: bytes, text: bytes) -> bool:
    return name in _TEXTS and not text.lower().startswith(_PROFILES)


def _jpeg_flags(content: bytes) -> int | None:
    if _JPEG_END not in content[-64:]:
        return None
    at, is_plain = 2, False
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker == _SCAN:
            return cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if is_plain else None
        if marker in _FRAMES:  # the frame's size and number of components
            height, width = int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
            is_plain = content[at + 4] == 8 and content[at + 9] == 3 and 0 < height * width <= MAX_PIXELS
        if marker == _METADATA or not 0xC0 <= marker <= 0xFE:
            return None
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return None


def find_orientation(info: Mapping, content: bytes, kind: str) -> int:
    """The orientation that a file asks for, wherever it says so: 1 to 8 as in EXIF, 1 for upright.

    EXIF comes before text profiles (`Raw profile type exif`, as ImageMagick writes them), and XMP last.

    Args:
      info: the metadata that Pillow found, once the whole file is read.
      content: the file.
      kind: its format, as Pillow names it.

    >>> find_orientation({"xmp": b'<x tiff:Orientation="6"/>'}, b"", "JPEG")
    6
    """
    profiles = [_unfold(info[key]) for key in info if str(key).lower().startswith("raw profile")]
    blocks = [info.get("exif"), *profiles]
    texts = [info.get("xmp"), info.get("XML:com.adobe.xmp"), *profiles]
    if kind in ("GIF", "JPEG2000"):  # of which Pillow reads no metadata
        texts.append(content)
        blocks.append(content.partition(b"JpgTiffExif->JP2")[2])
    for found in (*map(_exif_orientation, blocks), *map(_xmp_orientation, texts)):
        if 1 <= found <= 8:
            return found
    return 1


def _unfold(profile: str | bytes) -> bytes:
    """The bytes of a text profile: its name and length in lines of their own, then hexadecimal digits."""
    text = profile if isinstance(profile, str) else profile.decode("latin-1")
    try:
        return bytes.fromhex("".join(text.strip().split("\n")[2:]))
    except ValueError:
        return b""


def _exif_orientation(block: bytes | None) -> int:
    """Tag 274 of the first directory of an EXIF block; 0 where there is none."""
    if not isinstance(block, bytes):
        return 0
    block = block.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "little", b"MM\0*": "big"}.get(block[:4])
    if order is None:
        return 0
    read = lambda at, size: int.from_bytes(block[at : at + size], order)
    start = read(4, 4)
    for at in range(start + 2, min(start + 2 + 12 * read(start, 2), len(block)), 12):
        size = {1: 1, 3: 2, 4: 4}.get(read(at + 2, 2))  # BYTE, SHORT, LONG
        if read(at, 2) == 0x0112 and size:
            return read(at + 8, size)
    return 0


def _xmp_orientation(text: str | bytes | None) -> int:
    """`tiff:Orientation` of an XMP packet, as attribute or element, by any prefix; 0 where there is none."""
    content = text.encode("utf-8", "replace") if isinstance(text, str) else text or b""
    if b":Orientation" not in content:
        return 0
    prefixes = rb"|".join(map(re.escape, {b"tiff", *re.findall(_XMP_PREFIX, content)}))
    found = re.search(rb"\b(?:" + prefixes + _XMP_VALUE, content)
    return int(found[1]) if found else 0


class Opened(NamedTuple):
    """An image file that Pillow has decoded.

    Attributes:
      image: what Pillow made of it.
      orientation: what the file asks for, 1 to 8.
      is_turned: Pillow carried that out itself, as it does with TIFF.
      is_exact: the numbers are those that were saved.
    """

    image: Image.Image
    orientation: int
    is_turned: bool
    is_exact: bool


def open_picture(content: bytes, name: Path | str) -> Opened:
    """Decodes a file with Pillow.

    Raises:
      DataError: no image, damaged, of no size or of too many pixels.
    """
    try:
        image = Image.open(io.BytesIO(content))  # from memory: a damaged file leaves no open handle behind
        if not 0 < image.width * image.height <= MAX_PIXELS:
            raise DataError(f"data: {name} has {image.width}x{image.height} pixels, expected 1 to {MAX_PIXELS} of them")
        # Read before it is decoded, for then Pillow turns a TIFF and forgets what it said.
        before = image.getexif().get(_ORIENTATION, 1) if image.format == "TIFF" else 1
        tag = image.tag_v2.get(_ORIENTATION) if image.format == "TIFF" else None
        is_exact = _is_exact(image, content)
        image.load()  # decode now: Pillow opens lazily and would report a truncated file only later
    except UnidentifiedImageError as error:
        raise DataError(f"data: {name} is not an image file (empty, damaged or of an unknown format)") from error
    except DataError:
        raise
    except Exception as error:  # a damaged file makes Pillow's many readers raise whatever the bytes lead them to
        raise DataError(f"data: {name} cannot be decoded: {first_line(error)}") from error
    is_turned = before in range(2, 9) and _ORIENTATION not in image.getexif()
    if is_turned or tag in range(1, 9):  # the tag comes before XMP, as EXIF does
        orientation = before if is_turned else tag
    else:
        orientation = find_orientation(image.info, content, image.format)
    return Opened(image, orientation, is_turned, is_exact)


def _is_exact(image: Image.Image, content: bytes) -> bool:
    """Whether a file that is not decoded yet holds whole numbers which come out as they went in."""
    if image.format == "TIFF":
        return image.tag_v2.get(_COMPRESSION, 1) in _EXACT_TIFF
    if image.format == "PPM":  # black is 1 in bitmaps, and maps of less than 8 or 16 bits are stretched
        return image.mode != "1" and image.tile[0][0] == "raw"
    if image.format in ("BMP", "DIB"):  # of greys in few bits Pillow reads the bytes as if they were whole ones
        return image.mode == "P" or (image.mode, content[28]) in (("L", 8), ("1", 1))
    return image.format in _EXACT


def first_line(error: Exception) -> str:
    """What an error of another package says, in one line."""
    return (str(error) or type(error).__name__).splitlines()[0]
