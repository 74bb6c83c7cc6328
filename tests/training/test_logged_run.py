"""A whole small run with every log, stopped and taken up again; its report and its card."""

import importlib.util
import os
import signal

import pytest

from ditask_jax import cli, report, train
from ditask_jax.plots.example_images import read_examples
from ditask_jax.training.metrics_log import read_metrics
from ditask_jax.training.run_folder import read_launches
from ditask_jax.training.trainer import Trainer
from tests.training.event_files import read_events

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("tensorboardX") is None,
        reason="tensorboardX is not installed: pip install tensorboardX",
    ),
]


def test_stopped_and_taken_up_again(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "run"
    command = [
        "--config=configs/smoke.py",
        f"--workdir={folder}",
        "--config.mesh.data=1",
        "--config.logging.tensorboard=true",
        "--config.eval_every_steps=3",
        "--profile=2:5",
    ]
    steps = Trainer._steps

    def interrupted(self, start, *rest):
        for step, values in steps(self, start, *rest):
            if step == 4:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step, values

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_steps", interrupted)
        assert cli.execute(train.main, command) == cli.PREEMPTED
    assert "profile: ended early, at step 4" in capsys.readouterr().err
    assert cli.execute(train.main, command) == cli.OK
    shown = capsys.readouterr()
    assert "profile: steps 5 to 5" in shown.err
    assert " GB" in shown.err
    assert "model card: " in shown.out
    rows = read_metrics(folder)
    found = read_events(folder / "tensorboard")
    assert [step for step, _ in found["train/loss"]] == [row["step"] for row in rows] == list(range(1, 7))
    assert [value for _, value in found["train/loss"]] == pytest.approx([row["train/loss"] for row in rows], rel=1e-6)
    assert [step for step, _ in found["panels/val"]] == [3, 6]
    spectra = [name for name in found if name.startswith("spectra/")]
    assert {name.rpartition("/")[2] for name in spectra} == {"shared", "semseg", "depth"}
    assert all([step for step, _ in found[name]] == [3, 6] for name in spectra)
    assert any(value > 0 for name in found if name.startswith("moved/") for _, value in found[name])
    assert [row["step"] for row in read_launches(folder)] == [0, 4]
    assert len(list((folder / "profile").glob("plugins/profile/*/*.xplane.pb"))) == 2
    assert len(read_examples(folder / "examples")["examples"]) == 6
    assert "delta_m" in (folder / "MODEL_CARD.md").read_text(encoding="utf-8")
    page = tmp_path / "report.html"
    assert cli.execute(report.main, [str(folder), f"--out={page}"]) == 0
    assert page.read_text(encoding="utf-8").count("<img ") == 6 * 5
