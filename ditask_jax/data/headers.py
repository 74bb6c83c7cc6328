"""Picks the files that OpenCV reads exactly as Pillow does, by their first bytes, because it reads them faster.

Whatever is out of the ordinary (palettes, alpha, EXIF, other bit depths, files that break off) is left to Pillow, which
knows what to do with it or what to say about it.
"""

import cv2
import numpy as np

MAX_PIXELS = 1 << 28
JPEG_START, _JPEG_END = b"\xff\xd8", b"\xff\xd9"
_PNG_START, _PNG_END = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_GREY, _RGB = 0, 2  # colour types of PNG
_METADATA = 0xE1  # EXIF or XMP, either of which may turn the picture


def decode_plain(content: bytes) -> np.ndarray | None:
    """A plain picture: JPEG or 8-bit PNG with three channels uint8 [H, W, 3] RGB, or grey PNG uint8 or uint16 [H, W].

    None for everything else, damaged files included.

    >>> decode_plain(b"GIF89a") is None
    True
    """
    if content.startswith(_PNG_START):
        flags = _png_flags(content)
    elif content.startswith(JPEG_START):
        flags = _jpeg_flags(content)
    else:
        return None
    return None if flags is None else cv2.imdecode(np.frombuffer(content, np.uint8), flags)


def _png_flags(content: bytes) -> int | None:
    if not content.endswith(_PNG_END) or b"tRNS" in content[:1024] or b"eXIf" in content[:1024]:
        return None
    depth, kind = content[24], content[25]
    width, height = int.from_bytes(content[16:20]), int.from_bytes(content[20:24])
    if width * height > MAX_PIXELS:
        return None
    if kind == _GREY and depth in (8, 16):
        return cv2.IMREAD_UNCHANGED
    return cv2.IMREAD_COLOR_RGB if (kind, depth) == (_RGB, 8) else None


def _jpeg_flags(content: bytes) -> int | None:
    if _JPEG_END not in content[-64:]:
        return None
    at = 2
    while at + 10 <= len(content) and content[at] == 0xFF:
        marker = content[at + 1]
        if marker in (0xC0, 0xC1, 0xC2):  # the frame's size and number of components
            height, width = int.from_bytes(content[at + 5 : at + 7]), int.from_bytes(content[at + 7 : at + 9])
            is_plain = content[at + 4] == 8 and content[at + 9] == 3 and height * width <= MAX_PIXELS
            return cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION if is_plain else None
        if marker == _METADATA or not 0xC0 <= marker <= 0xFE:
            return None
        at += 2 + int.from_bytes(content[at + 2 : at + 4])
    return None
