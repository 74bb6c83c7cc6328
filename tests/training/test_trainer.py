"""The trainer on the smoke configuration: resume, device counts, refusals, signals."""

import json
import os
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.config import load_config
from ditask_jax.data import train_batches
from ditask_jax.errors import CheckpointError, ConfigError
from ditask_jax.nn import flatten
from ditask_jax.training.mesh import make_mesh, place_batch
from ditask_jax.training.rundir import RunDir
from ditask_jax.training.step import make_loss
from ditask_jax.training.trainer import NonFiniteError, Trainer
from ditask_jax.training.writers import read_metrics, without_timings

ONE_DEVICE = ("mesh.data=1",)


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

    def interrupted(start, progress):
        for step, values in steps(start, progress):
            if step == stop_after:
                os.kill(os.getpid(), signal.SIGTERM)
            yield step, values

    with monkeypatch.context() as patch:
        patch.setattr(trainer, "_steps", interrupted)
        trainer.fit(folder)
    assert trainer.stopped
    assert trainer.step == stop_after
    trainer.state, trainer.step, trainer.stopped = trainer._initial_state(), 0, False
    trainer.fit(folder)
    return trainer


@pytest.mark.parametrize("stop_after", [1, 3, 5])
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


def test_fields_that_change_no_number_may_differ(straight):
    _, folder, _ = straight
    RunDir(folder).claim(load_config("configs/smoke.py", (*ONE_DEVICE, "log_every_steps=3", "checkpoint.keep=5")))


def test_other_frozen_weights_are_refused(straight, tmp_path):
    trainer, folder, _ = straight
    from ditask_jax.training.checkpoints import Checkpointer

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


def test_a_loss_that_is_not_finite_stops_and_names_the_task(straight, tmp_path, monkeypatch):
    trainer = straight[0]
    trainer.state, trainer.step, trainer.stopped = trainer._initial_state(), 0, False
    step = trainer._train_step

    def poisoned(*args):
        *state, metrics = step(*args)
        return (*state, {**metrics, "tasks/depth/loss": jnp.float32(jnp.nan)})

    monkeypatch.setattr(trainer, "_train_step", poisoned)
    with pytest.raises(NonFiniteError, match=r"step 1: tasks/depth/loss is not finite"):
        trainer.fit(tmp_path)


def test_eight_devices_train_like_one(straight):
    """The loss and its gradient over eight devices equal those on one, to float32 rounding."""
    trainer = straight[0]
    config = trainer.config
    specs = [task.label_spec for task in trainer.tasks]
    with train_batches(trainer.train_source, specs, config.image_size, config.batch_size) as batches:
        batch = next(batches)
    parts = trainer.experiment.parts
    loss = make_loss(parts, trainer.tasks, jnp.float32)
    key = jax.random.key(1)
    found = {}
    for devices in (1, 8):
        placed = place_batch({name: batch[name] for name in ("image", "labels", "valid")}, make_mesh(devices))
        value = jax.jit(lambda trainable, placed: loss(trainable, parts.frozen, parts.stats, placed, key)[0])
        found[devices] = jax.value_and_grad(value)(parts.trainable, placed)
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


def test_more_devices_than_there_are():
    with pytest.raises(ConfigError, match=r"mesh.data: got 64 devices, expected 1 to 8"):
        make_mesh(64)
