"""The folder source on small trees in real file formats, whole and damaged."""

import pathlib

import cv2
import numpy as np
import pytest
from PIL import Image

from ditask_jax.data.folder import FolderSource
from ditask_jax.data.pipeline import eval_batches
from ditask_jax.errors import ConfigError, DataError
from tests.data.specs import ALL

TASKS = ("semseg", "human_parts", "sal", "normals", "depth", "edge")
SIZE = (20, 30)


def palette_png(path, indices):
    image = Image.frombytes("P", (indices.shape[1], indices.shape[0]), indices.tobytes())
    image.putpalette([value for k in range(256) for value in ((k * 37) % 256, (k * 91) % 256, 255 - k)])
    image.save(path)


def make_labels(rng):
    height, width = SIZE
    normals = rng.standard_normal((height, width, 3)).astype(np.float32)
    normals /= np.linalg.norm(normals, axis=-1, keepdims=True)
    normals[:3] = 0
    return {
        "image": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "semseg": rng.choice([0, 1, 4, 11, 255], SIZE).astype(np.uint8),
        "human_parts": rng.integers(0, 7, SIZE).astype(np.uint8),
        "sal": rng.integers(0, 2, SIZE).astype(np.uint8),
        "edge": rng.integers(0, 2, SIZE).astype(np.uint8),
        "normals": normals,
        "depth": (rng.integers(0, 65536, SIZE) / 1000).astype(np.float32),
    }


def write(folder: pathlib.Path, name: str, example, numpy_files: bool):
    for kind in ("images", *TASKS):
        (folder / kind).mkdir(parents=True, exist_ok=True)
    Image.fromarray(example["image"]).save(folder / "images" / f"{name}.png")
    palette_png(folder / "semseg" / f"{name}.png", example["semseg"])
    cv2.imwrite(str(folder / "human_parts" / f"{name}.png"), example["human_parts"])
    cv2.imwrite(str(folder / "sal" / f"{name}.png"), example["sal"] * 255)
    cv2.imwrite(str(folder / "edge" / f"{name}.png"), example["edge"])
    if numpy_files:
        np.save(folder / "normals" / f"{name}.npy", example["normals"])
        np.save(folder / "depth" / f"{name}.npy", example["depth"])
    else:
        colours = np.round((example["normals"] + 1) * 127.5).astype(np.uint8)
        Image.fromarray(colours).save(folder / "normals" / f"{name}.png")
        cv2.imwrite(str(folder / "depth" / f"{name}.png"), np.round(example["depth"] * 1000).astype(np.uint16))


@pytest.fixture
def tree(tmp_path):
    rng = np.random.default_rng(0)
    written = {}
    for split, names in (("train", ("b", "a", "c.1")), ("val", ("v",))):
        for k, name in enumerate(names):
            written[name] = make_labels(rng)
            write(tmp_path / split, name, written[name], numpy_files=k % 2 == 0)
    return tmp_path, written


def open_train(root, tasks=TASKS, **options):
    return FolderSource(root, "train", tasks, **options)


def test_everything_comes_back_as_written(tree):
    root, written = tree
    source = open_train(root)
    assert [source[k]["id"] for k in range(len(source))] == ["a", "b", "c.1"]
    for k in range(3):
        example = source[k]
        want = written[example["id"]]
        for key in ("image", "semseg", "human_parts", "sal", "edge"):
            assert example[key].dtype == np.uint8
            np.testing.assert_array_equal(example[key], want[key])
        assert example["depth"].dtype == example["normals"].dtype == np.float32
        np.testing.assert_allclose(example["depth"], want["depth"], rtol=1e-6)
        np.testing.assert_allclose(example["normals"], want["normals"], atol=2e-2 if example["id"] == "a" else 1e-6)
        assert not example["normals"][:3].any()
    with eval_batches(source, ALL, (16, 16), 2) as batches:
        assert sum(int(batch["valid"].sum()) for batch in batches) == 3


def test_sixteen_bit_depth_is_exact_over_the_whole_range(tree):
    root, _ = tree
    values = np.arange(600, dtype=np.uint16).reshape(SIZE) * 109 + 1
    (root / "train/depth/b.npy").unlink()
    cv2.imwrite(str(root / "train/depth/b.png"), values)
    got = open_train(root, ("depth",))[1]["depth"]
    np.testing.assert_array_equal(np.round(got * 1000).astype(np.uint16), values)


def test_only_the_files_of_requested_tasks_are_needed(tree):
    root, _ = tree
    (root / "train/semseg/a.png").unlink()
    (root / "train/depth/a.png").write_bytes(b"junk")
    assert set(open_train(root, ("sal",))[0]) == {"image", "id", "sal"}


def test_a_missing_label_names_the_picture_and_the_path(tree):
    root, _ = tree
    (root / "train/normals/a.png").unlink()
    (root / "train/normals/b.npy").unlink()
    with pytest.raises(DataError, match=r"image 'a' and 1 more has no normals label: .*a\.npy or .*a\.png is missing"):
        open_train(root)


def test_a_missing_label_can_wait_until_it_is_read(tree):
    root, _ = tree
    (root / "train/semseg/b.png").unlink()
    source = open_train(root, ("semseg",), check=False)
    assert len(source) == 3
    assert source[0]["id"] == "a"
    with pytest.raises(DataError, match=r"semseg/b\.png is missing"):
        source[1]


@pytest.mark.parametrize("damage", ["truncated", "empty", "text"])
@pytest.mark.parametrize("which", ["images", "semseg"])
def test_unreadable_files_are_named(tree, damage, which):
    root, _ = tree
    path = root / "train" / which / "a.png"
    data = path.read_bytes()
    path.write_bytes({"truncated": data[: len(data) // 2], "empty": b"", "text": b"not an image"}[damage])
    with pytest.raises(DataError, match=rf"{which}/a\.png (cannot be decoded|is not an image file)"):
        open_train(root)[0]


def test_a_truncated_jpeg_is_named(tree):
    root, written = tree
    (root / "train/images/a.png").unlink()
    path = root / "train/images/a.JPG"
    Image.fromarray(written["a"]["image"]).save(path, "JPEG")
    assert open_train(root)[0]["image"].shape == (*SIZE, 3)
    path.write_bytes(path.read_bytes()[:-60])
    with pytest.raises(DataError, match=r"a\.JPG cannot be decoded: image file is truncated"):
        open_train(root)[0]


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY garbage"])
def test_a_broken_array_is_named(tree, content):
    root, _ = tree
    (root / "train/depth/b.npy").write_bytes(content)
    with pytest.raises(DataError, match=r"depth/b\.npy cannot be read as a \.npy array"):
        open_train(root)[1]


def test_pickled_objects_are_refused(tree):
    root, _ = tree
    np.save(root / "train/depth/b.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match=r"depth/b\.npy cannot be read"):
        open_train(root)[1]


def test_labels_of_another_size_are_resized_and_of_another_shape_refused(tree):
    root, written = tree
    small = written["a"]["semseg"][::2, ::2]
    cv2.imwrite(str(root / "train/semseg/a.png"), small)
    got = open_train(root)[0]["semseg"]
    np.testing.assert_array_equal(got, cv2.resize(small, SIZE[::-1], interpolation=cv2.INTER_NEAREST))
    cv2.imwrite(str(root / "train/semseg/a.png"), np.ascontiguousarray(written["a"]["semseg"].T))
    with pytest.raises(DataError, match=r"semseg/a\.png is 30x20 .* its image 20x30: another aspect ratio"):
        open_train(root)[0]


def test_class_ids_out_of_range_name_the_value_and_what_is_allowed(tree):
    root, _ = tree
    assert open_train(root, num_classes={"semseg": 12})[0]["semseg"].max() == 255
    with pytest.raises(DataError, match=r"semseg/a\.png holds class id 11; allowed are 0\.\.10 and 255 \(ignore\)"):
        open_train(root, num_classes={"semseg": 11})[0]
    cv2.imwrite(str(root / "train/semseg/a.png"), np.full(SIZE, 300, np.uint16))
    with pytest.raises(DataError, match=r"class id 300; allowed are 0\.\.254"):
        open_train(root)[0]


def test_a_colour_label_is_refused(tree):
    root, written = tree
    Image.fromarray(written["a"]["image"]).save(root / "train/semseg/a.png")
    with pytest.raises(DataError, match=r"semseg/a\.png is a colour image \(RGB\)"):
        open_train(root)[0]


def test_masks_are_zero_and_one_other_value(tree):
    root, written = tree
    mask = written["a"]["sal"].copy()
    mask[0, :3] = (0, 1, 255)
    cv2.imwrite(str(root / "train/sal/a.png"), mask)
    with pytest.raises(DataError, match=r"holds the values \[1, 255\].*set mask_ignore if 255 means ignore"):
        open_train(root)[0]
    np.testing.assert_array_equal(open_train(root, mask_ignore=True)[0]["sal"], mask)
    cv2.imwrite(str(root / "train/sal/a.png"), np.arange(600).reshape(SIZE).astype(np.uint8))
    with pytest.raises(DataError, match="threshold soft masks first"):
        open_train(root)[0]


@pytest.mark.parametrize("mode", ["RGBA", "L", "P", "LA"])
def test_other_colour_modes_become_rgb(tree, mode):
    root, written = tree
    image = Image.fromarray(written["a"]["image"]).convert(mode)
    image.save(root / "train/images/a.png")
    got = open_train(root)[0]["image"]
    assert got.shape == (*SIZE, 3)
    if mode == "RGBA":
        np.testing.assert_array_equal(got, written["a"]["image"])
    else:
        np.testing.assert_array_equal(got, np.asarray(image.convert("RGB")))


def test_exif_rotation_is_refused_with_advice(tree):
    root, written = tree
    (root / "train/images/a.png").unlink()
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(written["a"]["image"]).save(root / "train/images/a.jpg", exif=exif)
    with pytest.raises(DataError, match=r"a\.jpg carries an EXIF rotation.*rewrite it upright"):
        open_train(root)[0]


def test_depth_with_no_unit_or_below_zero_is_refused(tree):
    root, _ = tree
    cv2.imwrite(str(root / "train/depth/a.png"), np.ones(SIZE, np.uint8))
    with pytest.raises(DataError, match="8-bit image; depth needs a 16-bit PNG in millimetres"):
        open_train(root)[0]
    np.save(root / "train/depth/b.npy", np.full(SIZE, -1.0))
    with pytest.raises(DataError, match=r"negative depth \(-1\)"):
        open_train(root)[1]
    np.save(root / "train/depth/b.npy", np.ones((5, 20, 30)))
    with pytest.raises(DataError, match=r"holds float64 \[5, 20, 30\]; expected numbers \[H, W\]"):
        open_train(root)[1]


def test_values_that_are_not_finite_are_missing(tree):
    root, written = tree
    depth = written["b"]["depth"].copy()
    depth[0, 0], depth[0, 1] = np.nan, np.inf
    np.save(root / "train/depth/b.npy", depth)
    assert (open_train(root)[1]["depth"][0, :2] == 0).all()


def test_two_files_of_one_id_are_refused(tree):
    root, written = tree
    Image.fromarray(written["a"]["image"]).save(root / "train/images/a.jpg")
    with pytest.raises(DataError, match="have the same id 'a'; remove one"):
        open_train(root)


def test_missing_folders_and_empty_splits(tree, tmp_path):
    root, _ = tree
    with pytest.raises(DataError, match="nowhere is not a folder"):
        open_train(root / "nowhere")
    with pytest.raises(DataError, match=r"train/images is missing \(needed for the train split\)"):
        open_train(root / "val")
    for path in (root / "val/images").iterdir():
        path.unlink()
    with pytest.raises(DataError, match="the val split is empty"):
        FolderSource(root, "val", TASKS)
    with pytest.raises(ConfigError, match=r"Did you mean 'train'\?"):
        FolderSource(root, "trian", TASKS)


def test_automatic_split(tmp_path):
    (tmp_path / "train/images").mkdir(parents=True)
    for k in range(60):
        cv2.imwrite(str(tmp_path / f"train/images/{k:03d}.png"), np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(DataError, match=r"val is missing; make val/images, or set val_fraction"):
        FolderSource(tmp_path, "val", ())
    assert len(FolderSource(tmp_path, "train", ())) == 60

    def ids(split, **options):
        source = FolderSource(tmp_path, split, (), val_fraction=0.3, **options)
        return {source[k]["id"] for k in range(len(source))}

    train, val = ids("train"), ids("val")
    assert not train & val
    assert len(train | val) == 60
    assert 8 <= len(val) <= 28
    assert ids("val", seed=1) != val
    cv2.imwrite(str(tmp_path / "train/images/new.png"), np.zeros((4, 4, 3), np.uint8))
    assert ids("val") - {"new"} == val
    with pytest.raises(ConfigError, match="val_fraction is a share between 0 and 1"):
        FolderSource(tmp_path, "val", (), val_fraction=1.5)
