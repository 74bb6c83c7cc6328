"""The PASCAL-Context recipe over a miniature tree in the real formats: an epoch, stopped half-way and resumed."""

import json
import os
import signal

import pytest

from ditask_jax import cli, train
from ditask_jax.training.metrics_log import read_metrics
from ditask_jax.training.trainer import Trainer
from tests.data.miniature import write_pascal
from tests.training.small import NAME, two_stages

SMALL = {
    "image_size": 32,
    "batch_size": 4,
    "total_epochs": 1,
    "checkpoint_every_steps": 1,
    "log_every_steps": 1,
    "eval_resolution": "original",
    "data.threads": 1,
    "backbone.name": NAME,
    "head.widths": "4,4",
    "optimizer.warmup_steps": 1,
    "mesh.data": 1,
}


# The files and the scores are all the same for every method, and biases compile in a third of the time.
@pytest.mark.slow
@pytest.mark.parametrize("method", ["bitfit", "ditask"])
def test_an_epoch_trains_stops_resumes_and_is_scored_with_the_train_command(method, tmp_path, monkeypatch, capsys):
    write_pascal(tmp_path / "PASCAL_MT", train=10, val=3, size=(44, 60), seed=3)
    arguments = ["--config=configs/pascal_swin_tiny.py", f"--workdir={tmp_path / 'run'}"]
    fields = {**SMALL, "method.name": method, "data.root": tmp_path}
    if method == "ditask":
        fields |= {"method.shared_cells": 4, "method.task_cells": 4}
    arguments += [f"--config.{name}={value}" for name, value in fields.items()]
    steps = Trainer._steps

    def interrupted(self, *given):
        os.kill(os.getpid(), signal.SIGTERM)
        yield from steps(self, *given)

    with two_stages(), monkeypatch.context() as patch:
        patch.setattr(Trainer, "_steps", interrupted)
        assert cli.execute(train.main, arguments) == cli.PREEMPTED, capsys.readouterr().err
    assert "stopped at step 1 and saved" in capsys.readouterr().err
    with two_stages():
        assert cli.execute(train.main, arguments) == cli.OK
    captured = capsys.readouterr()
    assert "resuming from step 1 of 2" in captured.err
    assert "delta_m over 3 examples" in captured.out
    rows = read_metrics(tmp_path / "run")
    assert [row["step"] for row in rows if "train/loss" in row] == [1, 2], "10 images make 2 steps of 4"
    assert {f"train/tasks/{name}/loss" for name in ("semseg", "human_parts", "sal", "normals")} <= set(rows[0])
    content = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert content["examples"] == 3
    assert content["protocol"] == "original resolution, logits resized from 32x32, all examples, metrics pooled"
    assert set(content["references"]) == set(content["scores"]) == {"semseg", "human_parts", "sal", "normals"}
    assert isinstance(content["delta_m"], float)
    assert (tmp_path / "run" / "figures" / "evaluation.png").stat().st_size > 1000
