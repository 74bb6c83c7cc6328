"""Images as people have them: grey, transparent, of few colours, of 16 bits, turned, and broken."""

import hashlib
import os
import re
from pathlib import PurePosixPath

import numpy as np
import pytest
from PIL import Image

from ditask_jax.errors import DataError
from ditask_jax.prediction.image_inputs import find_pictures, read_picture, readable, result_names

COLOURS = np.random.default_rng(0).integers(0, 256, (6, 9, 3), np.uint8)
ORIENTATION = 0x0112


def saved(path, image, **options):
    image.save(path, **options)
    return path


def test_rgb_comes_back_as_it_is(tmp_path):
    assert np.array_equal(read_picture(saved(tmp_path / "a.png", Image.fromarray(COLOURS))), COLOURS)


@pytest.mark.parametrize("mode", ["L", "LA", "RGBA", "P", "1", "CMYK"])
def test_every_mode_becomes_rgb(mode, tmp_path):
    image = Image.fromarray(COLOURS).convert(mode)
    found = read_picture(saved(tmp_path / ("a.tif" if mode == "CMYK" else "a.png"), image))
    assert found.dtype == np.uint8
    expected = COLOURS if mode == "RGBA" else np.asarray(image.convert("RGB"))
    assert np.array_equal(found, expected)


def test_sixteen_bits_of_grey(tmp_path):
    levels = np.arange(54, dtype=np.uint16).reshape(6, 9) * 1200
    found = read_picture(saved(tmp_path / "a.png", Image.fromarray(levels)))
    assert np.array_equal(found, np.repeat((levels >> 8).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_exif_rotation_is_carried_out(orientation, tmp_path):
    from PIL import ImageOps

    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    path = saved(tmp_path / "a.png", Image.fromarray(COLOURS), exif=exif)
    with Image.open(path) as image:
        assert np.array_equal(read_picture(path), np.asarray(ImageOps.exif_transpose(image)))


def broken_files(folder):
    """Files that are no images, by what is wrong with them."""
    saved(folder / "whole.jpg", Image.fromarray(np.tile(COLOURS, (20, 20, 1))))
    content = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    bad = {"cut.jpg": content[: len(content) // 2], "empty.png": b"", "text.png": b"hello"}
    for name, what in bad.items():
        (folder / name).write_bytes(what)
    return sorted(bad)


def test_broken_files_are_named(tmp_path):
    for name in broken_files(tmp_path):
        with pytest.raises(DataError, match=f"predict: .*{name}"):
            read_picture(tmp_path / name)


def test_good_files_come_in_order_past_broken_ones(tmp_path):
    bad = broken_files(tmp_path)
    for number in range(12):
        saved(tmp_path / f"good{number:02d}.png", Image.fromarray(np.full((2, 3, 3), number, np.uint8)))
    reasons = {}
    files = find_pictures(tmp_path)
    found = list(readable(files, lambda file, reason: reasons.update({file.path.name: reason})))
    assert [image[0, 0, 0] for _, image in found] == list(range(12))
    assert sorted(reasons) == bad
    assert all(name in reason for name, reason in reasons.items())


def test_what_is_called_like_a_picture_and_is_none_is_named(tmp_path):
    (tmp_path / "gone.jpg").symlink_to("nowhere")
    (tmp_path / "loop.png").symlink_to("loop.png")
    (tmp_path / "notes.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "pipe.jpg")
    saved(tmp_path / "whole.png", Image.fromarray(COLOURS))
    (tmp_path / "folder.png").mkdir()
    reasons = {}
    files = find_pictures(tmp_path, results=tmp_path / "out")
    [(file, _)] = readable(files, lambda file, reason: reasons.update({file.id: reason}))
    assert file.id == "whole.png"
    assert sorted(reasons) == ["gone.jpg", "loop.png", "pipe.jpg"]
    assert "gone.jpg is a link to a file that is not there" in reasons["gone.jpg"]


def test_a_folder_with_folders(tmp_path):
    for name in ("b/x.JPG", "a.png", "b/y.tif", ".hidden/z.png", "notes.txt", "out/panels/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_pictures(tmp_path, results=tmp_path / "out")
    assert [file.id for file in found] == ["a.png", "b/x.JPG", "b/y.tif"]


def test_results_may_go_around_the_pictures_or_beside_them(tmp_path):
    for name in ("photos/a.png", "photos/trip/b.png", "photos/panels/a.png", "photos/raw/semseg/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = lambda source, results: [file.id for file in find_pictures(tmp_path / source, tmp_path / results)]
    # In the very folder of the images: its own results are no images.
    assert found("photos", "photos") == ["a.png", "trip/b.png"]
    # In the folder above, or in one of another place: every file counts.
    assert found("photos", ".") == found("photos", "out") == ["a.png", "panels/a.png", "raw/semseg/a.png", "trip/b.png"]
    # A folder of images that has the name of one of results.
    assert found("photos/panels", "photos") == ["a.png"]


def names_of(*paths, longest=255):
    return result_names([PurePosixPath(path) for path in paths], longest)


def test_results_are_called_by_the_whole_name_of_a_file():
    paths = ("a.jpg", "a.png", "other/a.jpg", "sub/a.jpg", "a.tar.png", "a", ".a")
    assert names_of(*paths) == list(paths)


@pytest.mark.parametrize(
    "alike",
    [
        ("a.png", "A.PNG"),
        ("sub/a.png", "SUB/a.png"),
        ("stra\N{LATIN SMALL LETTER SHARP S}e.png", "STRASSE.png"),
        ("\N{LATIN SMALL LETTER E WITH ACUTE}.png", "e\N{COMBINING ACUTE ACCENT}.png"),
        ("\N{LATIN CAPITAL LETTER E WITH ACUTE}/x.png", "e\N{COMBINING ACUTE ACCENT}/x.png"),
        ("sub/x.png", "sub./x.png"),
        ("Sub/deep . /x.png", "sub /deep/x.png"),
    ],
)
def test_names_that_a_file_system_may_take_for_one_get_hashes(alike):
    """Whatever other images there are: of two commands, each names an image of such a pair alike."""
    first, second = names_of(*alike)
    assert first.casefold() != second.casefold()
    for name, path in ((first, alike[0]), (second, alike[1])):
        digest = hashlib.sha256(path.encode()).hexdigest()[:16]
        assert name == f"{path[:-4]}-{digest}{path[-4:]}"
    assert names_of(*reversed(alike), "b.png") == [second, first, "b.png"]


def test_a_file_may_have_the_very_name_that_was_made_for_another():
    made = names_of("a.png", "A.png")
    found = names_of("a.png", "A.png", made[0])
    assert found[:2] == made
    assert len({name.casefold() for name in found}) == 3


def test_results_of_a_picture_do_not_stand_where_the_folder_of_others_must():
    # Those of the first are raw/TASK/a.jpg.png; those of the second want a folder of that name.
    first, second = names_of("a.jpg", "a.jpg.png/b.jpg")
    assert second == "a.jpg.png/b.jpg"
    assert re.fullmatch(r"a-[0-9a-f]{16}\.jpg", first)
    assert names_of("a.jpg", "A.JPG.npy/b.jpg")[0] == first


@pytest.mark.parametrize("longest", [255, 143])
@pytest.mark.parametrize("letter", ["x", "\N{CJK UNIFIED IDEOGRAPH-65E5}", "\udcff"])
def test_long_names_are_cut_by_bytes_and_stay_different(letter, longest):
    width = len(os.fsencode(letter))
    whole, over = letter * ((longest - 9) // width), letter * ((longest - 4) // width)
    paths = [f"{whole}.png", f"{over}.png", f"{over[:-1]}y.png", f"{over}/{over}.png"]
    found = names_of(*paths, longest=longest)
    assert found[0] == paths[0]
    assert len(set(found)) == 4
    for name, path in zip(found, paths, strict=True):
        parts = os.fsencode(name).split(b"/")
        assert all(len(part) <= longest for part in parts)
        # Room for the ending of the results.
        assert len(parts[-1]) + 5 <= longest
        assert name.endswith(".png")
        # Cut between characters, and no more than the hash needs.
        stem = name.rpartition("-")[0] if len(os.fsencode(path)) > longest - 5 else name.removesuffix(".png")
        assert path.startswith(stem.split("/")[0][: len(over) // 2])
        if letter != "\udcff":
            name.encode("utf-8")
    digest = hashlib.sha256(os.fsencode(paths[1])).hexdigest()[:16]
    assert found[1].endswith(f"-{digest}.png")
    assert len(os.fsencode(found[1])) > longest - 5 - width


def test_a_path_that_is_too_long_as_a_whole_becomes_one_name():
    deep = "/".join(["folder" * 20] * 30) + "/a.png"
    [name] = names_of(deep)
    assert name == f"a-{hashlib.sha256(deep.encode()).hexdigest()[:16]}.png"


def test_a_single_file_may_have_any_ending(tmp_path):
    (tmp_path / "photo.data").write_bytes(b"")
    assert [file.id for file in find_pictures(tmp_path / "photo.data")] == ["photo.data"]


def test_nothing_to_predict(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        find_pictures(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no images in .*; known endings: \.jpg"):
        find_pictures(tmp_path)
