"""Files that OpenCV reads in Pillow's place: the same pixels, and nothing that Pillow would refuse."""

import io

import cv2
import numpy as np
import pytest
from PIL import Image

from ditask_jax.data.image_headers import decode_plain

RNG = np.random.default_rng(0)
COLOURS = cv2.GaussianBlur(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8), (0, 0), 2)
GREY = RNG.integers(0, 256, (40, 50), dtype=np.uint8)


def encoded(array, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def palette():
    image = Image.fromarray(GREY).convert("P")
    image.putpalette(list(range(256)) * 3)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def rotated():
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(COLOURS, "JPEG", exif=exif)


PLAIN = {
    "jpeg": encoded(COLOURS, "JPEG"),
    "progressive jpeg": encoded(COLOURS, "JPEG", progressive=True),
    "grey png": encoded(GREY, "PNG"),
    "16-bit png": encoded(GREY.astype(np.uint16) * 257, "PNG"),
    "colour png": encoded(COLOURS, "PNG"),
}


def by_pillow(content):
    try:
        return np.asarray(Image.open(io.BytesIO(content)))
    except (OSError, SyntaxError, ValueError):
        return None


@pytest.mark.parametrize("kind", PLAIN)
def test_plain_files_read_as_pillow_reads_them_and_damage_is_left_to_it(kind, capfd):
    content = PLAIN[kind]
    found = decode_plain(content)
    want = by_pillow(content)
    assert found.dtype == want.dtype
    np.testing.assert_array_equal(found, want)
    rng = np.random.default_rng(1)
    refused = 0
    for _ in range(60):
        damaged = bytearray(content)
        damaged[rng.integers(40, len(content))] ^= 0xFF
        expected = by_pillow(bytes(damaged))
        refused += expected is None
        if expected is None:
            assert decode_plain(bytes(damaged)) is None
    assert refused > 5
    for length in rng.integers(0, len(content), 20):
        assert decode_plain(content[:length]) is None
    capfd.readouterr()  # the libraries of OpenCV complain on the error stream


@pytest.mark.parametrize(
    "content",
    [
        palette(),
        rotated(),
        encoded(GREY, "JPEG"),
        encoded(np.dstack([COLOURS, GREY]), "PNG"),
        encoded(COLOURS, "PNG", transparency=(0, 0, 0)),
        encoded(COLOURS, "BMP"),
        b"",
        b"\xff\xd8",
        b"\x89PNG\r\n\x1a\n",
    ],
    ids=["palette", "rotated", "grey jpeg", "alpha", "transparent", "bmp", "empty", "start", "png start"],
)
def test_the_rest_is_left_to_pillow(content):
    assert decode_plain(content) is None
