"""Joint augmentation against formulas written out by hand, and laws over many random draws."""

import dataclasses
import math

import cv2
import numpy as np
import pytest
from PIL import Image

from ditask_jax.data.augment import PRESETS, Augmentation, Draw, preset, rotate_directions, sample, transform
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.labels import IGNORE, LabelSpec, pack_annotators, unpack_annotators
from ditask_jax.scenes import ScenesSource
from tests.data.specs import ALL, DEPTH, EDGE, NORMALS, PARTS, SAL, SEMSEG


def unit_field(rng, height, width, masked=0.0):
    field = rng.standard_normal((height, width, 3)).astype(np.float32)
    field /= np.linalg.norm(field, axis=-1, keepdims=True)
    field[rng.random((height, width)) < masked] = 0
    return field


@pytest.fixture
def example():
    rng = np.random.default_rng(0)
    height, width = 30, 42
    return {
        "id": "a",
        "image": rng.integers(0, 256, (height, width, 3), dtype=np.uint8),
        "semseg": np.where(rng.random((height, width)) < 0.1, 255, rng.integers(0, 12, (height, width))).astype(
            np.uint8
        ),
        "human_parts": rng.integers(0, 7, (height, width), dtype=np.uint8),
        "sal": rng.integers(0, 2, (height, width), dtype=np.uint8),
        "edge": rng.integers(0, 2, (height, width), dtype=np.uint8),
        "normals": unit_field(rng, height, width, masked=0.2),
        "depth": np.where(rng.random((height, width)) < 0.2, 0, rng.uniform(1, 9, (height, width))).astype(np.float32),
    }


def as_raw(result):
    """A transformed example as a raw one, to be transformed again."""
    labels = {name: np.where(label == 255, np.float32(0), label) for name, label in result["labels"].items()}
    return {"image": result["image"], **{name: labels[name] for name in ("normals", "depth")}}


def test_flipping_twice_is_the_identity(example):
    specs = (NORMALS, DEPTH)
    once = transform(example, specs, (30, 42), Draw(flip=True))
    twice = transform(as_raw(once), specs, (30, 42), Draw(flip=True))
    plain = transform(example, specs, (30, 42))
    assert np.array_equal(twice["image"], example["image"])
    for name in ("normals", "depth"):
        np.testing.assert_allclose(twice["labels"][name], plain["labels"][name], atol=1e-6)


def test_a_flip_negates_x_only(example):
    flipped = transform(example, (NORMALS,), (30, 42), Draw(flip=True))["labels"]["normals"]
    plain = transform(example, (NORMALS,), (30, 42))["labels"]["normals"]
    there = (plain != 255).all(-1)
    np.testing.assert_allclose(flipped[:, ::-1][there], plain[there] * np.array([-1, 1, 1]), atol=1e-6)


@pytest.mark.parametrize("degrees", [0.0, 13.0, 90.0, -57.5, 180.0])
def test_turning_vectors_there_and_back_is_the_identity(degrees):
    field = unit_field(np.random.default_rng(1), 9, 7).astype(np.float64)
    np.testing.assert_allclose(rotate_directions(rotate_directions(field, degrees), -degrees), field, atol=1e-14)
    r = math.radians(degrees)
    turned = rotate_directions(field, degrees)
    np.testing.assert_allclose(turned[..., 0], field[..., 0] * math.cos(r) + field[..., 1] * math.sin(r), atol=1e-14)
    np.testing.assert_allclose(turned[..., 1], field[..., 1] * math.cos(r) - field[..., 0] * math.sin(r), atol=1e-14)
    np.testing.assert_array_equal(turned[..., 2], field[..., 2])


@pytest.mark.parametrize("draw", [Draw(angle=17.0), Draw(flip=True, angle=-12.0), Draw(True, 20.0, 1.2)])
def test_normals_move_as_the_surface_does(draw):
    """Oracle: normals of a height map, transformed, are the normals of the transformed height map."""
    y, x = np.mgrid[0:81, 0:81].astype(np.float32)

    def height_of(x, y):
        return np.sin(x / 17) * 6 + np.cos(y / 13 + x / 29) * 5

    def normals_of(h):
        dy, dx = np.gradient(h)
        n = np.stack([dx, dy, -np.ones_like(h)], -1)
        return n / np.linalg.norm(n, axis=-1, keepdims=True)

    surface = height_of(x, y).astype(np.float32)
    example = {"image": np.zeros((81, 81, 3), np.uint8), "normals": normals_of(surface).astype(np.float32)}
    got = transform(example, (NORMALS,), (81, 81), draw)["labels"]["normals"]
    moved = surface[:, ::-1] if draw.flip else surface
    matrix = cv2.getRotationMatrix2D((40.5, 40.5), draw.angle, draw.scale)
    # A zoom that keeps slopes stretches heights along: slopes are what normals of an image record.
    moved = cv2.warpAffine(np.ascontiguousarray(moved), matrix, (81, 81), flags=cv2.INTER_CUBIC) * draw.scale
    want = normals_of(moved)
    centre = (slice(22, 59), slice(22, 59))
    angle = np.degrees(np.arccos(np.clip((got[centre] * want[centre]).sum(-1), -1, 1)))
    # OpenCV places samples to 1/32 pixel, which roughens slopes by a degree; a wrong sign would cost ten and more.
    assert angle.mean() < 1.0
    assert angle.max() < 4.0


def test_warp_follows_the_written_out_matrix(example):
    angle, scale, (height, width) = 11.0, 1.15, (30, 42)
    a, b = scale * math.cos(math.radians(angle)), scale * math.sin(math.radians(angle))
    cx, cy = width / 2, height / 2
    matrix = np.array([[a, b, (1 - a) * cx - b * cy], [-b, a, b * cx + (1 - a) * cy]])
    flipped = {key: value[:, ::-1].copy() for key, value in example.items() if key != "id"}
    got = transform(example, ALL, (24, 20), Draw(True, angle, scale))

    def by_hand(array, flags):
        array = cv2.warpAffine(array, matrix, (width, height), flags=flags)
        return cv2.resize(array, (20, 24), interpolation=flags)

    for name in ("semseg", "sal", "edge", "human_parts"):
        assert np.array_equal(got["labels"][name], by_hand(flipped[name], cv2.INTER_NEAREST)), name
    depth = by_hand(flipped["depth"], cv2.INTER_NEAREST) / scale
    np.testing.assert_allclose(got["labels"]["depth"], np.where(depth == 0, 255, depth), rtol=1e-6)
    exact = by_hand(flipped["image"].astype(np.float32), cv2.INTER_CUBIC)
    np.testing.assert_array_equal(got["image"], np.clip(np.rint(exact), 0, 255))


@pytest.mark.parametrize("draw", [Draw(angle=11.0, scale=1.15), Draw()])
def test_pictures_are_interpolated_in_float_and_cut_once_at_the_end(example, draw):
    got = transform(example, (), (47, 25), draw)["image"]
    wrapped = transform(example, (), (47, 25), draw, Augmentation(compat_uint8_wrap=True))["image"]
    exact = example["image"].astype(np.float32)
    if draw.angle:
        exact = cv2.warpAffine(exact, cv2.getRotationMatrix2D((21, 15), 11.0, 1.15), (42, 30), flags=cv2.INTER_CUBIC)
    exact = cv2.resize(exact, (25, 47), interpolation=cv2.INTER_CUBIC)
    assert exact.max() > 260, "there is overshoot to clip"
    assert np.abs(got - np.clip(exact, 0, 255)).max() <= 0.5
    np.testing.assert_array_equal(wrapped, np.trunc(exact).astype(int) % 256)


def test_pillow_resizes_pictures_with_anti_aliasing(example):
    size = (9, 11)
    got = transform(example, (), size, None, Augmentation(resize="pillow"))["image"]
    want = Image.fromarray(example["image"]).resize((11, 9), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(got, np.asarray(want))
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)
    spread = {way: transform({"image": noise}, (), (20, 20), None, Augmentation(resize=way))["image"].std()
              for way in ("cubic", "pillow")}  # fmt: skip
    assert spread["pillow"] < 0.3 * spread["cubic"]


def test_the_fast_warp_lands_on_the_same_pixels():
    """A smooth scene, where one bilinear step and two cubic ones must agree but for the rim."""
    y, x = np.mgrid[0:90, 0:120].astype(np.float32)
    smooth = 128 + 60 * np.sin(x / 19) + 50 * np.cos(y / 15 + x / 40)
    normals = np.dstack([np.sin(x / 30), np.cos(y / 25), np.full_like(x, 2)])
    example = {
        "image": np.dstack([smooth] * 3).astype(np.uint8),
        "normals": normals / np.linalg.norm(normals, axis=-1, keepdims=True),
        "semseg": (smooth // 40).astype(np.uint8),
    }
    for draw in (Draw(True, 14.0, 1.2), Draw(False, -9.0, 0.9), Draw(scale=1.5)):
        exact = transform(example, (NORMALS, SEMSEG), (64, 64), draw)
        fast = transform(example, (NORMALS, SEMSEG), (64, 64), draw, Augmentation(fast_warp=True))
        inside = (slice(14, 50), slice(14, 50))
        assert np.abs(exact["image"][inside].astype(int) - fast["image"][inside]).max() <= 2
        cosine = (exact["labels"]["normals"][inside] * fast["labels"]["normals"][inside]).sum(-1)
        assert np.degrees(np.arccos(np.clip(cosine, -1, 1))).max() < 0.6
        assert (exact["labels"]["semseg"][inside] == fast["labels"]["semseg"][inside]).mean() > 0.93
    plain = [transform(example, (NORMALS,), (64, 64), Draw(True), Augmentation(fast_warp=f)) for f in (False, True)]
    np.testing.assert_array_equal(plain[0]["image"], plain[1]["image"])


def test_a_class_of_the_picture_passes_through():
    spec = LabelSpec("classification", dtype="int32", num_values=397, is_map=False)
    example = {"image": np.zeros((8, 8, 3), np.uint8), "classification": 396, "id": "x"}
    label = transform(example, (spec,), (4, 4), Draw(True, 20.0, 1.1))["labels"]["classification"]
    assert label.dtype == np.int32
    assert label.shape == ()
    assert label == 396
    for wrong in (-1, 397, np.zeros(2)):
        with pytest.raises(DataError, match=r"example x: label 'classification' is .*; expected a class from 0 to 396"):
            transform({**example, "classification": wrong}, (spec,), (4, 4))


def test_labels_may_keep_their_own_size(example):
    nobody = {**example, "human_parts": np.zeros((30, 42), np.uint8)}
    result = transform(nobody, ALL, (20, 24), keep_label_size=True)
    same = transform(nobody, ALL, (30, 42))["labels"]
    assert result["image"].shape == (20, 24, 3)
    for spec in ALL:
        np.testing.assert_array_equal(result["labels"][spec.name], same[spec.name])


def test_empty_part_maps_can_stay_background(example):
    nobody = {**example, "human_parts": np.zeros((30, 42), np.uint8)}
    kept = transform(nobody, (PARTS,), (20, 24), None, Augmentation(ignore_empty_maps=False))["labels"]["human_parts"]
    assert (kept == 0).all()


def test_bright_edges_are_clipped_and_wrap_only_on_request():
    image = np.zeros((32, 32, 3), np.uint8)
    image[:, 16:] = 255
    example = {"image": image}
    safe = transform(example, (), (50, 50), Draw(angle=7.0))["image"]
    wrapped = transform(example, (), (50, 50), Draw(angle=7.0), Augmentation(compat_uint8_wrap=True))["image"]
    assert wrapped.dtype == safe.dtype == np.uint8

    def falls(picture):  # along rows through the middle, where the image rises from black to white once
        return -np.diff(picture[20:30, 5:45].astype(int), axis=1).min()

    assert falls(safe) < 40
    assert falls(wrapped) > 200


def test_depth_is_divided_by_the_zoom_and_zero_is_ignored():
    depth = np.full((20, 20), 6.0, np.float32)
    depth[:5] = 0
    example = {"image": np.zeros((20, 20, 3), np.uint8), "depth": depth}
    result = transform(example, (DEPTH,), (20, 20), Draw(scale=1.5))["labels"]["depth"]
    assert set(np.unique(result)) == {4.0, 255.0}
    shrunk = transform(example, (DEPTH,), (20, 20), Draw(scale=0.5))["labels"]["depth"]
    assert shrunk[0, 0] == 255, "padding has no depth"
    assert shrunk[12, 10] == 12.0


def test_ignore_codes(example):
    labels = transform(example, ALL, (30, 42))["labels"]
    assert ((labels["normals"] == 255).all(-1) == (example["normals"] == 0).all(-1)).all()
    assert ((labels["depth"] == 255) == (example["depth"] == 0)).all()
    assert np.array_equal(labels["semseg"], example["semseg"])
    assert np.array_equal(labels["human_parts"], example["human_parts"])
    nobody = {**example, "human_parts": np.zeros((30, 42), np.uint8)}
    assert (transform(nobody, (PARTS,), (30, 42))["labels"]["human_parts"] == 255).all()
    assert (example["depth"] == 0).any(), "the source's array is left alone"
    assert not (example["normals"] == 255).any()


def test_padding_is_class_zero_by_default_and_ignored_on_request(example):
    draw, specs = Draw(scale=0.5), (SEMSEG, PARTS, SAL, EDGE)
    kept = transform(example, specs, (30, 42), draw)["labels"]
    ignored = transform(example, specs, (30, 42), draw, Augmentation(pad_ignore=True))["labels"]
    for spec in specs:
        assert (kept[spec.name][:5] == 0).all()
        assert (ignored[spec.name][:5] == 255).all()
        assert np.array_equal(kept[spec.name][10:20, 15:27], ignored[spec.name][10:20, 15:27])
    nobody = {**example, "human_parts": np.zeros((30, 42), np.uint8)}
    assert (
        transform(nobody, (PARTS,), (30, 42), draw, Augmentation(pad_ignore=True))["labels"]["human_parts"] == 255
    ).all()


def test_eroding_takes_the_ring_off_masked_normals():
    normals = np.zeros((40, 40, 3), np.float32)
    normals[10:30, 10:30] = (0, 0, -1)
    example = {"image": np.zeros((40, 40, 3), np.uint8), "normals": normals}
    draw = Draw(angle=10.0)
    ring = transform(example, (NORMALS,), (80, 80), draw)["labels"]["normals"]
    clean = transform(example, (NORMALS,), (80, 80), draw, Augmentation(erode_normals=2))["labels"]["normals"]
    there = (ring != 255).all(-1)
    assert (ring[there][:, 2] > 0).any(), "cubic overshoot flips tiny vectors over, and renormalising shows them"
    left = (clean != 255).all(-1)
    assert 0 < left.sum() < there.sum()
    np.testing.assert_allclose(clean[left], np.broadcast_to((0, 0, -1), (left.sum(), 3)), atol=1e-5)


def test_ten_thousand_draws_leave_every_label_legal():
    source = ScenesSource("train", (32, 40))
    examples = [source[k] for k in range(20)]
    augmentations = [
        Augmentation(),
        Augmentation(rotation=180.0, scale=(0.3, 3.0), pad_ignore=True),
        preset("nyud"),
        Augmentation(erode_normals=1, fast_warp=True, ignore_empty_maps=False, resize="pillow"),
    ]
    rng = np.random.default_rng(2)
    for k in range(10_000):
        augmentation = augmentations[k % 4]
        labels = transform(examples[k % 20], ALL, (20, 24), sample(augmentation, rng), augmentation)["labels"]
        for spec in (SEMSEG, PARTS, SAL, EDGE):
            label = labels[spec.name]
            assert label.dtype == np.uint8
            assert ((label < spec.num_values) | (label == 255)).all()
        if augmentation.ignore_empty_maps:
            assert (labels["human_parts"] == 255).all() or (labels["human_parts"] % 255 > 0).any()
        depth, normals = labels["depth"], labels["normals"]
        assert depth.dtype == normals.dtype == np.float32
        assert (((depth > 0) & (depth <= 10 / 0.3)) | (depth == 255)).all()
        square = np.einsum("hwc,hwc->hw", normals, normals)
        missing = (normals == 255).all(-1)
        assert np.abs(square[~missing] - 1).max(initial=0) < 1e-4


@pytest.mark.parametrize("fast_warp", [False, True])
def test_lines_stay_whole_where_a_map_shrinks(fast_warp):
    """A grid of lines has as many cells after a turn and a zoom into a map of a fifth of the size."""
    label = np.zeros((250, 310), np.uint8)
    label[20:240:48], label[:, 15:300:48] = 1, 1
    label[:20] = label[213:] = 0
    label[:, :15] = label[:, 256:] = 0
    label[40:60, 50:60] = IGNORE
    example = {"image": np.zeros((250, 310, 3), np.uint8), "edge": label}
    holes = lambda edge: cv2.connectedComponents((edge != 1).astype(np.uint8), connectivity=4)[0]
    keeps = dataclasses.replace(EDGE, keeps_lines=True)
    drawn = LabelSpec("edge", dtype="uint16", keeps_lines=True)
    rng, augmentation = np.random.default_rng(4), Augmentation(scale=(0.6, 0.8), fast_warp=fast_warp)
    cut = 0
    for _ in range(20):
        draw = sample(augmentation, rng)
        found, plain = (
            transform(example, (spec,), (50, 62), draw, augmentation)["labels"]["edge"] for spec in (keeps, EDGE)
        )
        assert holes(found) == holes(label)
        assert (found == IGNORE).any()
        cut += holes(plain) < holes(label)
        packed = {**example, "edge": pack_annotators([label == 1, label == IGNORE])}
        masks, _ = unpack_annotators(transform(packed, (drawn,), (50, 62), draw, augmentation)["labels"]["edge"])
        assert holes(masks[0].astype(np.uint8)) == holes(label)
    assert cut == 20
    same = transform(example, (keeps,), (250, 310))["labels"]["edge"]
    np.testing.assert_array_equal(same, label)
    of_own_size = transform(example, (keeps,), (50, 62), keep_label_size=True)["labels"]["edge"]
    np.testing.assert_array_equal(of_own_size, label)


def test_draws_fill_their_ranges():
    rng = np.random.default_rng(3)
    draws = [sample(preset("pascal"), rng) for _ in range(4000)]
    angles, scales = np.array([d.angle for d in draws]), np.array([d.scale for d in draws])
    assert -20 <= angles.min() < -19.5
    assert 19.5 < angles.max() <= 20
    assert 0.75 <= scales.min() < 0.76
    assert 1.24 < scales.max() <= 1.25
    assert 0.46 < np.mean([d.flip for d in draws]) < 0.54
    draws = [sample(preset("nyud"), rng) for _ in range(3000)]
    assert {d.angle for d in draws} == {0.0}
    values, counts = np.unique([d.scale for d in draws], return_counts=True)
    assert values.tolist() == [1.0, 1.2, 1.5]
    assert counts.min() > 900
    assert sample(None, rng) == Draw()


def test_switching_one_option_leaves_the_other_draws_alone():
    for k in range(20):
        full = sample(Augmentation(), np.random.default_rng(k))
        still = sample(Augmentation(rotation=0.0), np.random.default_rng(k))
        assert (full.flip, full.scale) == (still.flip, still.scale)


def test_mistakes_are_named(example):
    with pytest.raises(DataError, match="example a has no label 'depth'"):
        transform({key: value for key, value in example.items() if key != "depth"}, ALL, (8, 8))
    with pytest.raises(DataError, match="label 'sal' is 10x42, its image 30x42"):
        transform({**example, "sal": example["sal"][:10]}, ALL, (8, 8))
    with pytest.raises(ConfigError, match="hflip is a probability"):
        Augmentation(hflip=2.0)
    with pytest.raises(ConfigError, match="low <= high"):
        Augmentation(scale=(1.2, 0.8))
    with pytest.raises(ConfigError, match=r"augmentation: resize: unknown name 'pilow'\. Did you mean 'pillow'\?"):
        Augmentation(resize="pilow")
    with pytest.raises(ConfigError, match="positive factors"):
        Augmentation(scale=(0.0, 1.0))
    with pytest.raises(ConfigError, match=r"Did you mean 'pascal'\?"):
        preset("pascl")
    assert PRESETS["none"] is None
