"""Pictures as people have them: grey, transparent, of few colours, of 16 bits, turned, and broken."""

import numpy as np
import pytest
from PIL import Image

from ditask_jax.errors import DataError
from ditask_jax.prediction.pictures_in import find_pictures, read_picture
from ditask_jax.prediction.reading import readable

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
    """Files that are no pictures, by what is wrong with them."""
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


def test_a_folder_with_folders(tmp_path):
    for name in ("b/x.JPG", "a.png", "b/y.tif", ".hidden/z.png", "notes.txt", "out/panels/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = find_pictures(tmp_path, results=tmp_path / "out")
    assert [file.id for file in found] == ["a", "b/x", "b/y"]


def test_results_may_go_around_the_pictures_or_beside_them(tmp_path):
    for name in ("photos/a.png", "photos/trip/b.png", "photos/panels/a.png", "photos/raw/semseg/a.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    found = lambda source, results: [file.id for file in find_pictures(tmp_path / source, tmp_path / results)]
    # In the very folder of the pictures: its own results are no pictures.
    assert found("photos", "photos") == ["a", "trip/b"]
    # In the folder above, or in one of another place: every file counts.
    assert found("photos", ".") == found("photos", "out") == ["a", "panels/a", "raw/semseg/a", "trip/b"]
    # A folder of pictures that has the name of one of results.
    assert found("photos/panels", "photos") == ["a"]


def test_two_files_that_differ_in_their_ending_alone_keep_it(tmp_path):
    for name in ("a.png", "A.jpg", "b.png"):
        (tmp_path / name).write_bytes(b"")
    assert sorted(file.id for file in find_pictures(tmp_path)) == ["A.jpg", "a.png", "b"]


def test_a_single_file_may_have_any_ending(tmp_path):
    (tmp_path / "photo.data").write_bytes(b"")
    assert [file.id for file in find_pictures(tmp_path / "photo.data")] == ["photo"]


def test_nothing_to_predict(tmp_path):
    with pytest.raises(DataError, match="no file or folder"):
        find_pictures(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"no pictures in .*; known endings: \.jpg"):
        find_pictures(tmp_path)
