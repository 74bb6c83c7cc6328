"""From names to tasks, data set tables, and images."""

import numpy as np
import pytest

from ditask_jax.errors import ConfigError
from ditask_jax.tasks import DATASETS, SurfaceNormals, Task, create_tasks
from ditask_jax.tasks.class_map import class_palette

from .examples import ALL_TASKS, random_label


def test_order_is_that_of_the_string():
    assert [task.name for task in create_tasks("depth+semseg", dataset="nyud")] == ["depth", "semseg"]
    assert [task.name for task in create_tasks(["sal", "edge"], dataset="pascal")] == ["sal", "edge"]


@pytest.mark.parametrize(
    ("names", "dataset", "message"),
    [
        (
            "semsge",
            "pascal",
            "config: tasks: 'semsge' is not a task of 'pascal'. Did you mean 'semseg'? "
            "Known: semseg human_parts sal normals edge",
        ),
        ("semseg+depth", "pascal", "config: tasks: 'depth' is not a task of 'pascal'. Known: semseg human_parts"),
        ("sal+semseg+sal", "pascal", "config: tasks: 'sal' is named twice in 'sal+semseg+sal'"),
        ("", "nyud", "config: tasks: none given; join one or more with '+'. Known: semseg depth normals edge"),
        ("semseg+", "nyud", "config: tasks: '' is not a task of 'nyud'"),
        ("semseg", "pascl", "config: data.name: unknown name 'pascl'. Did you mean 'pascal'?"),
        ("sal+semseg", "folder", "config: data.semseg_classes: 'folder' needs the number of classes of 'semseg'"),
    ],
)
def test_bad_names_end_in_one_line(names, dataset, message):
    with pytest.raises(ConfigError) as caught:
        create_tasks(names, dataset=dataset)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("dataset", "num_classes", "message"),
    [
        ("folder", {"semseg": 1}, "config: data.semseg_classes: got 1, expected a whole number from 2 to 255"),
        ("folder", {"semseg": 256}, "config: data.semseg_classes: got 256"),
        ("folder", {"semseg": "5"}, "config: data.semseg_classes: got '5'"),
        ("folder", {"semsg": 5}, "create_tasks: num_classes: unknown name 'semsg'. Did you mean 'semseg'?"),
        ("pascal", {"semseg": 5}, "config: data.semseg_classes: got 5, but 'pascal' has 21"),
    ],
)
def test_bad_class_counts_end_in_one_line(dataset, num_classes, message):
    with pytest.raises(ConfigError) as caught:
        create_tasks("semseg", dataset=dataset, num_classes=num_classes)
    assert str(caught.value).startswith(message)


def test_folder_takes_class_counts_from_the_user():
    semseg, parts = create_tasks("semseg+human_parts", dataset="folder", num_classes={"semseg": 5})
    assert (semseg.num_outputs, parts.num_outputs) == (5, 7)
    assert semseg.class_names == ("background", "class 1", "class 2", "class 3", "class 4")


@pytest.mark.parametrize(
    ("dataset", "outputs"),
    [
        ("pascal", {"semseg": 21, "human_parts": 7, "sal": 1, "normals": 3, "edge": 1}),
        ("nyud", {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}),
        ("cityscapes", {"semseg": 19, "depth": 1}),
        ("ccp", {"semseg": 13, "human_parts": 7, "sal": 1, "edge": 1}),
        ("camvid", {"semseg": 11, "edge": 1}),
        ("bsds", {"edge": 1}),
        ("scenes", {"semseg": 12, "human_parts": 7, "sal": 1, "normals": 3, "depth": 1, "edge": 1}),
    ],
)
def test_outputs_of_every_data_set(dataset, outputs):
    assert set(DATASETS[dataset].tasks) == set(outputs)
    for task in create_tasks("+".join(outputs), dataset=dataset):
        assert task.num_outputs == outputs[task.name]
        if names := DATASETS[dataset].class_names.get(task.name):
            assert len(set(names)) == task.num_outputs


def test_label_specs_say_how_labels_are_augmented():
    specs = {task.name: task.label_spec for task in ALL_TASKS}
    assert [name for name, spec in specs.items() if spec.interpolation == "cubic"] == ["normals"]
    assert [name for name, spec in specs.items() if spec.is_direction_field] == ["normals"]
    assert [name for name, spec in specs.items() if spec.zero_is_missing] == ["normals", "depth"]
    assert [name for name, spec in specs.items() if spec.all_zero_is_missing] == ["human_parts"]
    assert [name for name, spec in specs.items() if spec.scales_inversely] == ["depth"]
    assert [spec.num_values for spec in specs.values()] == [12, 7, 2, 0, 0, 2]
    assert create_tasks("depth", dataset="cityscapes")[0].unit == "pixels"
    assert not create_tasks("depth", dataset="cityscapes")[0].label_spec.scales_inversely
    assert create_tasks("depth", dataset="cityscapes", depth_unit="metres")[0].label_spec.scales_inversely


def test_tasks_are_values():
    assert create_tasks("semseg+sal", dataset="pascal") == create_tasks("semseg+sal", dataset="pascal")
    assert len({*ALL_TASKS, *create_tasks("depth+edge", dataset="scenes")}) == len(ALL_TASKS)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_render_draws_labels_and_predictions(task: Task):
    random = np.random.default_rng(20)
    label = random_label(task, random, (1, 12, 10))[0]
    missing = np.all(label == 255, axis=-1) if label.ndim == 3 else label == 255
    colours = task.render(label, task.value_range(label))
    assert colours.shape == (12, 10, 3)
    assert colours.dtype == np.uint8
    assert len(np.unique(colours.reshape(-1, 3), axis=0)) > 1
    if missing.any():
        expected = 255 if task.name in ("semseg", "human_parts") else 0
        assert np.all(colours[missing] == expected)


def test_render_scales():
    semseg, _, sal, normals, depth, _ = ALL_TASKS
    assert semseg.render(np.array([[0, 255]])).tolist() == [[[0, 0, 0], [255, 255, 255]]]
    assert sal.render(np.float32([[0, 0.5, 1]])).tolist() == [[[0] * 3, [128] * 3, [255] * 3]]
    assert sal.render(np.uint8([[0, 1, 255]])).tolist() == [[[0] * 3, [255] * 3, [200, 60, 60]]]
    up = np.float32([[[0, 0, 1], [-1, 0, 0], [0, 0, 0]]])
    assert normals.render(up).tolist() == [[[128, 128, 255], [0, 128, 128], [0, 0, 0]]]
    ramp = depth.render(np.linspace(1, 9, 30, dtype=np.float32)[None], (1.0, 9.0))[0].astype(int)
    brightness = ramp @ [299, 587, 114]
    assert np.all(np.diff(brightness) > 0)
    assert depth.value_range(np.full((2, 2), 255, np.float32)) is None
    assert depth.render(np.full((2, 2), 255, np.float32)).max() == 0
    assert SurfaceNormals().value_range(up) is None


@pytest.mark.parametrize("num_classes", [2, 7, 12, 19, 21, 40])
def test_palettes_can_be_told_apart(num_classes):
    colours = class_palette(num_classes).astype(int)
    shown = np.concatenate([colours[:num_classes], colours[255:]])
    gaps = np.abs(shown[:, None] - shown[None]).sum(-1) + 1000 * np.eye(len(shown), dtype=int)
    assert gaps.min() >= 40


def test_classification_takes_its_classes_from_the_task_of_the_data_set():
    (task,) = create_tasks("classification", dataset="vtab", num_classes={"classification": 397})
    assert (task.num_outputs, task.class_names[0], task.class_names[-1]) == (397, "class 0", "class 396")
    assert task.label_spec.shape((9, 9)) == ()
    assert (task.label_spec.missing, task.label_spec.dtype) == (-1, "int32")
    with pytest.raises(ConfigError, match="'vtab' needs the number of classes of 'classification'"):
        create_tasks("classification", dataset="vtab")
    with pytest.raises(ConfigError, match="'classification' is not a task of 'pascal'"):
        create_tasks("classification", dataset="pascal")
