"""A whole training on images and label files of a user's own: odd sizes, no validation folder, two tasks."""

import json

import numpy as np
import pytest

import ditask_jax as dj
from ditask_jax.adapters.storage import read_description
from ditask_jax.config import load_config
from ditask_jax.describe.summary import describe
from ditask_jax.errors import DitaskError
from ditask_jax.prediction.predictor import Predictor
from ditask_jax.preflight.preflight_checks import Setting, check_data
from ditask_jax.reports import read_run
from ditask_jax.training.experiment import build_source
from ditask_jax.training.metrics_log import read_metrics
from ditask_jax.training.run_folder import RunDir
from ditask_jax.training.trainer import Trainer
from tests.data.test_declared_labels import write_folder
from tests.data.test_folder import make_labels, write
from tests.training.small import OPTIONS, two_stages


def test_a_folder_of_pictures_trains_evaluates_and_draws(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(8):
        write(tmp_path / "pictures" / "train", f"p{k}", make_labels(rng), numpy_files=k % 2 == 0)
    overrides = (
        *OPTIONS,
        "data.name=folder",
        f"data.root={tmp_path / 'pictures'}",
        "data.val_fraction=0.25",
        "data.semseg_classes=12",
        "data.train_examples=None",
        "data.eval_examples=None",
        "tasks=semseg+normals",
        "batch_size=3",
        "eval_batch_size=4",
        "total_steps=3",
        "mesh.data=1",
        # What trains is all the same here, and biases compile in a third of the time.
        "method.name=bitfit",
    )
    with two_stages():
        trainer = Trainer(load_config("configs/smoke.py", overrides))
    run = RunDir(tmp_path / "run")
    trainer.fit(run.path)
    trainer.report(run, trainer.evaluate())
    assert [row["step"] for row in read_metrics(run.path) if "train/loss" in row] == [1, 2, 3]
    content = json.loads(run.evaluation.read_text())
    # Which images validate is told by a hash of their names: that none is lost or seen twice is what counts.
    assert 0 < content["examples"] == len(trainer.eval_source) == 8 - len(trainer.train_source)
    assert set(content["scores"]) == {"semseg", "normals"}
    assert 0 < content["scores"]["normals"]["mean"] < 180
    assert (run.path / "figures" / "evaluation.png").stat().st_size > 1000


# Tasks that the configuration declares.


DECLARED = (
    "data.name=folder",
    "data.val_fraction=0.25",
    "data.train_examples=None",
    "data.eval_examples=None",
    "tasks=garments+parts+heat",
    "task.garments.kind=classes",
    "task.garments.classes=background,shirt,trousers",
    "task.parts.kind=classes",
    "task.parts.classes=none,head,hand",
    "task.parts.colours=#000000,#ff0000,#00ff00",
    "task.parts.folder=body-parts",
    "task.heat.kind=regression",
    "task.heat.scale=0.004",
    "task.heat.loss_weight=3",
)


def declared(root, *more):
    return load_config("configs/smoke.py", [*DECLARED, f"data.root={root}", *more])


def test_declared_tasks_are_read_checked_and_described(tmp_path):
    config = declared(write_folder(tmp_path, count=8))
    example = build_source(config, "train")[0]
    assert {name: value.dtype.name for name, value in example.items() if name not in ("image", "id")} == {
        "garments": "uint8",
        "parts": "uint8",
        "heat": "float32",
    }
    assert check_data(Setting(config)).startswith("folder: train ")
    for names in ("heat", "garments+parts+heat+mask+lines+more"):
        more = ("task.mask.kind=mask", "task.lines.kind=mask", "task.lines.metric=odsF", "task.more.kind=depth")
        content = describe(declared(tmp_path, *more, f"tasks={names}"))
        assert list(content["tasks"]) == names.split("+")
        assert content["tasks"]["heat"] == {"kind": "regression", "outputs": 1, "metric": "rmse", "loss_weight": 3.0}
    assert content["tasks"]["lines"] == {"kind": "mask", "outputs": 1, "metric": "odsF", "loss_weight": 50.0}


@pytest.mark.parametrize(
    ("override", "line"),
    [
        ("task.garments.classes=background,shirt", "holds the class number 2; task.garments has 0..1"),
        ("task.garments.kind=mask", "config: task.garments.classes: an option of kind 'classes'; 'mask' has"),
        ("task.heat.kind=mask", "config: task.heat.scale: an option of kind 'regression' 'depth'; 'mask' has"),
        ("task.parts.colours=#000001,#ff0000,#00ff00", "colour that task.parts.colours has not, most often #000000"),
        ("task.heat.folder=empty", "holds no .npy or .png file at all"),
        (
            "task.heat.folder=hat",
            "'heat', train split); where its files have another folder, set --config.task.heat.folder",
        ),
    ],
)
def test_declarations_that_do_not_fit_the_files_are_one_line(override, line, tmp_path):
    (write_folder(tmp_path) / "train" / "empty").mkdir()
    with pytest.raises(DitaskError) as error:
        check_data(Setting(declared(tmp_path, override)))
    assert line in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.slow
@pytest.mark.parametrize("names", ["garments+parts+heat", "heat"])
def test_declared_tasks_train_and_predict(names, tmp_path):
    root = write_folder(tmp_path / "photos", count=8)
    sizes = ("batch_size=3", "eval_batch_size=4", "total_steps=3", "mesh.data=1", "method.name=bitfit")
    with two_stages():
        trainer = Trainer(declared(root, *OPTIONS, *sizes, f"tasks={names}"))
        run = RunDir(tmp_path / "run")
        state = trainer.fit(run.path)
        trainer.report(run, trainer.evaluate())
        scores = json.loads(run.evaluation.read_text())["scores"]
        assert list(scores) == names.split("+")
        assert set(scores["heat"]) == {"rmse", "mae"}
        found = read_run(run.path)
        assert found.primary(found.tasks[-1]) == scores["heat"]["rmse"]
        assert found.tasks[-1].loss_weight == 3.0
        [row] = [row for row in read_metrics(run.path) if row["step"] == 3 and "train/loss" in row]
        assert row["train/loss"] > 0
        image = build_source(trainer.config, "val")[0]["image"]
        [by_run] = Predictor.from_run(run.path)([image])
        folder = dj.save_adapter(tmp_path / "adapter", trainer.experiment.model, state)
        assert set(read_description(folder)["model"]["declared"]) == set(names.split("+"))
        predictor = Predictor.from_adapter(folder)
        [by_adapter] = predictor([image])
    for task in predictor.tasks:
        assert np.array_equal(by_run[task.name], by_adapter[task.name])
        assert by_run[task.name].shape == image.shape[:2]
    if "parts" in names:
        parts = predictor.tasks[1]
        assert parts.class_names == ("none", "head", "hand")
        assert parts.palette[1].tolist() == [255, 0, 0]
