"""NaN and infinity, wherever they come from: caught in the step they appear in, named, and nothing lost."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.config import load_config
from ditask_jax.nn import flatten
from ditask_jax.nn.state import unflatten
from ditask_jax.tasks import Depth
from ditask_jax.training import trainer as trainers
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.metrics_log import read_metrics
from ditask_jax.training.nonfinite import BATCHES_KEPT, SKIPS_IN_A_ROW, NonFiniteError, make_diagnosis
from ditask_jax.training.sharding import place_batch, spread_flag
from ditask_jax.training.step import Turn, make_gradients, make_train_step
from ditask_jax.training.trainer import Trainer
from tests.training.small import OPTIONS, two_stages

BAD_STEP = 3
# Both executions, shared and of a task; more layers of the same kinds are only more to compile.
FEW_LAYERS = ("method.shared_layers=qkv,fc2", "method.task_layers=fc2")
# What the first value of a depth label stands for: (change of the loss, factor of its gradient).
MARKS = {
    "loss nan": (1001.0, np.nan, 1.0),
    "loss inf": (1002.0, np.inf, 1.0),
    "gradient nan": (1003.0, 0.0, np.nan),
    "gradient inf": (1004.0, 0.0, np.inf),
}


@jax.custom_vjp
def _inject(value, added, factor):
    del factor
    return value + added


_inject.defvjp(lambda value, added, factor: (value + added, factor), lambda factor, g: (g * factor, None, None))


class MarkedDepth(Depth):
    """Depth whose loss or gradient breaks where a label says so."""

    def loss(self, logits, label, valid=None):
        mark = label.reshape(-1)[0]
        added, factor = jnp.float32(0), jnp.float32(1)
        for code, change, scale in MARKS.values():
            added, factor = jnp.where(mark == code, change, added), jnp.where(mark == code, scale, factor)
        return _inject(super().loss(logits, label, valid), added, factor)


@pytest.fixture(scope="module")
def trainer():
    """A trainer whose depth task can be broken by its labels, and whose images are floats, which can be NaN."""
    options = ("mesh.data=1", "total_steps=6", "checkpoint_every_steps=1", "checkpoint.keep=9", "data.eval_examples=1")
    config = load_config("configs/smoke.py", (*options, *OPTIONS, *FEW_LAYERS))
    with two_stages():
        made = Trainer(config)
    tasks = tuple(MarkedDepth() if task.name == "depth" else task for task in made.tasks)
    parts = made.experiment.parts
    made._train_step = make_train_step(parts, tasks, made.optimizer, made.mesh, config.seed)
    made._diagnose = make_diagnosis(make_gradients(parts, tasks, made.mesh, config.seed))
    made.evaluate = lambda: pytest.fail("a run that is stopped is not evaluated")
    return made


class _Poisoned:
    """Batches of which some are changed on their way to the trainer."""

    def __init__(self, batches, first, changes):
        self._batches, self._number, self._changes = batches, first, changes

    def __next__(self):
        batch = next(self._batches)
        batch["image"] = batch["image"].astype(np.float32)
        self._number += 1
        self._changes.get(self._number, lambda batch: None)(batch)
        return batch

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._batches.close()


def _fit(trainer, folder, changes, monkeypatch, policy="stop", poison_state=lambda tree: tree):
    monkeypatch.setattr(
        trainers,
        "train_batches",
        lambda *args, start_step, **options: _Poisoned(
            real(*args, start_step=start_step, **options), start_step, changes
        ),
    )
    with trainer.config.unlocked():
        trainer.config.on_nonfinite = policy
    trainable, opt_state, stats = trainer._initial_state()
    trainer.state, trainer.step, trainer.stopped, trainer._skipped = (
        (poison_state(trainable), opt_state, stats),
        0,
        False,
        0,
    )
    return trainer.fit(folder)


real = trainers.train_batches


def _turn(trainer, number):
    """As the trainer gives it to a step, so that both take the same program."""
    placed = [trainer._place(value) for value in (np.int32(number), np.bool_(False))]
    return Turn(placed[0], spread_flag(False, trainer.mesh), placed[1])


def _set(*path, value):
    def change(batch):
        array = batch
        for name in path:
            array = array[name]
        array.reshape(-1)[0] = value

    return change


CASES = {
    "image nan": (_set("image", value=np.nan), "batch image"),
    "image inf": (_set("image", value=np.inf), "batch image"),
    "label nan": (_set("labels", "depth", value=np.nan), "batch labels/depth"),
    "label inf": (_set("labels", "depth", value=-np.inf), "batch labels/depth"),
    "loss nan": (_set("labels", "depth", value=1001.0), "the loss of depth is nan"),
    "loss inf": (_set("labels", "depth", value=1002.0), "the loss of depth is inf"),
    "gradient nan": (_set("labels", "depth", value=1003.0), "not finite: gradient of "),
    "gradient inf": (_set("labels", "depth", value=1004.0), "not finite: gradient of "),
}


@pytest.mark.parametrize("case", CASES)
def test_caught_in_its_step_and_named(trainer, tmp_path, monkeypatch, case):
    change, named = CASES[case]
    with pytest.raises(NonFiniteError) as caught:
        _fit(trainer, tmp_path, {BAD_STEP: change}, monkeypatch)
    message = str(caught.value)
    assert message.startswith(f"training: step {BAD_STEP}: not finite: "), message
    assert named in message
    if case.startswith("gradient"):
        assert "(task depth)" in message
    assert "\n" not in message
    assert f"the checkpoint of step {BAD_STEP - 1} is whole" in message or BAD_STEP - 2 in _steps(tmp_path)
    # The parameters are those before the step, and so is the newest checkpoint.
    with Checkpointer(tmp_path / "checkpoints", read_only=True) as checkpointer:
        like = dict(zip(("trainable", "opt_state", "stats"), trainer.state, strict=True))
        step, state, _ = checkpointer.restore_latest_verified(like)
    assert step == BAD_STEP - 1
    jax.tree.map(np.testing.assert_array_equal, state, jax.tree.map(np.asarray, like))
    [path] = (tmp_path / "nonfinite").iterdir()
    with np.load(path) as kept:
        assert path.name == f"step_{BAD_STEP:06d}.npz"
        assert set(kept) == {"image", "labels/semseg", "labels/depth", "valid", "index", "found"}
        assert json.loads(str(kept["found"]))["step"] == BAD_STEP
        if case.startswith(("image", "label")):
            array = kept["image"] if case.startswith("image") else kept["labels/depth"]
            assert not np.isfinite(array).all()
    assert [row["step"] for row in read_metrics(tmp_path)] == list(range(1, BAD_STEP))


def _steps(folder):
    return sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())


@pytest.mark.parametrize("value", [np.nan, np.inf], ids=str)
def test_a_bad_parameter_is_caught_wherever_it_is(trainer, value):
    """Every trainable leaf, one after another, thetas among them: the step says so and changes nothing."""
    trainable, opt_state, stats = jax.tree.map(np.asarray, trainer._initial_state())
    with real(
        trainer.train_source, [task.label_spec for task in trainer.tasks], 32, trainer.config.batch_size
    ) as batches:
        batch = next(batches)
    batch["image"] = batch["image"].astype(np.float32)
    placed = place_batch({name: batch[name] for name in ("image", "labels", "valid")}, trainer.mesh)
    flat = flatten(trainable)
    missed, changed = [], []
    for name, leaf in flat.items():
        poisoned = leaf.copy()
        poisoned.reshape(-1)[-1] = value
        state = unflatten(flat | {name: poisoned}, trainable), opt_state, stats
        *after, metrics = trainer._train_step(*map(trainer._place, state), trainer.frozen, placed, _turn(trainer, 0))
        missed += [name] if bool(metrics["finite"]) else []
        same = jax.tree.map(lambda a, b: np.array_equal(a, b, equal_nan=True), tuple(after), state)
        changed += [] if jax.tree.all(same) else [name]
    assert len(flat) > 30
    assert any("theta" in name for name in flat)
    assert (missed, changed) == ([], [])


def test_a_bad_theta_is_named(trainer, tmp_path, monkeypatch):
    def poison(tree):
        flat = flatten(tree)
        name = next(name for name in flat if "theta" in name)
        return unflatten(flat | {name: flat[name].at[..., 0].set(jnp.nan)}, tree)

    message = r"step 1: not finite: parameter backbone/\S*theta\S*; .*no checkpoint yet"
    with pytest.raises(NonFiniteError, match=message):
        _fit(trainer, tmp_path, {}, monkeypatch, poison_state=poison)


def _by_hand(trainer, count, without=()):
    """The state behind so many steps, each with the batch and random numbers of its own, but for some left out."""
    state, config = trainer._initial_state(), trainer.config
    with real(
        trainer.train_source, [task.label_spec for task in trainer.tasks], config.image_size, config.batch_size,
        config.seed, trainers.build_augmentation(config),
    ) as batches:  # fmt: skip
        for number in range(count):
            batch = next(batches)
            batch["image"] = batch["image"].astype(np.float32)
            if number + 1 not in without:
                placed = place_batch({name: batch[name] for name in ("image", "labels", "valid")}, trainer.mesh)
                *state, _ = trainer._train_step(*state, trainer.frozen, placed, _turn(trainer, number))
    return tuple(state)


def test_skipping_leaves_everything_as_it_was_and_counts(trainer, tmp_path, monkeypatch, capsys):
    """A run with a bad step in the middle ends like one whose optimiser never saw that step."""
    monkeypatch.setattr(trainer, "evaluate", lambda: type("Nothing", (), {"metrics": lambda self: {}})())
    bad = {2: CASES["loss nan"][0], 4: CASES["gradient inf"][0]}
    _fit(trainer, tmp_path, bad, monkeypatch, policy="skip")
    rows = read_metrics(tmp_path)
    assert [row["train/skipped"] for row in rows] == [0, 1, 1, 2, 2, 2]
    assert rows[1]["train/loss"] is None
    assert len(list((tmp_path / "nonfinite").iterdir())) == 2
    assert "step left out, 2 so far" in capsys.readouterr().err
    ours = [np.asarray(leaf) for leaf in jax.tree.leaves(trainer.state)]
    assert trainer._skipped == 2
    state = _by_hand(trainer, 6, bad)
    for a, b in zip(ours, jax.tree.leaves(tuple(state)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_too_many_steps_in_a_row_end_the_run(trainer, tmp_path, monkeypatch):
    always = dict.fromkeys(range(1, 100), CASES["loss nan"][0])
    monkeypatch.setattr(trainer, "total_steps", SKIPS_IN_A_ROW + 5)
    monkeypatch.setattr(trainer, "draw", lambda path: path)
    monkeypatch.setattr(trainer, "_diagnose", lambda *_: ({}, {"depth": np.float32(np.nan)}, {}))
    message = rf"step {SKIPS_IN_A_ROW}: .* {SKIPS_IN_A_ROW} steps in a row were left out"
    with pytest.raises(NonFiniteError, match=message):
        _fit(trainer, tmp_path, always, monkeypatch, policy="skip")
    assert len(list((tmp_path / "nonfinite").iterdir())) == BATCHES_KEPT


def test_a_full_disk_does_not_hide_what_went_wrong(trainer, tmp_path, monkeypatch):
    from ditask_jax.training import nonfinite

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(nonfinite, "atomic_write", full)
    with pytest.raises(NonFiniteError, match=r"loss of depth is nan.*could not be written \(No space left on device\)"):
        _fit(trainer, tmp_path, {1: CASES["loss nan"][0]}, monkeypatch)


@pytest.fixture
def without_pauses(trainer, monkeypatch):
    """No checkpoint and no evaluation on the way, so that a step is always under way behind the one looked at."""
    monkeypatch.setattr(trainer, "config", trainer.config.copy_and_resolve_references())
    with trainer.config.unlocked():
        trainer.config.checkpoint_every_steps = None
    taken = []
    take = trainer._take
    monkeypatch.setattr(trainer, "_take", lambda step, turn: taken.append(step.number) or take(step, turn))
    return taken


def test_a_step_under_way_behind_a_bad_one_changes_nothing(trainer, without_pauses, tmp_path, monkeypatch):
    """The run ends with the state of the last good step, names the bad one and keeps its batch."""
    with pytest.raises(NonFiniteError, match=r"step 3: not finite: the loss of depth is nan.*those of step 2"):
        _fit(trainer, tmp_path, {3: CASES["loss nan"][0]}, monkeypatch)
    assert without_pauses == [0, 1, 2, 3], "the fourth step was under way"
    found = jax.tree.map(np.asarray, trainer.state)
    assert [path.name for path in (tmp_path / "nonfinite").iterdir()] == ["step_000003.npz"]
    assert [row["step"] for row in read_metrics(tmp_path)] == [1, 2]
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(_by_hand(trainer, 2)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_step_under_way_behind_one_left_out_is_taken_again(trainer, without_pauses, tmp_path, monkeypatch):
    monkeypatch.setattr(trainer, "evaluate", lambda: type("Nothing", (), {"metrics": lambda self: {}})())
    _fit(trainer, tmp_path, {2: CASES["loss nan"][0], 3: CASES["gradient inf"][0]}, monkeypatch, policy="skip")
    assert without_pauses == [0, 1, 2, 2, 3, 3, 4, 5]
    rows = read_metrics(tmp_path)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [row["train/skipped"] for row in rows] == [0, 1, 2, 2, 2, 2]
    found = jax.tree.map(np.asarray, trainer.state)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(_by_hand(trainer, 6, (2, 3))), strict=True):
        np.testing.assert_array_equal(a, b)
