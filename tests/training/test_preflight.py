"""The preflight: a line per check, each failure with its remedy, and nothing left behind."""

import os
import subprocess
import sys
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax import cli
from ditask_jax.config import load_config, to_json
from ditask_jax.errors import CheckpointError, ConfigError, DataError
from ditask_jax.preflight import __main__ as preflight_command
from ditask_jax.preflight import preflight_checks
from ditask_jax.preflight import trial as trial_module
from ditask_jax.preflight.preflight_checks import (
    Setting,
    check_data,
    check_devices,
    check_versions,
    check_weights,
    check_workdir,
    visible_gpus,
)
from ditask_jax.preflight.trial import CHECKS, check_checkpoint, check_memory, check_step, name_of
from ditask_jax.preflight.trial import preflight as run_checks
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.cluster import Cluster
from ditask_jax.training.optim.group_rates import settled
from ditask_jax.training.sharding import make_mesh, replicated
from tests.data import miniature

SMOKE = "--config=configs/smoke.py"


@pytest.fixture
def setting():
    return Setting(load_config("configs/smoke.py"), samples=3)


def fields(setting, source="configs/smoke.py", **values):
    """The same setting with other fields."""
    setting.config = load_config(source, {name.replace("__", "."): value for name, value in values.items()})
    return setting


class Trial:
    """A trainer of a model of one weight: enough for what the trial asks of it."""

    def __init__(self, scale=1.0):
        self.mesh = make_mesh(1)
        whole = replicated(self.mesh)
        self.state = jax.device_put(({"w": jnp.ones(3)}, {"count": jnp.int32(0)}, {}), whole)
        self.frozen = jax.device_put({"f": jnp.full(3, scale)}, whole)
        self._step = jax.jit(self._step_of, donate_argnums=(0, 1, 2), out_shardings=whole)

    def _step_of(self, trainable, opt_state, stats, frozen, batch, number):
        loss = ((trainable["w"] * frozen["f"] * batch) ** 2).sum()
        metrics = {"loss": loss, "grad_norm": loss, "finite": jnp.isfinite(loss)}
        return {"w": trainable["w"] - number}, {"count": opt_state["count"] + 1}, stats, metrics

    def lower_step(self):
        arguments = (*self.state, self.frozen, jnp.arange(3.0), np.int32(1))
        return self._step.lower(*arguments), arguments

    def fingerprint(self):
        return "x"


@pytest.fixture
def trial(setting):
    setting.trainer = Trial()
    return setting


def test_versions(setting, monkeypatch):
    assert f"jax {jax.__version__}" in check_versions(setting)
    found = preflight_checks.installed()
    monkeypatch.setattr(preflight_checks, "installed", lambda: found | {"grain": None, "jax": "0.9.1"})
    with pytest.raises(
        ConfigError, match=r"jax is 0\.9\.1, expected 0\.10\.2 or newer.*grain is not installed; run 'pip"
    ):
        check_versions(setting)


def test_devices_of_this_machine(setting):
    assert check_devices(setting) == f"{jax.device_count()} x cpu in 1 process(es)"


@pytest.mark.parametrize(
    ("shown", "count"), [(None, 2), ("0,1", 2), ("1", 1), ("", 0), ("-1", 0), ("0,1,2,3", 2), ("GPU-3f,GPU-4a", 2)]
)
def test_gpus_are_counted_without_jax(tmp_path, shown, count):
    for name in ("nvidia0", "nvidia1", "nvidiactl", "nvidia-uvm"):
        (tmp_path / name).touch()
    environment = {} if shown is None else {"CUDA_VISIBLE_DEVICES": shown}
    assert visible_gpus(environment, tmp_path) == count


def fake_gpus(monkeypatch, seen, present, everywhere=None):
    gpu = SimpleNamespace(platform="gpu", device_kind="H200", memory_stats=lambda: {"bytes_limit": 3 * 2**30})
    monkeypatch.setattr(preflight_checks, "visible_gpus", lambda _: present)
    monkeypatch.setattr(jax, "local_devices", lambda: [gpu] * seen)
    monkeypatch.setattr(jax, "devices", lambda: [gpu] * (everywhere or seen))
    monkeypatch.setattr(jax, "device_count", lambda: everywhere or seen)


def test_a_gpu_that_jax_does_not_see(setting, monkeypatch):
    fake_gpus(monkeypatch, 8, 8)
    assert check_devices(setting) == "8 x H200 in 1 process(es), 3.0 GiB each"
    fake_gpus(monkeypatch, 1, 8)
    with pytest.raises(ConfigError, match=r"JAX sees 1 of 8 GPUs in process 0; unset JAX_LOCAL_DEVICE_IDS"):
        check_devices(setting)


def test_a_cluster_of_which_most_gpus_stand_idle(setting, monkeypatch):
    setting.cluster = Cluster("host:1", 2, 0, None, 16)
    fake_gpus(monkeypatch, 8, 8, 16)
    assert check_devices(setting).startswith("16 x H200")
    fake_gpus(monkeypatch, 8, 8, 9)
    with pytest.raises(ConfigError, match=r"the job has 16 GPUs and its 1 processes see 9; use launch/slurm\.sbatch"):
        check_devices(setting)
    setting.cluster = Cluster("host:1", 16, 0, (3,), 16)
    fake_gpus(monkeypatch, 1, 8, 16)
    assert check_devices(setting).startswith("16 x H200")


def test_gpus_without_a_plugin(setting, monkeypatch):
    monkeypatch.setattr(preflight_checks, "visible_gpus", lambda _: 8)
    monkeypatch.delenv("JAX_PLATFORMS", raising=False)
    with pytest.raises(ConfigError, match=r"8 GPUs are in this machine and JAX sees only its CPU; install req"):
        check_devices(setting)
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    check_devices(setting)


def test_a_driver_that_does_not_start(setting, monkeypatch):
    def broken():
        raise RuntimeError("Unable to initialize backend 'cuda': \n no driver")

    monkeypatch.setattr(jax, "local_devices", broken)
    with pytest.raises(ConfigError, match=r"JAX could not start \(Unable to .* no driver\); install the packages"):
        check_devices(setting)


def test_a_folder_that_is_free_and_one_that_goes_on(setting, tmp_path):
    assert "none named" in check_workdir(setting)
    setting.workdir = tmp_path / "new"
    assert "a new run" in check_workdir(setting)
    assert not setting.workdir.exists()
    (setting.workdir / "checkpoints" / "30").mkdir(parents=True)
    (setting.workdir / "config.json").write_text(to_json(settled(setting.config)))
    before = sorted(setting.workdir.rglob("*"))
    assert "resumes from step 30" in check_workdir(setting)
    assert sorted(setting.workdir.rglob("*")) == before
    fields(setting, seed=5)
    with pytest.raises(CheckpointError, match=r"holds a run of another configuration: seed"):
        check_workdir(setting)


def test_a_folder_that_cannot_be_written(setting, tmp_path):
    (tmp_path / "file").touch()
    setting.workdir = tmp_path / "file" / "run"
    lines = []
    assert run_checks(setting, lines.append, [(check_workdir, ())]) == ["workdir"]
    assert len(lines) == 1
    assert lines[0].startswith("FAIL  workdir    workdir: ")
    assert "Not a directory; check the path, its permissions and the free space" in lines[0]


def test_weights(setting, tmp_path):
    assert check_weights(setting).startswith("random")
    fields(setting, "configs/scenes.py")
    assert "every hash as written" in check_weights(setting)
    damaged = tmp_path / "w.safetensors"
    content = bytearray(preflight_checks.weights_path(setting.config).read_bytes())
    content[-5] ^= 1
    damaged.write_bytes(bytes(content))
    fields(setting, backbone__weights=str(damaged))
    lines = []
    assert run_checks(setting, lines.append, [(check_weights, ())]) == ["weights"]
    assert str(damaged) in lines[0]


def test_data(setting, monkeypatch):
    assert check_data(setting) == "scenes: train 24, val 6; 6 samples read"

    class Broken:
        def __len__(self):
            return 4

        def __getitem__(self, number):
            if number == 3:
                raise DataError("data: 3.png cannot be decoded")
            return {}

    monkeypatch.setattr(preflight_checks, "build_source", lambda *_: Broken())
    with pytest.raises(DataError, match=r"^data: scenes: train: 3\.png cannot be decoded and 1 more; put the files"):
        check_data(setting)
    fields(setting, data__on_bad_file="skip")
    assert "4 samples read, 2 bad ones will be passed over" in check_data(setting)


def test_files_of_ones_own_that_mean_something_else(setting, tmp_path):
    for split in ("train", "val"):
        for name, pixels in (
            ("images", np.zeros((8, 8, 3), np.uint8)),
            ("semseg", np.tile(np.uint8([0, 255]), (8, 4))),
        ):
            for number in range(3):
                miniature.write_png(tmp_path / split / name / f"{number}.png", pixels)
    own = {"data__name": "folder", "data__root": str(tmp_path), "tasks": "semseg", "data__semseg_classes": "2"}
    own |= {"data__train_examples": "none", "data__eval_examples": "none"}
    for policy in ("stop", "skip"):
        fields(setting, **own, data__on_bad_file=policy)
        with pytest.raises(DataError, match=r"^data: semseg: the maps hold one class and 255 alone") as caught:
            check_data(setting)
        assert "on_bad_file" not in str(caught.value)
    fields(setting, **own, data__mask_ignore="false")
    assert check_data(setting) == "folder: train 3, val 3; 6 samples read"
    (tmp_path / "val/semseg/1.png").write_bytes(b"")
    with pytest.raises(DataError, match=r"^data: folder: val: .*1\.png is not an image file"):
        check_data(setting)
    fields(setting, **own, data__mask_ignore="false", data__on_bad_file="skip")
    assert "5 samples read, 1 bad ones will be passed over" in check_data(setting)


def test_a_data_set_that_is_not_there(setting, tmp_path):
    fields(setting, data__name="pascal", data__root=str(tmp_path), tasks="semseg")
    lines = []
    assert run_checks(setting, lines.append, [(check_data, ())]) == ["data"]
    assert len(lines) == 1
    assert str(tmp_path) in lines[0]


def test_a_step_that_does_not_fit(trial, monkeypatch):
    assert "for each of 8 devices" in check_memory(trial) or jax.local_device_count() != 8
    monkeypatch.setattr(trial_module, "memory_limit", lambda: (10, "each H200"))
    with pytest.raises(
        ConfigError, match=r"^memory: .* GiB per device for a step, and each H200 has 0\.00 GiB; lower batch"
    ):
        check_memory(trial)


def test_one_step_and_what_is_not_finite(trial):
    check_memory(trial)
    before = trial.trainer.state[0]["w"]
    assert check_step(trial).startswith("loss 5, gradient 5,")
    assert before.is_deleted()
    np.testing.assert_array_equal(trial.trainer.state[0]["w"], np.zeros(3))
    trial.trainer = Trial(np.inf)
    check_memory(trial)
    with pytest.raises(ConfigError, match=r"^step: grad_norm, loss is not finite on the first batch; look at"):
        check_step(trial)


def test_a_step_that_the_devices_refuse(trial):
    def refuse(*_):
        raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory\nmore")

    trial.program = refuse, ()
    with pytest.raises(
        ConfigError, match=r"could not run it \(RESOURCE_EXHAUSTED: Out of memory more\); lower batch_size"
    ):
        check_step(trial)


@pytest.mark.parametrize("named", [True, False])
def test_save_and_restore_leave_nothing(trial, tmp_path, named):
    trial.workdir = tmp_path / "run" if named else None
    assert "equal bit for bit" in check_checkpoint(trial)
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_that_changes_what_is_saved(trial, tmp_path, monkeypatch):
    trial.workdir = tmp_path

    def restore(self, step, like, sharding):
        return jax.tree.map(lambda x: x + 1, like), None

    monkeypatch.setattr(Checkpointer, "restore", restore)
    with pytest.raises(CheckpointError, match=r"is not what was saved; do not train on this file system"):
        check_checkpoint(trial)
    assert list(tmp_path.iterdir()) == []


def test_what_builds_on_a_failure_is_not_tried(setting):
    def check_first(_):
        raise ConfigError("first: broken;\n fix it")

    def check_second(_):
        raise RuntimeError("never called")

    def check_third(_):
        return "fine"

    lines = []
    checks = [(check_first, ()), (check_second, ("first",)), (check_third, ()), (check_second, ("second",))]
    assert run_checks(setting, lines.append, checks) == ["first"]
    assert lines == [
        "FAIL  first      first: broken; fix it",
        "-     second     not tried, first must pass first",
        "ok    third      fine",
        "-     second     not tried, second must pass first",
    ]


def test_every_check_waits_for_checks_before_it():
    names = [name_of(check) for check, _ in CHECKS]
    assert len(names) == len(set(names)) == 9
    for place, (check, needs) in enumerate(CHECKS):
        assert set(needs) <= set(names[:place])
        assert check.__doc__


def test_the_command_prints_lines_and_ends_with_two(tmp_path, capsys):
    weights = f"--config.backbone.weights={tmp_path / 'none.safetensors'}"
    code = cli.execute(preflight_command.main, [SMOKE, f"--workdir={tmp_path / 'run'}", weights, "--samples=2"])
    lines = capsys.readouterr().out.splitlines()
    assert code == cli.USER_ERROR
    assert [line.split()[0] for line in lines] == ["ok", "ok", "ok", "FAIL", "ok", "-", "-", "-", "-", "preflight:"]
    assert "weights: no file" in lines[3]
    assert lines[-1] == "preflight: failed: weights"
    assert list(tmp_path.iterdir()) == []


def test_mistakes_on_the_command_line(capsys):
    assert cli.execute(preflight_command.main, [SMOKE, "--samples=0"]) == cli.USER_ERROR
    assert "--samples: got 0, expected at least 1" in capsys.readouterr().err


@pytest.mark.slow
def test_the_whole_of_it(tmp_path):
    command = [sys.executable, "-m", "ditask_jax.preflight", SMOKE, f"--workdir={tmp_path / 'run'}"]
    environment = dict(os.environ, JAX_NUM_CPU_DEVICES="2")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert [line.split()[:2] for line in lines[:-1]] == [["ok", name_of(check)] for check, _ in CHECKS]
    assert lines[-1] == "preflight: all passed"
    assert list(tmp_path.iterdir()) == []
