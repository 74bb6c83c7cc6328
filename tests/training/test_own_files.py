"""A whole training on pictures and label files of a user's own: odd sizes, no validation folder, two tasks."""

import json

import numpy as np

from ditask_jax.config import load_config
from ditask_jax.training.rundir import RunDir
from ditask_jax.training.trainer import Trainer
from ditask_jax.training.writers import read_metrics
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
    # Which pictures validate is told by a hash of their names: that none is lost or seen twice is what counts.
    assert 0 < content["examples"] == len(trainer.eval_source) == 8 - len(trainer.train_source)
    assert set(content["scores"]) == {"semseg", "normals"}
    assert 0 < content["scores"]["normals"]["mean"] < 180
    assert (run.path / "figures" / "evaluation.png").stat().st_size > 1000
