"""`python -m ditask_jax.data show`: the drawing holds what is stored and what training sees; mistakes are named."""

import importlib

import numpy as np
import pytest
from PIL import Image

from ditask_jax import cli
from ditask_jax.data.augment import PRESETS, sample, transform
from ditask_jax.data.commands import show
from ditask_jax.scenes import ScenesSource
from ditask_jax.tasks import create_tasks

main = importlib.import_module("ditask_jax.data.__main__").main
SCENES = ["show", "scenes", "--size=64", "--index=3", "--draws=2"]


def test_an_example_is_drawn_as_stored_as_evaluated_and_as_augmented(tmp_path, monkeypatch, capsys):
    drawn = []
    draw = show.draw_example
    monkeypatch.setattr(show, "draw_example", lambda *a: drawn.append(a) or draw(*a))
    file = tmp_path / "new folder" / "example.png"
    assert cli.execute(main, [*SCENES, f"--out={file}", "--tasks=semseg+normals+depth+sal"]) == cli.OK
    assert f"wrote {file}" in capsys.readouterr().out
    with Image.open(file) as image:
        assert min(image.size) > 500
    ((_, rows, drawn_tasks, title),) = drawn
    assert [task.name for task in drawn_tasks] == ["semseg", "normals", "depth", "sal"]
    assert title == "scenes, train 3 of 2000: train-000003"
    example = ScenesSource("train", 64)[3]
    np.testing.assert_array_equal(rows[0][1], example["image"])
    np.testing.assert_array_equal(rows[0][2]["depth"], example["depth"])
    specs = [task.label_spec for task in drawn_tasks]
    for number, (words, image, labels) in enumerate(rows[2:]):
        chosen = sample(PRESETS["scenes"], np.random.default_rng((0, 3, number)))
        want = transform(example, specs, (64, 64), chosen, PRESETS["scenes"])
        np.testing.assert_array_equal(image, want["image"])
        np.testing.assert_array_equal(labels["normals"], want["labels"]["normals"])
        assert f"{chosen.angle:+.1f}°, x{chosen.scale:.2f}" in words
        assert ("not flipped" in words) != chosen.flip


@pytest.mark.parametrize("name", ["a$_{$b", "\udcff", "\N{CJK UNIFIED IDEOGRAPH-65E5}", "a\nb"])
def test_any_name_of_a_picture_can_be_its_title(name, tmp_path):
    label = {"sal": np.zeros((8, 8), np.uint8)}
    rows = [("as stored", np.zeros((8, 8, 3), np.uint8), label)]
    file = show.draw_example(
        tmp_path / "a.png", rows, create_tasks("sal", dataset="folder"), f"folder, train 0 of 1: {name}"
    )
    with Image.open(file) as image:
        assert min(image.size) > 100


def test_own_files_and_classes_are_drawn(tmp_path):
    root = tmp_path / "own"
    for name, array in (
        ("images", np.full((30, 40, 3), 90, np.uint8)),
        ("semseg", np.arange(1200, dtype=np.uint16).reshape(30, 40) % 20),
    ):
        (root / "train" / name).mkdir(parents=True)
        Image.fromarray(array.astype(np.uint8)).save(root / "train" / name / "a.png")
    (root / "kitti").mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(root / "kitti" / "b.png")
    (root / "kitti" / "train800val200.txt").write_text("b.png 2")
    for arguments in (["folder"], ["vtab", "--task=kitti_dist"]):
        file = tmp_path / f"{arguments[0]}.png"
        assert cli.execute(main, ["show", *arguments, f"--root={root}", "--size=32", f"--out={file}"]) == cli.OK
        assert file.stat().st_size > 2000


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "scene", "--out=x.png"], "NAME: unknown name 'scene'. Did you mean 'scenes'?"),
        ([*SCENES, "--out=x.png", "--index=9000"], "--index: got 9000, expected 0 to 1999"),
        ([*SCENES, "--out=x.png", "--draws=-1"], "--draws: got -1, expected 0 or more"),
        ([*SCENES, "--out=x.png", "--split=test"], "unknown name 'test'"),
        ([*SCENES, "--out=x.png", "--tasks=semsge"], "Did you mean 'semseg'?"),
        (["show", "pascal", "--out=x.png"], "needs data.root"),
        (["show", "folder", "--out=x.png"], "--root: missing"),
        (["show", "vtab", "--out=x.png", "--root=."], "data.vtab_task: got None"),
        (SCENES, "--out: missing"),
    ],
)
def test_mistakes_are_one_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.execute(main, arguments) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert message in error
    assert len(error.strip().splitlines()) == 1
    assert not any(tmp_path.iterdir())


def test_words_of_a_draw():
    assert show._words(sample(PRESETS["nyud"], np.random.default_rng(0)), PRESETS["nyud"]).endswith("x1.00")


def test_a_folder_takes_the_options_of_training(tmp_path, capsys):
    white = np.repeat([0, 255], 600).reshape(30, 40).astype(np.uint8)
    for name in ("images", "semseg"):
        (tmp_path / "train" / name / "sub").mkdir(parents=True)
        show = np.full((30, 40, 3), 90, np.uint8) if name == "images" else white
        Image.fromarray(show).save(tmp_path / "train" / name / "sub/a.png")
    command = ["show", "folder", f"--root={tmp_path}", "--size=32", "--draws=0", f"--out={tmp_path / 'a.png'}"]
    assert cli.execute(main, command) == cli.USER_ERROR
    assert "(doctor, show: --subfolders true)" in capsys.readouterr().err
    assert cli.execute(main, [*command, "--subfolders=true", "--mask-ignore=false", "--semseg-classes=2"]) == cli.OK
