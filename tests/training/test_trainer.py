"""The trainer on the smoke configuration: resume, device counts, refusals, signals."""

import errno
import gc
import json
import os
import re
import shutil
import signal
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax import cli, train
from ditask_jax.config import load_config
from ditask_jax.data import train_batches
from ditask_jax.errors import CheckpointError, ConfigError, DataError
from ditask_jax.nn import flatten
from ditask_jax.training.build import build_experiment, build_tasks
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.mesh import make_mesh, place_batch
from ditask_jax.training.rundir import LATER_FIELDS, RunDir
from ditask_jax.training.step import make_loss
from ditask_jax.training.trainer import Trainer
from ditask_jax.training.writers import read_metrics, without_timings
from tests.training.small import OPTIONS, two_stages

# Few layers, and few of them adapted: what is tested is all the same, and the step compiles in a third of the time.
ONE_DEVICE = (*OPTIONS, "mesh.data=1", "method.shared_layers=fc1", "method.task_layers=fc2")


@pytest.fixture(scope="module", autouse=True)
def small_backbone():
    with two_stages():
        yield


@pytest.fixture(scope="module")
def config():
    return load_config("configs/smoke.py", ONE_DEVICE)


@pytest.fixture(scope="module")
def straight(config, tmp_path_factory):
    """An uninterrupted run: the trainer, its folder, its state as NumPy."""
    folder = tmp_path_factory.mktemp("straight")
    trainer = Trainer(config)
    trainer.fit(folder)
    return trainer, folder, jax.tree.map(np.asarray, trainer.state)


def _rows(folder):
    return [without_timings(row) for row in read_metrics(folder)]


def test_a_run_leaves_what_it_promises(straight):
    trainer, folder, _ = straight
    rows = _rows(folder)
    assert [row["step"] for row in rows] == list(range(1, trainer.total_steps + 1))
    assert {"train/loss", "train/grad_norm", "train/learning_rate", "train/tasks/semseg/loss"} <= set(rows[0])
    assert {"val/tasks/semseg/mIoU", "val/tasks/depth/rmse"} <= set(rows[-1])
    table = trainer.report(RunDir(folder), trainer.evaluate())
    assert "semseg" in table
    assert "delta_m" in table
    content = json.loads((folder / "evaluation.json").read_text())
    assert content["examples"] == len(trainer.eval_source)
    assert content["step"] == trainer.total_steps
    assert (folder / "figures" / "evaluation.png").stat().st_size > 1000
    assert (folder / "config.json").is_file()


def _resumed(config, straight, folder, stop_after, monkeypatch):
    """The same training, stopped by SIGTERM after a step and started again by a new trainer's state."""
    trainer = straight[0]
    trainer.state, trainer.step, trainer.stopped = trainer._initial_state(), 0, False
    steps = trainer._steps

    def interrupted(*arguments):
        for step, values in steps(*arguments):
            if step == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step, values

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_steps", interrupted)
        trainer.fit(folder)
    assert trainer.stopped
    # The step behind may have been under way.
    assert trainer.step in (stop_after, stop_after + 1)
    trainer.state, trainer.step, trainer.stopped = trainer._initial_state(), 0, False
    trainer.fit(folder)
    return trainer


@pytest.mark.parametrize("stop_after", [1, 2, 3])
def test_stopping_and_going_on_is_bit_exact(config, straight, tmp_path, stop_after, monkeypatch):
    _, folder, expected = straight
    trainer = _resumed(config, straight, tmp_path, stop_after, monkeypatch)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, trainer.state), expected)
    assert _rows(tmp_path) == _rows(folder)


def test_a_finished_run_is_not_trained_again(straight, capsys):
    trainer, folder, expected = straight
    trainer.state, trainer.step, trainer.stopped = trainer._initial_state(), 0, False
    before = _rows(folder)
    trainer.fit(folder)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, trainer.state), expected)
    assert _rows(folder) == before


def test_another_configuration_is_refused(straight):
    _, folder, _ = straight
    other = load_config("configs/smoke.py", (*ONE_DEVICE, "optimizer.learning_rate=0.2"))
    with pytest.raises(CheckpointError, match=r"another configuration: optimizer.learning_rate: 0.1 -> 0.2"):
        RunDir(folder).claim(other)


def test_every_difference_is_shown_and_allowed_ones_pass(straight, tmp_path):
    _, folder, _ = straight
    shutil.copy(folder / "config.json", tmp_path)
    changes = [*ONE_DEVICE, "seed=5", "total_steps=7", "data.hflip=0.25", "optimizer.weight_decay=0.1"]
    with pytest.raises(CheckpointError) as caught:
        RunDir(tmp_path).claim(load_config("configs/smoke.py", changes))
    for name in ("seed: 0 -> 5", "total_steps: 6 -> 7", "data.hflip: 0.5 -> 0.25", "weight_decay: 0.05 -> 0.1"):
        assert name in str(caught.value)
    allowed = re.search(r"checkpoint.allow_changed=(\S+)$", str(caught.value))[1]
    RunDir(tmp_path).claim(load_config("configs/smoke.py", [*changes, f"checkpoint.allow_changed={allowed}"]))
    assert RunDir(tmp_path).load_config().total_steps == 7


def test_a_run_from_before_a_field_existed_goes_on(straight, tmp_path):
    _, folder, _ = straight
    old = json.loads((folder / "config.json").read_text())
    for name in LATER_FIELDS:
        *groups, field = name.split(".")
        group = old
        for part in groups:
            group = group[part]
        del group[field]
    (tmp_path / "config.json").write_text(json.dumps(old))
    RunDir(tmp_path).claim(load_config("configs/smoke.py", ONE_DEVICE))
    (tmp_path / "config.json").write_text(json.dumps(old))
    with pytest.raises(CheckpointError, match=r"optimizer.accumulate: 1 -> 2"):
        RunDir(tmp_path).claim(load_config("configs/smoke.py", (*ONE_DEVICE, "optimizer.accumulate=2")))


def test_fields_that_change_no_number_may_differ(straight):
    _, folder, _ = straight
    RunDir(folder).claim(load_config("configs/smoke.py", (*ONE_DEVICE, "log_every_steps=3", "checkpoint.keep=5")))


def test_other_frozen_weights_are_refused(straight, tmp_path):
    trainer, folder, _ = straight
    frozen = trainer.frozen
    try:
        trainer.frozen = jax.tree.map(lambda value: value + 1, frozen)
        with (
            Checkpointer(folder / "checkpoints", read_only=True) as checkpointer,
            pytest.raises(CheckpointError, match="other frozen weights"),
        ):
            trainer.restore(checkpointer)
    finally:
        trainer.frozen = frozen


def _afresh(trainer):
    trainer.state, trainer.step, trainer.stopped = trainer._initial_state(), 0, False
    return trainer


def test_each_program_is_compiled_once(straight, tmp_path):
    """For one shape of batch: straight, resumed and evaluated in between."""
    trainer = _afresh(straight[0])
    trainer.fit(tmp_path)
    assert trainer._train_step._cache_size() == 1
    assert trainer._eval_step._cache_size() == 1


def test_nothing_is_copied_between_host_and_device_inside_a_step(straight, tmp_path, monkeypatch):
    trainer = _afresh(straight[0])
    step, taken = trainer._train_step, []

    def guarded(*args):
        with jax.transfer_guard("disallow"):
            taken.append(args[-1])
            return step(*args)

    monkeypatch.setattr(trainer, "_train_step", guarded)
    trainer.fit(tmp_path)
    assert len(taken) == trainer.total_steps
    with pytest.raises(RuntimeError, match="Disallowed host-to-device"), jax.transfer_guard("disallow"):
        jnp.sin(np.ones(3, np.float32))


class _Source:
    """A source of which one reading, counted over the whole run, goes wrong."""

    def __init__(self, source, bad_reading, fault):
        self._source, self._left, self._fault = source, bad_reading, fault

    def __len__(self):
        return len(self._source)

    def __getitem__(self, index):
        self._left -= 1
        if self._left == 0:
            self._fault()
        return self._source[index]


def test_a_data_file_that_gets_lost_stops_the_run_and_leaves_its_checkpoints(straight, tmp_path, monkeypatch):
    trainer = _afresh(straight[0])

    def lost():
        raise FileNotFoundError(2, "No such file or directory", "/data/images/0007.png")

    # Two batches ahead at most: readings of step 5 happen before step 3 is done.
    monkeypatch.setattr(trainer, "train_source", _Source(trainer.train_source, 5 * 8 - 1, lost))
    with pytest.raises(DataError, match=r"0007\.png") as caught:
        trainer.fit(tmp_path)
    assert "\n" not in str(caught.value)
    with Checkpointer(tmp_path / "checkpoints", read_only=True) as checkpointer:
        assert trainer.restore(checkpointer) == 4
    assert [row["step"] for row in _rows(tmp_path)] == [1, 2, 3, 4]


def test_a_stalled_input_pipeline_is_reported_with_its_batch(straight, tmp_path, monkeypatch, capsys):
    """Batch 4 does not come before it has been reported."""
    trainer = _afresh(straight[0])
    reported, stalled = threading.Event(), trainer._stalled

    def report(progress):
        def tell(what, seconds):
            stalled(progress)(what, seconds)
            if what.startswith("batch 4 "):
                reported.set()

        return tell

    monkeypatch.setattr(trainer, "_stalled", report)
    monkeypatch.setattr(trainer, "train_source", _Source(trainer.train_source, 5 * 8 - 1, lambda: reported.wait(300)))
    monkeypatch.setattr(trainer, "config", trainer.config.copy_and_resolve_references())
    with trainer.config.unlocked():
        trainer.config.data.stall_seconds = 0.3
    trainer.fit(tmp_path)
    assert reported.is_set()
    assert re.search(r"batch 4 \(step 5\): \d+ s waiting for 'scenes'; look at the storage", capsys.readouterr().err)
    assert trainer.step == trainer.total_steps


@pytest.mark.parametrize(("code", "text"), [(errno.ENOSPC, "No space left"), (errno.EROFS, "Read-only file system")])
def test_a_disk_that_stops_taking_files_leaves_the_checkpoint_before(straight, tmp_path, monkeypatch, code, text):
    trainer = _afresh(straight[0])
    write, begun = Checkpointer._write_arrays, []

    def refuse(self, step, arrays):
        write(self, step, arrays)
        begun.append(step)
        if len(begun) == 2:
            raise OSError(code, os.strerror(code), str(self.directory))

    with monkeypatch.context() as patch:
        patch.setattr(Checkpointer, "_write_arrays", refuse)
        with pytest.raises(CheckpointError, match=rf"step 4 could not be saved .*{text}.*the one of step 2 is whole"):
            trainer.fit(tmp_path)
    # What the failed save had written is gone: on a full disk it would stand in the way of the next.
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2"]
    _afresh(trainer).fit(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, trainer.state), straight[2])
    assert _rows(tmp_path) == _rows(straight[1])


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, capsys):
    file = tmp_path / "file"
    file.write_text("in the way")
    command = ["--config=configs/smoke.py", "--config.mesh.data=1", f"--workdir={file}/run"]
    assert cli.execute(train.main, command) == cli.USER_ERROR
    error = capsys.readouterr().err
    assert str(file) in error
    assert error.count("\n") == 1


def test_restores_onto_another_number_of_devices(straight):
    _, folder, expected = straight
    other = Trainer(load_config("configs/smoke.py", (*ONE_DEVICE, "mesh.data=4")))
    with Checkpointer(folder / "checkpoints", read_only=True) as checkpointer:
        assert other.restore(checkpointer) == other.total_steps
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, other.state), expected)
    assert {len(leaf.sharding.device_set) for leaf in jax.tree.leaves(other.state)} == {4}


def test_the_best_is_kept_by_a_name_that_exists(straight, tmp_path, monkeypatch):
    trainer = _afresh(straight[0])
    monkeypatch.setattr(trainer, "config", trainer.config.copy_and_resolve_references())
    with trainer.config.unlocked():
        trainer.config.eval_every_steps, trainer.config.checkpoint_every_steps = 1, None
        trainer.config.checkpoint.keep = 1
        trainer.config.checkpoint.best_metric, trainer.config.checkpoint.best_mode = "val/tasks/depth/rmse", "min"
    monkeypatch.setattr(trainer, "draw", lambda path: path)
    trainer.fit(tmp_path / "good")
    errors = {row["step"]: row["val/tasks/depth/rmse"] for row in _rows(tmp_path / "good")}
    best = min(errors, key=lambda step: (errors[step], -step))
    kept = sorted(int(path.name) for path in (tmp_path / "good" / "checkpoints").iterdir())
    assert kept == sorted({best, trainer.total_steps})
    with trainer.config.unlocked():
        trainer.config.checkpoint.best_metric = "val/tasks/depth/rmsee"
    with pytest.raises(ConfigError, match=r"checkpoint.best_metric: .*Did you mean 'val/tasks/depth/rmse'"):
        _afresh(trainer).fit(tmp_path / "bad")
    # What was trained is there to go on from.
    with Checkpointer(tmp_path / "bad" / "checkpoints", read_only=True) as checkpointer:
        assert checkpointer.latest() == 1


@pytest.mark.slow  # test_parallel.py has a smaller model on one and eight devices
def test_eight_devices_train_like_one(straight):
    """The loss and its gradient over eight devices equal those on one, to float32 rounding."""
    trainer = straight[0]
    config = trainer.config
    specs = [task.label_spec for task in trainer.tasks]
    with train_batches(trainer.train_source, specs, config.image_size, config.batch_size) as batches:
        batch = next(batches)
    parts = trainer.experiment.parts
    key = jax.random.key(1)
    found = {}
    for devices in (1, 8):
        mesh = make_mesh(devices)
        loss = make_loss(parts, trainer.tasks, jnp.float32, mesh)
        placed = place_batch({name: batch[name] for name in ("image", "labels", "valid")}, mesh)
        gradient_of = jax.jit(jax.value_and_grad(loss, has_aux=True))
        (total, _), gradient = gradient_of(parts.trainable, parts.frozen, parts.stats, placed, key)
        found[devices] = total, gradient
    np.testing.assert_allclose(found[1][0], found[8][0], rtol=1e-6)
    one, eight = flatten(found[1][1]), flatten(found[8][1])
    for path, gradient in one.items():
        if path.endswith("widen/bias"):
            continue  # in front of BatchNorm: zero but for rounding
        limit = 5e-5 * float(jnp.abs(gradient).max())
        assert float(jnp.abs(gradient - jax.device_get(eight[path])).max()) <= limit, path


def test_a_batch_must_split_over_the_devices():
    with pytest.raises(ConfigError, match=r"batch_size: got 6, expected a multiple of the 4 devices; use 4 or 8"):
        Trainer(load_config("configs/smoke.py", ("batch_size=6", "mesh.data=4")))


def _bytes(arrays) -> list[int]:
    """Bytes on each device, of arrays that are spread over them in any way."""
    found = dict.fromkeys(jax.devices(), 0)
    for array in arrays:
        for shard in array.addressable_shards:
            found[shard.device] += shard.data.nbytes
    return list(found.values())


@pytest.mark.parametrize(
    ("given", "spread"),
    [(False, (1, 2, 8)), pytest.param(True, (1, 8), marks=pytest.mark.slow)],
    ids=["configured", "model given"],
)
def test_no_device_holds_more_than_its_share(given, spread):
    """With the model built from a configuration, or handed over: it is placed once, and leaves nothing behind."""
    held = {}
    for fsdp in spread:
        config = load_config("configs/smoke.py", (f"mesh.fsdp={fsdp}",))
        gc.collect()
        before = {id(array) for array in jax.live_arrays()}
        trainer = Trainer(build_experiment(config).model, build_tasks(config), config) if given else Trainer(config)
        gc.collect()
        new = _bytes(array for array in jax.live_arrays() if id(array) not in before)
        assert max(new) - min(new) <= 1000
        held[fsdp] = _bytes(jax.tree.leaves(trainer.frozen))
        total = sum(array.nbytes for array in jax.tree.leaves(trainer.frozen))
        # What trains, the optimiser's state and statistics are small, and on every device.
        assert max(new) <= held[fsdp][0] + 1.1 * sum(array.nbytes for array in jax.tree.leaves(trainer.state))
        # Small arrays stay whole.
        assert total / fsdp <= max(held[fsdp]) <= 1.2 * total / fsdp


def test_more_devices_than_there_are():
    with pytest.raises(ConfigError, match=r"mesh.data: got 64 devices, expected 1 to 8"):
        make_mesh(64)
