"""Files as tools write them and as accidents leave them: what is stored is what is read, or one line says why not."""

import io
import itertools
import os
import pickle
import re
import struct
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image, TiffImagePlugin

from ditask_jax.data import image_files, image_headers
from ditask_jax.data.benchmarks import open_tree
from ditask_jax.data.benchmarks.nyud import NyudTree
from ditask_jax.data.benchmarks.pascal import read_saliency
from ditask_jax.data.folder import FolderSource
from ditask_jax.data.wrappers import SkippingSource
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.prediction.image_inputs import read_picture
from tests.data import miniature

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 10, 3), np.uint8)
GREY, PALETTE, RGB = 0, 3, 2
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def rows_of(samples, bits):
    """Scan lines of a PNG, unfiltered: samples [H, W] or [H, W, C], most significant bit first."""
    flat = samples.reshape(len(samples), -1).astype(np.int64)
    digits = (flat[..., None] >> np.arange(bits)[::-1]) & 1
    return b"".join(b"\0" + np.packbits(row.astype(np.uint8).ravel()).tobytes() for row in digits)


def png(samples, bits, kind=GREY, before=b"", after=b"", interlaced=False):
    height, width = samples.shape[:2]
    header = struct.pack(">IIBBBBB", width, height, bits, kind, 0, 0, int(interlaced))
    passes = [samples]
    if interlaced:  # the seven passes of Adam7: first row, first column, steps
        steps = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
        passes = [samples[y::dy, x::dx] for y, x, dy, dx in steps]
    body = zlib.compress(b"".join(rows_of(part, bits) for part in passes if part.size))
    return SIGNATURE + chunk(b"IHDR", header) + before + chunk(b"IDAT", body) + after + chunk(b"IEND", b"")


def tiff(samples, bits, photometric=1, sample_format=1, tags=()):
    """A TIFF in one strip, little-endian, uncompressed; `samples` are what is stored."""
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    if bits < 8:
        body = b"".join(row[1:] for row in (rows_of(row[None], bits) for row in samples))
    else:
        body = np.ascontiguousarray(samples).tobytes()
    height, width = samples.shape[:2]
    counts = [
        (256, 4, width),
        (257, 4, height),
        (259, 3, 1),
        (262, 3, photometric),
        (277, 3, channels),
        (278, 4, height),
    ]
    counts += [(279, 4, len(body)), (273, 4, 8), *tags]
    lists = [(258, bits), (339, sample_format)]
    after = 8 + len(body)
    extra, entries = b"", []
    for tag, value in lists:
        if channels <= 2:
            entries.append((tag, 3, channels, struct.pack("<HH", value, value if channels == 2 else 0)))
        else:
            entries.append((tag, 3, channels, struct.pack("<I", after + len(extra))))
            extra += struct.pack(f"<{channels}H", *[value] * channels)
    entries += [(tag, kind, 1, struct.pack("<I", value)) for tag, kind, value in counts]
    directory = b"".join(struct.pack("<HHI", *entry[:3]) + entry[3] for entry in sorted(entries))
    start = 8 + len(body) + len(extra)
    head = b"II*\0" + struct.pack("<I", start)
    return head + body + extra + struct.pack("<H", len(entries)) + directory + b"\0\0\0\0"


def exif(orientation, order="<", kind=3):
    mark = {"<": b"II*\0", ">": b"MM\0*"}[order]
    value = struct.pack(f"{order}HH", orientation, 0) if kind == 3 else struct.pack(f"{order}I", orientation)
    return mark + struct.pack(f"{order}IHHHI", 8, 1, 0x0112, kind, 1) + value + b"\0\0\0\0"


def xmp(orientation, attribute=True):
    inside = (
        f'tiff:Orientation="{orientation}">' if attribute else f"><tiff:Orientation>{orientation}</tiff:Orientation>"
    )
    return f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:Description {inside}</rdf:Description></x:xmpmeta>'.encode()


def raw_profile(name, block):
    return b"Raw profile type " + name + b"\0", f"\n{name.decode()}\n{len(block):8}\n{block.hex()}\n".encode()


def saved(array, kind, **options):
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, kind, **options)
    return buffer.getvalue()


def jpeg_with(segments, at_scan=False):
    """A JPEG with APP segments behind its first ones, or right in front of the scan."""
    content = saved(COLOURS, "JPEG", quality=95)
    at = content.index(b"\xff\xda") if at_scan else 20  # behind SOI and JFIF
    body = b"".join(b"\xff" + bytes([marker]) + struct.pack(">H", len(data) + 2) + data for marker, data in segments)
    return content[:at] + body + content[at:]


LONG_TEXT = chunk(b"tEXt", b"Comment\0" + b"x" * 3000)
EXIF_SEGMENT, XMP_SEGMENT = (0xE1, b"Exif\0\0" + exif(6)), (0xE1, b"http://ns.adobe.com/xap/1.0/\0" + xmp(6))
KEYWORD, TEXT = raw_profile(b"exif", b"Exif\0\0" + exif(6))
APP1_KEYWORD, APP1_TEXT = raw_profile(b"APP1", b"Exif\0\0" + exif(6, ">"))
ITXT_XMP = b"XML:com.adobe.xmp\0\0\0\0\0" + xmp(6)
PACKED_XMP = b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(xmp(6, attribute=False))
TURNED = {
    "png exif": png(COLOURS, 8, RGB, before=chunk(b"eXIf", exif(6))),
    "png exif big-endian long": png(COLOURS, 8, RGB, before=chunk(b"eXIf", exif(6, ">", 4))),
    "png exif behind text": png(COLOURS, 8, RGB, before=LONG_TEXT + chunk(b"eXIf", exif(6))),
    "png exif behind pixels": png(COLOURS, 8, RGB, after=chunk(b"eXIf", exif(6))),
    "png exif behind pixels and text": png(COLOURS, 8, RGB, after=LONG_TEXT + chunk(b"eXIf", exif(6))),
    "png raw profile": png(COLOURS, 8, RGB, before=chunk(b"tEXt", KEYWORD + TEXT)),
    "png raw profile late": png(COLOURS, 8, RGB, after=chunk(b"tEXt", KEYWORD + TEXT)),
    "png raw profile packed": png(COLOURS, 8, RGB, before=chunk(b"zTXt", KEYWORD + b"\0" + zlib.compress(TEXT))),
    "png raw profile APP1": png(COLOURS, 8, RGB, after=chunk(b"tEXt", APP1_KEYWORD + APP1_TEXT)),
    "png xmp": png(COLOURS, 8, RGB, before=chunk(b"iTXt", ITXT_XMP)),
    "png xmp packed, late": png(COLOURS, 8, RGB, after=LONG_TEXT + chunk(b"iTXt", PACKED_XMP)),
    "tiff tag": tiff(COLOURS, 8, 2, tags=[(274, 3, 6)]),
    "jpeg exif": jpeg_with([EXIF_SEGMENT]),
    "jpeg exif behind others": jpeg_with([(0xE2, b"x" * 5000), (0xED, b"Photoshop\0"), EXIF_SEGMENT]),
    "jpeg exif behind the frame": jpeg_with([EXIF_SEGMENT], at_scan=True),
    "jpeg xmp": jpeg_with([XMP_SEGMENT]),
    "jpeg xmp behind the frame": jpeg_with([(0xFE, b"comment"), XMP_SEGMENT], at_scan=True),
    "mpo": saved(COLOURS, "MPO", save_all=True, append_images=[Image.fromarray(COLOURS)], exif=b"Exif\0\0" + exif(6)),
    "webp exif": saved(COLOURS, "WEBP", lossless=True, exif=b"Exif\0\0" + exif(6)),
    "webp xmp": saved(COLOURS, "WEBP", lossless=True, xmp=xmp(6)),
    "avif": saved(COLOURS, "AVIF", quality=100, subsampling="4:4:4", exif=b"Exif\0\0" + exif(6)),
    "gif xmp": saved(COLOURS[..., 0], "GIF") + xmp(6),
}  # fmt: skip


@pytest.mark.parametrize("kind", TURNED)
def test_an_orientation_is_found_wherever_it_stands(kind, tmp_path):
    content = TURNED[kind]
    pixels, orientation, plain = image_files.decode_image(content, "x")
    assert (orientation, plain and orientation != 1 and kind.startswith("tiff")) == (6, False)
    assert pixels.shape == COLOURS.shape  # as stored
    lossy = kind.startswith(("jpeg", "mpo", "avif", "gif"))
    if not lossy:
        np.testing.assert_array_equal(pixels, COLOURS)
    # One rule for all: what is predicted is turned, what has labels is refused.
    path = tmp_path / "picture.png"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_picture(path), np.rot90(pixels, -1))
    with pytest.raises(DataError, match=r"picture\.png carries an EXIF rotation \(orientation 6\).*rewrite it upright"):
        image_files.read_image(path)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_tiff_pixels_are_those_of_the_file(orientation, tmp_path):
    content = tiff(COLOURS, 8, 2, tags=[(274, 3, orientation)])
    pixels, found, _ = image_files.decode_image(content, "x")
    assert found == orientation
    np.testing.assert_array_equal(pixels, COLOURS)
    (tmp_path / "a.tif").write_bytes(content)
    (tmp_path / "a.png").write_bytes(png(COLOURS, 8, RGB, after=chunk(b"eXIf", exif(orientation))))
    np.testing.assert_array_equal(read_picture(tmp_path / "a.tif"), read_picture(tmp_path / "a.png"))


@pytest.mark.parametrize(
    "extra",
    [
        chunk(b"eXIf", exif(1)),
        chunk(b"eXIf", exif(9)),
        chunk(b"eXIf", exif(6)[:12]),
        chunk(b"eXIf", b"nothing"),
        chunk(b"tEXt", b"Comment\0Raw profile type exif, tiff:Orientation=\"6\""),
        chunk(b"tEXt", b"Raw profile type exif\0\nexif\n  4\nzz\n"),
        chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>"),
        LONG_TEXT,
    ],
)  # fmt: skip
def test_what_asks_for_nothing_turns_nothing(extra):
    for content in (png(COLOURS, 8, RGB, before=extra), png(COLOURS, 8, RGB, after=extra)):
        pixels, orientation, _ = image_files.decode_image(content, "x")
        assert orientation == 1
        np.testing.assert_array_equal(pixels, COLOURS)


def test_exif_comes_before_xmp():
    both = chunk(b"iTXt", ITXT_XMP) + chunk(b"eXIf", exif(3))
    assert image_files.decode_image(png(COLOURS, 8, RGB, before=both), "x")[1] == 3
    assert image_headers.find_orientation({"exif": exif(0), "xmp": xmp(8)}, b"", "PNG") == 8


@pytest.mark.parametrize(
    ("packet", "orientation"),
    [
        ("<x tiff:Orientation = '6'/>", 6),
        ("<tiff:Orientation>\n 6 </tiff:Orientation>", 6),
        ('<tiff:Orientation rdf:datatype="int">6</tiff:Orientation>', 6),
        ("<tiff:Orientation><rdf:value>6</rdf:value></tiff:Orientation>", 6),
        ('<x xmlns:t="http://ns.adobe.com/tiff/1.0/" t:Orientation="6"/>', 6),
        ('<x xmlns:t = \'http://ns.adobe.com/tiff/1.0/\'><t:Orientation>6</t:Orientation></x>', 6),
        ('<x t:Orientation="6" tiff:Orientation="3"/>', 3),  # "t" is some other space of names
        ('<x tiff:Orientation="1"/>', 1),
        ('<x tiff:Orientation="0"/>', 1),
        ('<x tiff:Orientation="9"/>', 1),
        ('<x tiff:Orientation="60"/>', 1),
        ("<tiff:Orientation/>", 1),
    ],
)  # fmt: skip
def test_xmp_says_it_in_many_ways(packet, orientation):
    text = chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + packet.encode())
    assert image_files.decode_image(png(COLOURS, 8, RGB, before=text), "x")[1] == orientation


@pytest.mark.parametrize(
    ("tag", "packet", "orientation"),
    [(None, 6, 6), (1, 6, 1), (6, 1, 6), (3, 6, 3), (9, 6, 6), (0, 6, 6), (8, None, 8)],
)
def test_the_tag_of_a_tiff_comes_before_xmp(tag, packet, orientation):
    directory = TiffImagePlugin.ImageFileDirectory_v2()
    if tag is not None:
        directory[274] = tag
    if packet is not None:
        directory[700] = xmp(packet)
        directory.tagtype[700] = 1
    pixels, found, _ = image_files.decode_image(saved(COLOURS, "TIFF", tiffinfo=directory), "x")
    assert found == orientation
    np.testing.assert_array_equal(pixels, COLOURS)


def test_ordinary_text_is_left_to_the_fast_reader():
    text = chunk(b"tEXt", b"Software\0x") + chunk(b"pHYs", b"\0" * 9) + chunk(b"tIME", b"\x07\xe8\1\1\0\0\0")
    np.testing.assert_array_equal(
        image_headers.decode_plain(png(COLOURS, 8, RGB, before=text, after=LONG_TEXT)), COLOURS
    )
    assert image_headers.decode_plain(png(COLOURS, 8, RGB, before=LONG_TEXT + chunk(b"tRNS", bytes(6)))) is None


LABEL_READERS = {
    "indices": image_files.read_indices,
    "grey": image_files.read_grey,
    "colours": image_files.read_colours,
}


@pytest.mark.parametrize("reader", LABEL_READERS)
@pytest.mark.parametrize("where", ["before", "after"])
def test_a_label_with_an_orientation_is_refused(reader, where, tmp_path):
    path = tmp_path / "label.png"
    extra = {where: chunk(b"eXIf", exif(3))}
    path.write_bytes(png(COLOURS, 8, RGB, **extra) if reader == "colours" else png(COLOURS[..., 0], 8, **extra))
    with pytest.raises(DataError, match=r"label\.png is a label that carries an EXIF rotation \(orientation 3\)"):
        LABEL_READERS[reader](path)
    samples, kind = (COLOURS, 2) if reader == "colours" else (COLOURS[..., 0], 1)
    path.write_bytes(tiff(samples, 8, kind, tags=[(274, 3, 3)]))
    with pytest.raises(DataError, match="orientation 3"):
        LABEL_READERS[reader](path)


def ids(bits):
    """Every number of so many bits (of 16, some), in 7 rows of 11."""
    last = (1 << bits) - 1
    values = np.linspace(0, last, 77).round().astype(np.int64).reshape(7, 11)
    assert {0, last} <= set(values.ravel().tolist())
    return values


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("extra", ["none", "transparent"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_grey_labels_of_any_bits_are_as_stored(bits, extra, interlaced):
    before = b"" if extra == "none" else chunk(b"tRNS", struct.pack(">H", 1))
    got = image_files.decode_indices(png(ids(bits), bits, before=before, interlaced=interlaced), "x")
    np.testing.assert_array_equal(got, ids(bits))
    assert got.dtype == (np.uint16 if bits == 16 else np.uint8)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("transparent", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_palette_labels_of_any_bits_are_indices(bits, transparent, interlaced):
    colours = RNG.permutation(np.repeat(np.arange(256, dtype=np.uint8), 3))[: 3 << bits].tobytes()
    before = chunk(b"PLTE", colours) + (chunk(b"tRNS", b"\0\x80") if transparent else b"")
    got = image_files.decode_indices(png(ids(bits), bits, PALETTE, before=before, interlaced=interlaced), "x")
    np.testing.assert_array_equal(got, ids(bits))


@pytest.mark.parametrize("photometric", [0, 1])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
def test_tiff_labels_are_as_stored_whatever_is_white(bits, photometric):
    stored = ids(bits).astype(np.uint16 if bits == 16 else np.uint8)
    np.testing.assert_array_equal(image_files.decode_indices(tiff(stored, bits, photometric), "x"), stored)


def test_signed_and_wide_tiff_labels():
    for dtype, bits in ((np.int8, 8), (np.int16, 16), (np.int32, 32)):
        stored = np.arange(-3, 9, dtype=dtype).reshape(3, 4)
        np.testing.assert_array_equal(image_files.decode_indices(tiff(stored, bits, sample_format=2), "x"), stored)


def test_other_formats_give_ids_or_a_refusal():
    stored = ids(8).astype(np.uint8)
    for kind in ("BMP", "GIF", "PPM", "TIFF"):
        np.testing.assert_array_equal(image_files.decode_indices(saved(stored, kind, optimize=False), "x"), stored)
    # Pillow sorts greys anew when it writes a GIF: neither the indices nor the greys are sure to be what was meant.
    with pytest.raises(DataError, match="a palette of greys that are not their own numbers"):
        image_files.decode_indices(saved(stored, "GIF", optimize=True), "x")
    coloured = Image.fromarray(stored, "L").convert("P")
    coloured.putpalette([(k * 37 + c) % 256 for k in range(256) for c in range(3)])
    for kind in ("BMP", "GIF", "TIFF"):
        buffer = io.BytesIO()
        coloured.save(buffer, kind, optimize=False)
        np.testing.assert_array_equal(image_files.decode_indices(buffer.getvalue(), "x"), stored)
    for kind in ("JPEG", "JPEG2000"):
        with pytest.raises(DataError, match=f"x is a {kind} file that does not keep exact numbers"):
            image_files.decode_indices(saved(stored, kind), "x")
    with pytest.raises(DataError, match=r"x is a colour image \(RGB\)"):
        image_files.decode_indices(saved(np.dstack([stored] * 3), "WEBP", lossless=True), "x")
    # A map that says its largest number is 20 would be stretched, and in a bitmap black is 1.
    with pytest.raises(DataError, match="does not keep exact numbers"):
        image_files.decode_indices(b"P5 4 2 20\n" + bytes(range(8)), "x")
    with pytest.raises(DataError, match="does not keep exact numbers"):
        image_files.decode_indices(b"P4 8 1\n\xf0", "x")
    with pytest.raises(DataError, match=r"holds decimal numbers \(F\)"):
        image_files.decode_indices(saved(stored.astype(np.float32), "TIFF"), "x")
    with pytest.raises(DataError, match=r"has an alpha channel \(LA\)"):
        image_files.decode_indices(saved(np.dstack([stored, stored]), "PNG"), "x")


def bmp(samples, bits):
    """An uncompressed BMP whose palette is the greys 0, 1, 2 ... (black and white, of one bit)."""
    count = 1 << bits
    greys = [0, 255] if bits == 1 else list(range(count))
    palette = b"".join(bytes([grey] * 3 + [0]) for grey in greys)
    rows = [row[1:] for row in (rows_of(line[None], bits) for line in samples[::-1])]
    body = b"".join(row + b"\0" * (-len(row) % 4) for row in rows)
    height, width = samples.shape
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, 0, len(body), 1, 1, count, 0)
    start = 14 + 40 + len(palette)
    return struct.pack("<2sIHHI", b"BM", start + len(body), 0, 0, start) + info + palette + body


@pytest.mark.parametrize("bits", [1, 4, 8])
def test_bmp_labels_of_few_bits_are_as_stored_or_refused(bits):
    if bits == 4:
        with pytest.raises(DataError, match=r"cannot be decoded|does not keep exact numbers"):  # by Pillow's version
            image_files.decode_indices(bmp(ids(bits), bits), "x")
    else:
        np.testing.assert_array_equal(image_files.decode_indices(bmp(ids(bits), bits), "x"), ids(bits))


def write_folder(root, count=2, **labels):
    """`root`/train with images of 6x10 and, by task, the content of every label file."""
    for number in range(count):
        for name, content in {"images": png(COLOURS, 8, RGB), **labels}.items():
            folder = root / "train" / name
            folder.mkdir(parents=True, exist_ok=True)
            ending = "npy" if content.startswith(b"\x93NUMPY") else "png"
            (folder / f"{number}.{ending}").write_bytes(content)
    return root


def numpy_file(array):
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=True)
    return buffer.getvalue()


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_labels_of_few_bits_reach_every_task(bits, tmp_path):
    last = (1 << bits) - 1
    stored = np.where(np.arange(60).reshape(6, 10) % 3 == 0, last, 0)
    content = png(stored, bits)
    write_folder(tmp_path, semseg=content, human_parts=content, sal=content, edge=content)
    example = FolderSource(tmp_path, "train", ("semseg", "human_parts", "sal", "edge"), {"semseg": last + 1})[0]
    for task in ("semseg", "human_parts"):
        np.testing.assert_array_equal(example[task], stored)
    for task in ("sal", "edge"):
        np.testing.assert_array_equal(example[task], stored > 0)
    # In the benchmark's files the same numbers are shades of grey: bright is yes.
    path = tmp_path / "x.png"
    path.write_bytes(content)
    np.testing.assert_array_equal(read_saliency(path), stored > 0)
    np.testing.assert_array_equal(NyudTree(tmp_path, "atrc")._read("edge", [path], (6, 10)), stored > 0)


def test_grey_palettes_are_shades_and_coloured_ones_are_refused(tmp_path):
    path = tmp_path / "x.png"
    stored = np.arange(60).reshape(6, 10) % 2
    path.write_bytes(png(stored, 8, PALETTE, before=chunk(b"PLTE", b"\x11\x11\x11\xee\xee\xee")))
    np.testing.assert_array_equal(image_files.read_grey(path), np.where(stored, 0xEE, 0x11))
    path.write_bytes(png(stored, 8, PALETTE, before=chunk(b"PLTE", b"\0\0\0\x80\0\0")))
    with pytest.raises(DataError, match="colour image"):
        image_files.read_grey(path)


RAMP = np.linspace(0, 1, 60).reshape(6, 10)
DARK = {
    "float 0..1": (saved(RAMP.astype(np.float32), "TIFF"), r"decimal numbers, from 0 to 1;"),
    "float 0..255": (saved((RAMP * 255).astype(np.float32), "TIFF"), r"from 0 to 255;"),
    "float 0..65535": (saved((RAMP * 65535).astype(np.float32), "TIFF"), r"from 0 to 65535;"),
    "pfm": (b"Pf\n10 6\n-1.0\n" + RAMP.astype("<f4").tobytes(), r"decimal numbers, from 0 to 1;"),
    "negative": (saved((RAMP * 2 - 1).astype(np.float32), "TIFF"), r"from -1 to 1;"),
    "nan": (saved(np.where(RAMP > 0.5, np.nan, RAMP).astype(np.float32), "TIFF"), r"and some that are not finite"),
    "all nan": (saved(np.full((6, 10), np.nan, np.float32), "TIFF"), r"none of them finite"),
    "int32 0..255": (saved((RAMP * 255).astype(np.int32), "TIFF"), r"signed or 32-bit numbers, from 0 to 255"),
    "int32 wide": (saved((RAMP * 1e6).astype(np.int32), "TIFF"), r"from 0 to 1e\+06"),
    "int16": (tiff((RAMP * 4095).astype(np.int16), 16, sample_format=2), r"from 0 to 4095"),
    "int8": (tiff((RAMP * 100).astype(np.int8), 8, sample_format=2), r"signed .* from 0 to 100"),
    "float rgb": (tiff(np.dstack([RAMP] * 3).astype(np.float32), 32, 2, 3), r"decimal numbers, from 0 to 1;"),
    "float64": (tiff(RAMP, 64, 1, 3), r"decimal numbers, from 0 to 1;"),
    "int16 rgb": (tiff(np.dstack([RAMP * 90] * 3).astype(np.int16), 16, 2, 2), r"signed .* from 0 to 90"),
    "uint16 0..255": (png(np.round(RAMP * 255), 16), r"from 0 to 255 of the 65535 of 16 bits.*scaled by 255 / 255"),
    "10 bits": (png(np.round(RAMP * 1023), 16), r"from 0 to 1023 .*255 / 1023"),
    "12 bits": (png(np.round(RAMP * 4095), 16), r"from 0 to 4095 .*255 / 4095"),
    "14 bits": (png(np.round(RAMP * 16383), 16), r"from 0 to 16383 .*255 / 16383"),
    "12 bits tiff": (tiff(np.round(RAMP * 4095).astype(np.uint16), 16), r"from 0 to 4095 "),
    "12 bits rgb": (png(np.round(RAMP[..., None] * [4095, 5, 9]), 16, RGB), r"from 0 to 4095 "),
    "8 bits in 16 rgb": (png(np.round(RAMP[..., None] * [255, 5, 9]), 16, RGB), r"from 0 to 255 "),
    "12 bits rgba": (png(np.round(RAMP[..., None] * [4095, 5, 9, 0] + [0, 0, 0, 65535]), 16, 6), r"from 0 to 4095 "),
    "12 bits rgb ppm": (
        b"P6 10 6 65535\n" + np.round(RAMP[..., None] * [4095, 5, 9]).astype(">u2").tobytes(),
        r"from 0 to 4095 ",
    ),
    "12 bits rgb jpeg 2000": (
        cv2.imencode(".jp2", np.full((32, 32, 3), 4095, np.uint16))[1].tobytes(),
        r"from 4095 to 4095 ",
    ),
    "12 bits rgb tiff": (tiff(np.round(RAMP[..., None] * [4095, 5, 9]).astype(np.uint16), 16, 2), r"from 0 to 4095 "),
}  # fmt: skip


@pytest.mark.parametrize("kind", DARK)
def test_a_range_that_would_be_black_is_refused_with_what_was_found(kind, tmp_path):
    content, message = DARK[kind]
    path = tmp_path / "a.png"
    path.write_bytes(content)
    for read in (image_files.read_image, read_picture, lambda path: image_files.decode_image(content, path)):
        with pytest.raises(DataError, match=message) as caught:
            read(path)
        assert len(str(caught.value).splitlines()) == 1
        assert "a.png" in str(caught.value)


def test_a_damaged_tiff_is_named_once(capfd):
    """OpenCV, which is asked about the numbers that Pillow does not read, has nothing to add."""
    content = tiff(COLOURS, 8, 2)
    for length in range(8, len(content), 11):
        with pytest.raises(DataError, match=r"^data: x "):
            image_files.decode_image(content[:length], "x")
    assert capfd.readouterr() == ("", "")


def test_sixteen_bits_over_their_whole_range_lose_their_lower_half(tmp_path):
    levels = np.round(RAMP * 65535).astype(np.uint16)
    colours = np.dstack([levels, levels[::-1], levels[:, ::-1]])
    grey = np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, axis=2)
    for content in (png(levels, 16), tiff(levels, 16)):
        np.testing.assert_array_equal(image_files.decode_image(content, "x")[0], grey)
    for content in (png(colours, 16, RGB), tiff(colours, 16, 2)):
        pixels, _, plain = image_files.decode_image(content, "x")
        np.testing.assert_array_equal(pixels, colours >> 8)
        assert not plain
    for content in (b"P6 1 1 255\n\5\5\5", cv2.imencode(".jp2", np.full((32, 32, 3), 5, np.uint8))[1].tobytes()):
        assert (image_files.decode_image(content, "x")[0] == 5).all()  # dark, of 8 bits
    black = np.zeros((6, 10), np.uint16)  # black by any scale
    assert not image_files.decode_image(png(black, 16), "x")[0].any()


NOT_ARRAYS = {
    "empty": b"",
    "text": b"0 1 2\n",
    "npz": (lambda buffer: np.savez(buffer, a=np.ones(3)) or buffer.getvalue())(io.BytesIO()),
    "pickle": pickle.dumps([1, 2]),
    "objects": numpy_file(np.array([{"a": 1}], dtype=object)),
    "cut in the header": numpy_file(np.ones((6, 10)))[:40],
    "cut in the numbers": numpy_file(np.ones((6, 10)))[:-9],
    "bad version": b"\x93NUMPY\x09\x00" + bytes(80),
    "bad header": b"\x93NUMPY\x01\x00\x10\x00" + b"{'descr': open()",
    "unclosed header": b"\x93NUMPY\x01\x00\x10\x00" + b"{'shape': (((((\n",
    "huge": numpy_file(np.ones((6, 10))).replace(b"(6, 10)", b"(9**9,)"),
    "huge shape": numpy_file(np.ones((6, 10))).replace(b"(6, 10), }   ", b"(99999999999,"),
    "too many": numpy_file(np.ones((6, 10))).replace(b"(6, 10)", b"(6, 99)"),
    "picture": png(COLOURS, 8, RGB),
    "only the name": b"\x93NUMPY",
}
NOT_NUMBERS = {
    "complex": np.ones((6, 10), np.complex64),
    "strings": np.full((6, 10), "1.5"),
    "bools": np.ones((6, 10), bool),
    "dates": np.zeros((6, 10), "datetime64[s]"),
    "records": np.zeros((6, 10), [("x", "f4")]),
    "a number": np.float32(3),
    "a row": np.ones(10),
    "a stack": np.ones((6, 10, 2)),
    "no rows": np.ones((0, 10)),
    "no columns": np.ones((6, 0)),
}


@pytest.mark.parametrize("task", ["depth", "normals"])
@pytest.mark.parametrize("kind", [*NOT_ARRAYS, *NOT_NUMBERS])
def test_damaged_arrays_are_named_and_passed_over_where_asked(kind, task, tmp_path):
    good = np.ones((6, 10) if task == "depth" else (6, 10, 3), np.float32)
    write_folder(tmp_path, **{task: numpy_file(good)})
    path = tmp_path / "train" / task / "0.npy"
    path.write_bytes(NOT_ARRAYS[kind] if kind in NOT_ARRAYS else numpy_file(NOT_NUMBERS[kind]))
    source = FolderSource(tmp_path, "train", (task,))
    with pytest.raises(DataError, match=rf"{task}/0\.npy") as caught:
        source[0]
    assert len(str(caught.value).splitlines()) == 1
    assert SkippingSource(source)[0]["id"] == "1"


def test_an_archive_of_arrays_is_told(tmp_path):
    (tmp_path / "a.npy").write_bytes(NOT_ARRAYS["npz"])
    with pytest.raises(DataError, match=r"cannot be read as a \.npy array: it is an \.npz archive; write it with"):
        image_files.read_array(tmp_path / "a.npy")


@pytest.mark.parametrize("kind", ["objects", "npz", "strings", "no rows", "cut in the numbers"])
def test_damaged_arrays_of_the_benchmarks_are_named(kind, tmp_path):
    broken = NOT_ARRAYS[kind] if kind in NOT_ARRAYS else numpy_file(NOT_NUMBERS[kind])
    miniature.write_nyud(tmp_path / "nyud", "vandenhende", train=1, val=1)
    miniature.write_mtan(tmp_path / "mtan", train=1, val=1)
    for name, root, tasks in (
        ("nyud", tmp_path / "nyud", ("depth", "normals", "edge")),
        ("cityscapes", tmp_path / "mtan", ("semseg", "depth", "image")),
    ):
        tree = open_tree(name, root)
        (example,) = tree.ids("train")
        for task in tasks:
            (file,) = tree.files("train", example, task)
            whole = file.path.read_bytes()
            file.path.write_bytes(broken)
            with pytest.raises(DataError, match=re.escape(file.path.name)):
                tree.record("train", example, () if task == "image" else (task,))
            file.path.write_bytes(whole)


def test_depth_too_large_for_float32_is_missing(tmp_path, recwarn):
    depth = np.ones((6, 10))
    depth[0, :3] = (1e300, np.inf, np.nan)
    write_folder(tmp_path, depth=numpy_file(depth))
    got = FolderSource(tmp_path, "train", ("depth",))[0]["depth"]
    np.testing.assert_array_equal(got[0, :4], (0, 0, 0, 1))
    assert not recwarn


def test_ids_that_are_no_whole_numbers_are_refused():
    for values in (np.full((2, 2), 0.5), np.full((2, 2), np.nan), np.full((2, 2), "1"), np.full((2, 2), 1j)):
        with pytest.raises(DataError, match=r"a\.mat holds"):
            image_files.check_classes(values, 5, "a.mat")


WHOLE = {
    "PNG": png(COLOURS, 8, RGB),
    "16-bit PNG": png(ids(16), 16),
    "palette": png(ids(2), 2, PALETTE, before=chunk(b"PLTE", bytes(12))),
    "TIFF": tiff(COLOURS, 8, 2),
    "GIF": saved(COLOURS[..., 0], "GIF"),
    **{kind: saved(COLOURS, kind) for kind in ("JPEG", "BMP", "WEBP", "PPM", "AVIF", "JPEG2000")},
}


@pytest.mark.parametrize("kind", WHOLE)
def test_damage_in_any_format_is_one_line_or_pixels(kind, capfd):
    content, lines = WHOLE[kind], []
    rng = np.random.default_rng(2)
    cut = [content[:length] for length in rng.integers(0, len(content), 12)]
    changed = [bytearray(content) for _ in range(25)]
    for damaged in changed:
        for at in rng.integers(0, len(content), 3):
            damaged[at] ^= int(rng.integers(1, 256))
    for damaged in (*cut, *map(bytes, changed)):
        for decode in (image_files.decode_image, image_files.decode_indices, image_files.decode_colours):
            try:
                decode(damaged, "x")
            except DataError as error:
                lines.append(str(error))
    assert len(lines) > 10
    assert all(line.startswith("data: x ") and len(line.splitlines()) == 1 for line in lines)
    capfd.readouterr()  # libraries complain on the error stream


@pytest.mark.parametrize(
    "content", [png(COLOURS[:0], 8, RGB), png(COLOURS[:, :0], 8, RGB), b"P6 0 3 255\n", b"GIF89a" + bytes(9), b""]
)
def test_pictures_of_no_size_are_refused(content):
    for decode in (image_files.decode_image, image_files.decode_indices, image_files.decode_colours):
        with pytest.raises(DataError, match=r"^data: x "):
            decode(content, "x")


def test_what_the_libraries_cannot_do_is_one_line(monkeypatch):
    def refuse(error):
        def raising(*_, **__):
            raise error

        return raising

    with monkeypatch.context() as patch:
        patch.setattr("cv2.imdecode", refuse(cv2.error("Insufficient memory")))
        np.testing.assert_array_equal(image_files.decode_image(png(COLOURS, 8, RGB), "x")[0], COLOURS)  # by Pillow
        with pytest.raises(DataError, match=r"x holds values from 0 to "):
            image_files.decode_image(png(COLOURS.astype(int) * 16, 16, RGB), "x")
    buffer = io.BytesIO()
    Image.fromarray(COLOURS).convert("CMYK").save(buffer, "TIFF")
    monkeypatch.setattr("PIL.Image.Image.convert", refuse(ValueError("conversion not supported")))
    with pytest.raises(DataError, match="x has colours of mode CMYK, expected RGB: conversion not supported"):
        image_files.decode_image(buffer.getvalue(), "x")


def test_what_is_no_file_is_named(tmp_path):
    write_folder(tmp_path, count=5, semseg=png(ids(1)[:6, :10], 1))
    images = tmp_path / "train/images"
    (images / "0.png").unlink()
    (images / "0.png").mkdir()
    (images / "1.png").unlink()
    (images / "1.png").symlink_to(tmp_path / "gone.png")
    (images / "2.png").unlink()
    (images / "2.png").symlink_to("2.png")
    (images / "3.png").unlink()
    os.mkfifo(images / "3.png")  # reading it would wait for ever
    source = FolderSource(tmp_path, "train", ("semseg",))
    messages = (
        r"0\.png is a folder",
        r"1\.png is a link to a file that is not there",
        r"2\.png cannot be read: ",
        r"3\.png is no file",
    )
    for number, message in enumerate(messages):
        with pytest.raises(DataError, match=message):
            source[number]
    assert SkippingSource(source)[0]["id"] == "4"


def test_what_the_system_refuses_is_one_line(tmp_path, monkeypatch):
    write_folder(tmp_path)

    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", str(tmp_path))

    source = FolderSource(tmp_path, "train", ())
    with monkeypatch.context() as patch:
        patch.setattr("pathlib.Path.read_bytes", refuse)
        with pytest.raises(DataError, match=r"0\.png cannot be read: Permission denied"):
            source[0]
        patch.setattr("os.scandir", refuse)
        with pytest.raises(DataError, match=r"cannot be read: Permission denied"):
            FolderSource(tmp_path, "train", ())


def test_whole_numbers_of_depth_need_a_unit(tmp_path):
    stored = np.arange(60, dtype=np.uint16).reshape(6, 10) * 100
    write_folder(tmp_path, depth=numpy_file(stored))
    with pytest.raises(DataError, match=r"uint16, up to 5900.*no unit: set --config\.data\.depth_unit=millimetres"):
        FolderSource(tmp_path, "train", ("depth",))[0]
    for unit, factor in (("metres", 1), ("millimetres", 0.001)):
        got = FolderSource(tmp_path, "train", ("depth",), depth_unit=unit)[0]["depth"]
        np.testing.assert_allclose(got, stored * factor, rtol=1e-6)
    write_folder(tmp_path / "png", depth=png(stored, 16))
    for unit, factor in ((None, 0.001), ("metres", 1), ("millimetres", 0.001)):
        got = FolderSource(tmp_path / "png", "train", ("depth",), depth_unit=unit)[0]["depth"]
        np.testing.assert_allclose(got, stored * factor, rtol=1e-6)


def test_directions_in_whole_numbers_are_refused(tmp_path):
    write_folder(tmp_path, normals=numpy_file(COLOURS))
    with pytest.raises(DataError, match=r"0\.npy holds uint8; directions are floats"):
        FolderSource(tmp_path, "train", ("normals",))[0]


@pytest.mark.parametrize(("white", "mask_ignore"), [*itertools.product((1, 255), (None, False, True))])
def test_what_white_means_in_maps_of_two_classes(white, mask_ignore, tmp_path):
    yes = np.arange(60).reshape(6, 10) % 3 == 0
    content = png(np.where(yes, white, 0), 8)
    write_folder(tmp_path, semseg=content, sal=content)
    example = FolderSource(tmp_path, "train", ("semseg", "sal"), {"semseg": 2}, mask_ignore=mask_ignore)[0]
    ignored = white == 255
    np.testing.assert_array_equal(
        example["semseg"], np.where(yes, 255 if ignored and mask_ignore is not False else 1, 0)
    )
    np.testing.assert_array_equal(example["sal"], np.where(yes, 255 if ignored and mask_ignore else 1, 0))


@pytest.mark.parametrize(("stored", "bits"), [(128, 8), (65535, 16), (3, 2), (15, 4)])
def test_another_number_than_1_in_maps_of_two_classes_names_the_option(stored, bits, tmp_path):
    yes = np.arange(60).reshape(6, 10) % 3 == 0
    write_folder(tmp_path, semseg=png(np.where(yes, stored, 0), bits))
    open_it = lambda **options: FolderSource(tmp_path, "train", ("semseg",), {"semseg": 2}, **options)[0]["semseg"]
    with pytest.raises(DataError, match=rf"holds class id {stored}; allowed .* set --config\.data\.mask_ignore=false"):
        open_it()
    np.testing.assert_array_equal(open_it(mask_ignore=False), yes)


@pytest.mark.parametrize("task", ["semseg", "human_parts"])
def test_ids_that_do_not_fit_8_bits_are_never_wrapped(task, tmp_path):
    """511 would become 255, "ignore", and 300 class 44."""
    write_folder(tmp_path, **{task: png(np.full((6, 10), 511), 16)})
    with pytest.raises(ConfigError, match=rf"--config\.data\.{task}_classes.*got 600, expected 1 to 255"):
        FolderSource(tmp_path, "train", (task,), {task: 600})
    with pytest.raises(DataError, match=r"holds class id 511; allowed are 0\.\.254 and 255"):
        FolderSource(tmp_path, "train", (task,), {task: 255})[0]


def test_pictures_in_folders_below_are_asked_about(tmp_path):
    write_folder(tmp_path, semseg=png(ids(1)[:6, :10], 1))
    for name in ("images", "semseg"):
        below = tmp_path / "train" / name / "sub" / "deep"
        below.mkdir(parents=True)
        (below / "0.png").write_bytes((tmp_path / "train" / name / "0.png").read_bytes())
    (tmp_path / "train/images/sub/loop").symlink_to(tmp_path / "train/images")
    open_it = lambda **options: FolderSource(tmp_path, "train", ("semseg",), {"semseg": 2}, **options)
    with pytest.raises(DataError, match=r"images/sub.* holds images below .*--config\.data\.subfolders=true"):
        open_it()
    assert [open_it(subfolders=False)[k]["id"] for k in range(2)] == ["0", "1"]
    source = open_it(subfolders=True)
    assert [source[k]["id"] for k in range(len(source))] == ["0", "1", "sub/deep/0"]
    np.testing.assert_array_equal(source[2]["semseg"], source[0]["semseg"])


def test_folders_that_systems_make_do_not_count(tmp_path):
    write_folder(tmp_path)
    for name in (".ipynb_checkpoints", "@eaDir", "__MACOSX", "notes"):
        (tmp_path / "train/images" / name).mkdir()
        (tmp_path / "train/images" / name / ("x.txt" if name == "notes" else "x.png")).write_bytes(b"x")
    assert len(FolderSource(tmp_path, "train", ())) == 2


def test_a_label_with_another_ending_is_told(tmp_path):
    write_folder(tmp_path, semseg=png(ids(1)[:6, :10], 1))
    (tmp_path / "train/semseg/1.png").rename(tmp_path / "train/semseg/1.tif")
    with pytest.raises(DataError, match=r"1\.png is missing; there is 1\.tif, of an ending that is not read"):
        FolderSource(tmp_path, "train", ("semseg",))


def test_a_saliency_map_of_sixteen_bits_is_refused(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), np.full((6, 10), 300, np.uint16))
    with pytest.raises(DataError, match="holds uint16; saliency is an 8-bit grey image"):
        read_saliency(tmp_path / "a.png")
