"""Raw files: other tools, and this package's own folder source, read back what was predicted."""

import dataclasses
import io
import json

import numpy as np
import pytest
from PIL import Image

from ditask_jax.data.folder import FolderSource
from ditask_jax.errors import ConfigError
from ditask_jax.prediction.outputs import FORMATS, check_format, describe_raw, encode_raw, raw_ending
from ditask_jax.tasks import create_tasks

NAMES = "semseg+human_parts+sal+normals+depth+edge"
TASKS = {task.name: task for task in create_tasks(NAMES, dataset="scenes")}


def prediction(name, rng, size=(7, 11)):
    task = TASKS[name]
    if name in ("semseg", "human_parts"):
        return rng.integers(0, task.num_outputs, size).astype(np.uint8)
    if name == "normals":
        vectors = rng.normal(size=(*size, 3))
        return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)
    return (rng.uniform(size=size) * (60 if name == "depth" else 1)).astype(np.float32)


def test_class_maps_are_palette_files():
    for name in ("semseg", "human_parts"):
        classes = prediction(name, np.random.default_rng(0))
        image = Image.open(io.BytesIO(encode_raw(TASKS[name], classes, "npy")))
        assert image.mode == "P"
        assert np.array_equal(np.asarray(image), classes)
        # Seen as an image, it is the colour image.
        assert np.array_equal(np.asarray(image.convert("RGB")), TASKS[name].render(classes))


@pytest.mark.parametrize("format", FORMATS)
def test_the_folder_source_reads_them_as_labels(format, tmp_path):
    rng = np.random.default_rng(1)
    names = ("semseg", "human_parts", "normals", "depth")
    made = {name: prediction(name, rng) for name in names}
    (tmp_path / "train/images").mkdir(parents=True)
    Image.fromarray(np.zeros((7, 11, 3), np.uint8)).save(tmp_path / "train/images/x.png")
    for name, value in made.items():
        # An 8-bit image is what the source takes for normals; 16 bits are read by other tools.
        kind = "npy" if name == "normals" else format
        file = tmp_path / "train" / name / f"x{raw_ending(TASKS[name], kind)}"
        file.parent.mkdir()
        file.write_bytes(encode_raw(TASKS[name], value, kind))
    [example] = FolderSource(tmp_path, "train", names)
    for name in ("semseg", "human_parts"):
        assert np.array_equal(example[name], made[name])
    np.testing.assert_allclose(example["normals"], made["normals"], atol=1e-6)
    np.testing.assert_allclose(example["depth"], made["depth"], atol=0 if format == "npy" else 5.1e-4)


def decoded(content):
    import cv2

    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_UNCHANGED)


def test_sixteen_bits():
    rng = np.random.default_rng(2)
    normals = prediction("normals", rng)
    levels = decoded(encode_raw(TASKS["normals"], normals, "png"))
    assert levels.dtype == np.uint16
    np.testing.assert_allclose(2 * levels[..., ::-1].astype(float) / 65535 - 1, normals, atol=2e-5)
    for name in ("sal", "edge"):
        chance = prediction(name, rng)
        levels = decoded(encode_raw(TASKS[name], chance, "npy"))
        assert levels.dtype == np.uint16
        np.testing.assert_allclose(levels / 65535, chance, atol=8e-6)


def test_disparity_is_coded_as_cityscapes_does():
    task = dataclasses.replace(TASKS["depth"], unit="pixels")
    disparity = np.array([[0.0, 0.5, 100.25]], np.float32)
    assert decoded(encode_raw(task, disparity, "png")).tolist() == [[0, 129, 25665]]
    assert "plus 1" in describe_raw(task, "png")["holds"]


def test_depth_beyond_sixteen_bits_stops_at_the_end():
    assert decoded(encode_raw(TASKS["depth"], np.array([[70.0]], np.float32), "png")).tolist() == [[65535]]


def test_a_class_of_the_picture():
    [task] = create_tasks("classification", dataset="vtab", num_classes={"classification": 5})
    assert raw_ending(task, "npy") == ".json"
    found = json.loads(encode_raw(task, np.int32(3), "npy"))
    assert found == {"class": 3, "name": task.class_names[3]}


@pytest.mark.parametrize("name", list(TASKS))
def test_descriptions_are_plain_data(name):
    for format in FORMATS:
        assert json.loads(json.dumps(describe_raw(TASKS[name], format)))["holds"]


def test_unknown_formats():
    with pytest.raises(ConfigError, match=r"unknown name 'npz'\. Did you mean 'npy'"):
        check_format("npz")
