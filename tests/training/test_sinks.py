"""Logs of a run: what TensorBoard and Weights & Biases get, once per step through kills and resumes."""

import importlib.util
import json
import os
import pathlib
import subprocess
import sys
import types

import cv2
import jax
import numpy as np
import pytest

from ditask_jax.config import load_config
from ditask_jax.errors import ConfigError
from ditask_jax.training.experiment import build_tasks
from ditask_jax.training.metrics_log import PACKAGES, RunLog, check_logging, read_metrics
from ditask_jax.training.run_folder import RunDir, read_launches
from tests.training.event_files import read_events

CHECKOUT = pathlib.Path(__file__).parents[2]
needs = {
    name: pytest.mark.skipif(
        importlib.util.find_spec(package) is None, reason=f"{package} is not installed: pip install {package}"
    )
    for name, package in PACKAGES.items()
}


def _log(folder, *overrides, start=0, active=True):
    config = load_config("configs/smoke.py", overrides)
    return RunLog(RunDir(folder), config, build_tasks(config), start, 3, jax.devices()[:1], active=active)


def _values(step):
    return {"train/loss": 1 / step, "train/note": "a text", "train/bad": float("nan"), "train/tasks/depth/loss": step}


def _picture(folder, shade):
    path = folder / "picture.png"
    cv2.imwrite(str(path), np.full((4, 6, 3), shade, np.uint8))
    return path


SPECTRA = {"blocks/0/proj/shared": (np.array([[4.0, 2.0]]), np.array([[4.0, 2.4]]))}


@needs["tensorboard"]
def test_tensorboard_gets_numbers_pictures_and_spectra(tmp_path):
    with _log(tmp_path, "logging.tensorboard=true") as log:
        log.write(1, _values(1))
        log.write(1, {"val/delta_m": -2.5})
        log.picture(1, "panels/val", _picture(tmp_path, 77))
        log.spectra(1, SPECTRA)
    found = read_events(tmp_path / "tensorboard")
    assert found["train/loss"] == [(1, 1.0)]
    assert found["val/delta_m"] == [(1, -2.5)]
    assert found["moved/blocks/0/proj/shared"] == [(1, pytest.approx(5.0))]
    assert found["spectra/blocks/0/proj/shared"] == [(1, 2.0)]
    ((step, picture),) = found["panels/val"]
    assert (step, picture.shape, set(picture.ravel().tolist())) == (1, (4, 6, 3), {77})
    assert "train/bad" not in found
    assert "train/note" not in found
    assert read_metrics(tmp_path)[0]["train/note"] == "a text"


@needs["tensorboard"]
def test_a_killed_run_that_goes_on_has_every_step_once(tmp_path):
    log = _log(tmp_path, "logging.tensorboard=true")
    for step in range(1, 8):
        log.write(step, {"train/loss": float(step)})
        if step == 4:
            log.flush()  # a checkpoint
    for sink in log._sinks:
        sink.flush()  # what came behind it has reached the disk as well, and then the process is killed
    with _log(tmp_path, "logging.tensorboard=true", start=4) as second:
        for step in range(5, 10):
            second.write(step, {"train/loss": 10.0 * step})
    log.close()
    expected = [(step, float(step)) for step in range(1, 5)] + [(step, 10.0 * step) for step in range(5, 10)]
    assert read_events(tmp_path / "tensorboard")["train/loss"] == expected
    assert len(read_launches(tmp_path)) == 2
    assert [row["step"] for row in read_launches(tmp_path)] == [0, 4]


@needs["tensorboard"]
def test_a_run_that_starts_anew_takes_everything_back(tmp_path):
    for value in (1.0, 2.0):
        with _log(tmp_path, "logging.tensorboard=true") as log:
            log.write(1, {"train/loss": value})
    assert read_events(tmp_path / "tensorboard")["train/loss"] == [(1, 2.0)]


def test_other_processes_and_defaults_write_nothing_more(tmp_path):
    with _log(tmp_path / "other", active=False) as log:
        log.write(1, _values(1))
        log.flush()
    assert not (tmp_path / "other").exists()
    with _log(tmp_path / "first") as log:
        log.write(1, _values(1))
    assert sorted(path.name for path in (tmp_path / "first").iterdir()) == ["metrics.jsonl", "starts.jsonl"]


@pytest.mark.parametrize(
    ("override", "package"), [("logging.tensorboard=true", "tensorboardX"), ("logging.wandb=offline", "wandb")]
)
def test_a_missing_package_is_one_line_with_its_remedy(override, package, monkeypatch):
    config = load_config("configs/smoke.py", (override,))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else object())
    with pytest.raises(ConfigError, match=rf"^config: logging\.\w+: the package {package} .*pip install {package}"):
        check_logging(config)
    check_logging(load_config("configs/smoke.py"))


def test_a_mode_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match=r"logging.wandb: unknown name 'ofline'. Did you mean 'offline'"):
        load_config("configs/smoke.py", ("logging.wandb=ofline",))


class FakeWandb(types.ModuleType):
    """Stands in for the package: keeps what every `init` was asked for and the rows that its run was logged.

    Args:
      steps: that the server already has.
    """

    Settings = staticmethod(dict)
    Image = staticmethod(lambda picture: ("image", picture.shape))
    Histogram = staticmethod(lambda np_histogram: ("histogram", int(np_histogram[0].sum())))

    def __init__(self, steps=()):
        super().__init__("wandb")
        self.steps, self.inits, self.parts = list(steps), [], []

    def init(self, **options):
        self.inits.append(options)
        self.parts.append({})
        return types.SimpleNamespace(step=max(self.steps, default=-1) + 1, log=self._log, finish=lambda: None)

    def _log(self, values, step, commit=None):
        part = self.parts[-1]
        assert step >= max(part, default=0), "steps never fall"
        part.setdefault(step, {}).update(values)


def _resumed(folder, mode):
    """Seven steps, killed behind step 5, resumed from step 4."""
    log = _log(folder, f"logging.wandb={mode}")
    for step in range(1, 6):
        log.write(step, _values(step))
        if step == 2:
            log.write(step, {"val/tasks/depth/loss": 1.0, "val/tasks/semseg/loss": 2.0, "val/delta_m": 3.0})
            log.picture(step, "panels/val", _picture(folder, 9))
        if step == 4:
            log.flush()  # a checkpoint
    with _log(folder, f"logging.wandb={mode}", start=4) as second:
        for step in range(5, 8):
            second.write(step, _values(step))
        second.picture(7, "panels/val", _picture(folder, 9))
        second.spectra(7, SPECTRA)
    log.close()  # the process that was killed, so that no file stays open


def test_wandb_offline_sends_every_scalar_again(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    _resumed(tmp_path, "offline")
    first, second = wandb.parts
    assert (list(first), list(second)) == ([1, 2, 3, 4, 5], [1, 2, 3, 4, 5, 6, 7])
    for step in range(1, 5):
        again = {name: value for name, value in first[step].items() if name != "panels/val"}
        assert second[step] == again
    assert second[1]["train/loss"] == second[1]["train/train_loss"] == 1.0
    assert (second[4]["train/epoch_ndx"], second[4]["train/batch_ndx"]) == (1, 0)
    assert second[2]["val/delta_m"] == second[2]["val/val_loss"] == 3.0
    assert first[2]["panels/val"] == second[7]["panels/val"] == ("image", (4, 6, 3))
    assert second[7]["spectra/blocks/0/proj/shared"] == ("histogram", 2)
    assert [(one["mode"], one["resume"]) for one in wandb.inits] == [("offline", None)] * 2
    assert {one["id"] for one in wandb.inits} == {(tmp_path / "wandb" / "id").read_text().strip()}


def test_wandb_online_is_sent_what_it_lacks(tmp_path, monkeypatch):
    wandb = FakeWandb()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setattr(wandb, "steps", [])
    log = _log(tmp_path, "logging.wandb=online")
    for step in range(1, 5):
        log.write(step, _values(step))
    log.flush()
    wandb.steps = [1, 2]  # the server has received no more
    with _log(tmp_path, "logging.wandb=online", start=4) as second:
        second.write(5, _values(5))
    assert list(wandb.parts[1]) == [3, 4, 5]
    wandb.steps = [1, 2, 3, 4, 5]  # and now more than the checkpoint
    with _log(tmp_path, "logging.wandb=online", start=4) as third:
        third.write(5, _values(5))
        third.write(6, _values(6))
    log.close()
    assert list(wandb.parts[2]) == [6]
    assert {one["resume"] for one in wandb.inits} == {"allow"}


OFFLINE = """
import json, sys
import numpy as np
sys.path.insert(0, {checkout!r})
from tests.training.test_sinks import SPECTRA, _log, _picture, _values
folder, start, last, kill = {folder!r}, {start}, {last}, {kill}
import os, pathlib
log = _log(pathlib.Path(folder), "logging.wandb=offline", start=start)
for step in range(start + 1, last + 1):
    log.write(step, _values(step))
    if step == 2:
        log.write(step, {{"val/tasks/depth/loss": 1.0, "val/tasks/semseg/loss": 2.0, "val/delta_m": 3.0}})
    if step == 6:
        log.picture(step, "panels/val", _picture(pathlib.Path(folder), 9))
        log.spectra(step, SPECTRA)
    if step % 2 == 0:
        log.flush()
if kill:
    import time
    time.sleep(2)
    os._exit(9)
log.flush()
print(json.dumps(dict(log._sinks[0]._run.summary), default=dict))
log.close()
"""


@needs["wandb"]
@pytest.mark.slow
def test_wandb_itself_takes_every_part(tmp_path):
    """In processes of their own: W&B starts a service, which would outlive a test."""
    environment = dict(os.environ, WANDB_SILENT="true")
    for start, last, kill, code in ((0, 5, True, 9), (4, 7, False, 0)):
        text = OFFLINE.format(checkout=str(CHECKOUT), folder=str(tmp_path), start=start, last=last, kill=kill)
        done = subprocess.run(
            [sys.executable, "-c", text], cwd=CHECKOUT, env=environment, capture_output=True, text=True, timeout=900,
            check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr[-2000:]
    parts = sorted((tmp_path / "wandb").glob("offline-run-*"))
    assert {path.name.rsplit("-", 1)[1] for path in parts} == {(tmp_path / "wandb" / "id").read_text().strip()}
    assert len(parts) == 2
    # The last value of everything in the second part: step 2 was logged by the first process.
    last = json.loads(done.stdout.splitlines()[-1])
    assert last["_step"] == 7
    assert (last["val/delta_m"], last["val/val_loss"], last["train/epoch_ndx"]) == (3.0, 3.0, 2)
    assert last["train/loss"] == last["train/train_loss"] == pytest.approx(1 / 7)
    assert last["panels/val"]["_type"] == "image-file"
    assert last["spectra/blocks/0/proj/shared"]["_type"] == "histogram"
