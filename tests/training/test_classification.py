"""Classification from files to scores: a small task of the benchmark trains, is scored and drawn."""

import json

import numpy as np
import pytest
from PIL import Image

from ditask_jax import cli, train
from ditask_jax.config import load_config
from ditask_jax.errors import ConfigError
from ditask_jax.model import create_model
from ditask_jax.tasks import create_tasks
from ditask_jax.training.experiment import build_tasks, known_examples
from tests.training.small import NAME, two_stages

CLASSES = 4


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """`kitti_dist` with images of one colour per class: 24 to train on, 10 to test."""
    root = tmp_path_factory.mktemp("vtab")
    folder = root / "kitti_dist"
    folder.mkdir()
    rng = np.random.default_rng(0)
    colours = rng.integers(40, 216, (CLASSES, 3))
    for name, count in (("train800val200.txt", 24), ("test.txt", 10)):
        lines = []
        for k in range(count):
            label = k % CLASSES
            noisy = colours[label] + rng.integers(-20, 20, (20 + k, 30, 3))
            Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{name}.{k}.png")
            lines.append(f"{name}.{k}.png {label}")
        (folder / name).write_text("\n".join(lines))
    return root


def options(root, *more):
    fixed = {
        "data.root": root,
        "data.threads": 1,
        "image_size": 32,
        "batch_size": 8,
        "backbone.name": NAME,
        "checkpoint_every_steps": 4,
        "optimizer.learning_rate": 0.6,
        "optimizer.warmup_steps": 2,
        "mesh.data": 1,
        # Biases learn the colours too, and compile in a third of the time.
        "method.name": "bitfit",
    }
    return [f"--config.{name}={value}" for name, value in fixed.items()] + list(more)


def test_a_task_trains_and_is_scored_with_the_train_command(root, tmp_path, capsys):
    arguments = ["--config=configs/vtab_swin_tiny.py:kitti_dist", f"--workdir={tmp_path}", *options(root)]
    arguments += ["--config.total_steps=24", "--config.recipe=published"]
    with two_stages():
        assert cli.execute(train.main, arguments) == cli.OK, capsys.readouterr().err
    text = capsys.readouterr().out
    assert "classification" in text
    assert "unknown (no reference)" in text
    content = json.loads((tmp_path / "evaluation.json").read_text())
    assert content["examples"] == 10
    assert content["scores"]["classification"]["top1"] == 1.0
    assert content["delta_m"] is None
    assert (tmp_path / "figures" / "evaluation.png").stat().st_size > 1000


def test_the_number_of_classes_is_the_tasks():
    for name, classes in (("sun397", 397), ("patch_camelyon", 2)):
        config = load_config(f"configs/vtab_swin_tiny.py:{name}")
        (task,) = build_tasks(config)
        assert (task.num_outputs, len(task.class_names), task.is_map) == (classes, classes, False)
    assert known_examples(config) == 1000
    assert known_examples(load_config("configs/vtab_swin_tiny.py:dtd", ["data.vtab_tuning=true"])) == 800


def test_unknown_tasks_are_named(tmp_path, capsys):
    arguments = ["--config=configs/vtab_swin_tiny.py:cifar10", f"--workdir={tmp_path / 'run'}"]
    assert cli.execute(train.main, arguments) == cli.USER_ERROR
    assert "data.vtab_task: unknown name 'cifar10'. Did you mean 'cifar100'?" in capsys.readouterr().err


def test_heads_and_tasks_must_fit():
    (classification,) = create_tasks("classification", dataset="vtab", num_classes={"classification": 5})
    with pytest.raises(ConfigError, match=r"'hrnet' gives a map, but 'classification' needs one vector .*; use linear"):
        create_model("swin_test", (classification,), 32, widths=(4, 4, 4, 4))
    maps = create_model("swin_test", create_tasks("depth", dataset="nyud"), 32, head="linear", abstract=True)
    assert (maps.heads["depth"].is_map, len(maps.necks)) == (True, 0)
    model = create_model("swin_test", (classification,), 32, head="linear", abstract=True)
    assert len(model.necks) == 0
