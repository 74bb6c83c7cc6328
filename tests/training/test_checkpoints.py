"""Checkpoints: round trips, damage, mismatch, retention, and death at any moment."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from ditask_jax.errors import CheckpointError
from ditask_jax.training import checkpoints
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.manifest import MANIFEST_NAME, host_copy


def _state(seed=0):
    """A state such as the trainer's: optax's namedtuples, an empty group, several dtypes, a size of zero."""
    rng = np.random.default_rng(seed)
    trainable = {
        "blocks": {0: {"theta": jnp.asarray(rng.normal(size=(2, 7)), jnp.float32)}},
        "a.b c": jnp.ones(3) * seed,
    }
    transform = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3))
    stats = {"mean": jnp.asarray(rng.normal(size=4), jnp.bfloat16), "flag": jnp.array([True, False])}
    return {
        "trainable": trainable,
        "opt_state": transform.init(trainable),
        "stats": stats,
        "nothing": {},
        "none_of_them": jnp.zeros((0, 3)),
        "step": jnp.int32(seed),
    }


def _assert_equal(got, expected):
    assert jax.tree.structure(got) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def _saved(folder, *steps, **options):
    with Checkpointer(folder, **options) as checkpointer:
        for step in steps:
            checkpointer.save(step, _state(step), meta={"seed": step})


def _flip(path, position=None):
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 0x10
    path.write_bytes(bytes(content))


def _data_files(folder):
    return [path for path in folder.rglob("*") if path.is_file() and path.parent.name == "d"]


def test_round_trip_keeps_structure_dtypes_bits_and_meta(tmp_path):
    meta = {"config": {"lr": 1e-3}, "list": [1, None, "x"]}
    with Checkpointer(tmp_path / "new" / "folder") as checkpointer:
        assert checkpointer.latest() is None
        assert checkpointer.restore_latest_verified(_state()) is None
        checkpointer.save(3, _state(3), meta)
    with Checkpointer(tmp_path / "new" / "folder") as checkpointer:
        state, back = checkpointer.restore(3, jax.eval_shape(lambda: _state(0)))
        step, again, _ = checkpointer.restore_latest_verified(_state(0))
    assert step == 3
    assert back == meta
    _assert_equal(state, _state(3))
    _assert_equal(again, _state(3))


def test_restores_onto_another_sharding(tmp_path):
    mesh = jax.make_mesh((jax.device_count(),), ("data",), axis_types=(AxisType.Auto,))
    everywhere = NamedSharding(mesh, PartitionSpec())
    state = jax.device_put(_state(1), everywhere)
    _saved(tmp_path, 1)
    with Checkpointer(tmp_path) as checkpointer:
        back, _ = checkpointer.restore(1, state, sharding=everywhere)
    _assert_equal(back, state)
    assert all(leaf.sharding == everywhere for leaf in jax.tree.leaves(back))


def test_a_save_holds_the_values_of_its_moment(tmp_path):
    """The step donates its buffers right after `save` returns."""
    donating = jax.jit(lambda x: x + 1, donate_argnums=0)
    value = jnp.zeros(1000)
    with Checkpointer(tmp_path) as checkpointer:
        checkpointer.save(1, {"x": value})
        for _ in range(3):
            value = donating(value)
        back, _ = (checkpointer.wait(), checkpointer.restore(1, {"x": value}))[1]
    np.testing.assert_array_equal(back["x"], np.zeros(1000))


def test_keeps_the_newest_and_the_best(tmp_path):
    with Checkpointer(tmp_path, keep=2, best_metric="val/delta_m") as checkpointer:
        for step, score in enumerate([0.1, 0.7, float("nan"), 0.3, 0.2], 1):
            checkpointer.save(step, {"x": jnp.float32(step)}, metrics={"val/delta_m": score}, block=True)
        assert checkpointer.steps() == [2, 4, 5]
        assert (checkpointer.best(), checkpointer.latest()) == (2, 5)
    with Checkpointer(tmp_path, best_metric="val/delta_m", best_mode="min") as checkpointer:
        assert checkpointer.best() == 5


@pytest.mark.parametrize("what", ["data", "manifest", "no manifest", "no data", "truncated"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, what):
    _saved(tmp_path, 10, 20)
    manifest = tmp_path / "20" / MANIFEST_NAME
    if what == "data":
        for path in _data_files(tmp_path / "20"):
            _flip(path)
    elif what == "truncated":
        for path in _data_files(tmp_path / "20"):
            path.write_bytes(path.read_bytes()[:-20])
    elif what == "manifest":
        _flip(manifest, manifest.read_text().index("sha256") + 20)
    elif what == "no manifest":
        manifest.unlink()
    else:
        for path in _data_files(tmp_path / "20"):
            path.unlink()
    with Checkpointer(tmp_path, keep=2) as checkpointer:
        step, state, meta = checkpointer.restore_latest_verified(_state())
        assert (step, meta) == (10, {"seed": 10})
        _assert_equal(state, _state(10))
        [(rejected, reason)] = checkpointer.rejected
        assert rejected == 20
        assert str(tmp_path) in reason
        assert {"data": "is damaged", "truncated": "is damaged", "no data": "not readable"}.get(
            what, MANIFEST_NAME
        ) in reason
        with pytest.raises(CheckpointError, match="20"):
            checkpointer.restore(20, _state())
        checkpointer.save(15, _state(15), block=True)
        checkpointer.save(20, _state(21), block=True)
    with Checkpointer(tmp_path) as checkpointer:
        assert checkpointer.steps() == [15, 20]
        step, state, _ = checkpointer.restore_latest_verified(_state())
        assert (step, checkpointer.rejected) == (20, [])
        _assert_equal(state, _state(21))


def test_every_changed_leaf_is_caught_by_its_hash(tmp_path, monkeypatch):
    """A value that changes on its way through storage, with every container checksum intact."""
    _saved(tmp_path, 1)
    with Checkpointer(tmp_path) as checkpointer:
        read = Checkpointer._read
        for name, array in host_copy(_state(1)).items():
            if not array.size:
                continue

            def damaged(self, step, manifest, name=name):
                arrays = read(self, step, manifest)
                arrays[name] = np.frombuffer(
                    bytes([arrays[name].tobytes()[0] ^ 1]) + arrays[name].tobytes()[1:], arrays[name].dtype
                ).reshape(arrays[name].shape)
                return arrays

            monkeypatch.setattr(Checkpointer, "_read", damaged)
            with pytest.raises(CheckpointError, match="is damaged, its values do not match"):
                checkpointer.restore(1, _state())


def test_all_damaged_is_an_error_not_a_fresh_start(tmp_path):
    _saved(tmp_path, 10)
    for path in _data_files(tmp_path / "10"):
        _flip(path)
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(CheckpointError, match="none of 1 is whole"):
        checkpointer.restore_latest_verified(_state())


def test_a_killed_first_save_is_a_fresh_start_but_lost_manifests_are_not(tmp_path):
    _saved(tmp_path, 10, 20)
    (tmp_path / "20" / MANIFEST_NAME).unlink()
    (tmp_path / "10" / MANIFEST_NAME).unlink()
    with Checkpointer(tmp_path) as checkpointer:
        with pytest.raises(CheckpointError, match="none of 2 is whole"):
            checkpointer.restore_latest_verified(_state())
        shutil.rmtree(tmp_path / "10")
        assert checkpointer.restore_latest_verified(_state()) is None
        assert [step for step, _ in checkpointer.rejected] == [20]
        checkpointer.save(5, _state(5), block=True)
        assert checkpointer.restore_latest_verified(_state())[0] == 5
        assert not (tmp_path / "20").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s["trainable"].update(new=jnp.zeros(2)), "trainable/new is missing"),
        (lambda s: s["trainable"].pop("a.b c"), "trainable/a.b c is unexpected"),
        (
            lambda s: s["trainable"].update({"a.b c": jnp.zeros(4)}),
            r"trainable/a.b c is float32\[3\], expected float32\[4\]",
        ),
        (lambda s: s.update(step=jnp.float32(0)), r"step is int32\[\], expected float32\[\]"),
    ],
)
def test_another_structure_is_refused_and_never_passed_over(tmp_path, change, message):
    _saved(tmp_path, 10)
    like = _state()
    change(like)
    with Checkpointer(tmp_path) as checkpointer:
        for call in (checkpointer.restore_latest_verified, lambda like: checkpointer.restore(10, like)):
            with pytest.raises(CheckpointError, match=message):
                call(like)
        with pytest.raises(CheckpointError, match=r"no such checkpoint\. Known steps: 10"):
            checkpointer.restore(11, like)


def test_a_reader_beside_a_writer_changes_nothing(tmp_path):
    _saved(tmp_path, 10, 20)
    unfinished = tmp_path / "30.orbax-checkpoint-tmp"
    unfinished.mkdir()
    before = sorted(path for path in tmp_path.rglob("*"))
    with Checkpointer(tmp_path, read_only=True) as reader:
        assert reader.restore_latest_verified(_state())[0] == 20
        reader.save(40, _state(), block=True)
    assert sorted(path for path in tmp_path.rglob("*")) == before
    with Checkpointer(tmp_path):
        assert not unfinished.exists()


def test_a_disk_without_room_is_found_before_anything_is_written(tmp_path, monkeypatch):
    _saved(tmp_path, 10)
    before = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*"))
    usage = shutil.disk_usage(tmp_path)
    with Checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=5000))
        checkpointer.save(20, _state(20))
        text = r"step 20 could not .* \(No space left on device: 0\.\d MB needed, 0\.0 MB free\); the one of step 10"
        with pytest.raises(CheckpointError, match=text):
            checkpointer.wait()
        assert sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*")) == before
        monkeypatch.undo()
        checkpointer.save(20, _state(20), block=True)
        assert checkpointer.latest() == 20


@pytest.mark.parametrize(("where", "remains"), [("write_manifest", [10]), ("_remove_old", [10, 20])])
def test_a_save_that_fails_behind_its_arrays_leaves_what_counts_and_nothing_else(tmp_path, monkeypatch, where, remains):
    def fails(*_):
        raise OSError(5, "Input/output error")

    _saved(tmp_path, 10)
    with Checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(checkpoints.manifests if where == "write_manifest" else checkpointer, where, fails)
        checkpointer.save(20, _state(20))
        with pytest.raises(CheckpointError, match=rf"Input/output error\); the one of step {remains[-1]} is whole"):
            checkpointer.wait()
        assert sorted(int(path.name) for path in tmp_path.iterdir()) == checkpointer.steps() == remains
        assert checkpointer.restore_latest_verified(_state())[0] == remains[-1]


def test_a_storage_librarys_page_about_a_full_disk_becomes_a_line(tmp_path, monkeypatch):
    def full(*_):
        raise ValueError("RESOURCE_EXHAUSTED: Error writing a to b: No space left on device [spec='...']")

    with Checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(checkpointer, "_write_arrays", full)
        checkpointer.save(20, _state(20))
        with pytest.raises(CheckpointError, match=r"\(No space left on device\); no earlier one exists"):
            checkpointer.wait()


def test_failure_to_write_is_reported_once_and_leaves_the_older_one(tmp_path, monkeypatch):
    _saved(tmp_path, 10)

    def full(*_):
        raise OSError(28, "No space left on device")

    with Checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(checkpointer, "_write_arrays", full)
        checkpointer.save(20, _state(20))
        with pytest.raises(CheckpointError, match=r"step 20 .*No space left on device.*the one of step 10 is whole"):
            checkpointer.wait()
        checkpointer.wait()
        assert checkpointer.latest() == 10


def test_a_bug_in_saving_keeps_its_traceback_and_leaves_nothing_behind(tmp_path, monkeypatch):
    def wrong(*_):
        raise AttributeError("a bug")

    _saved(tmp_path, 10)
    with Checkpointer(tmp_path) as checkpointer:
        monkeypatch.setattr(checkpoints.manifests, "write_manifest", wrong)
        checkpointer.save(20, _state(20))
        with pytest.raises(AttributeError, match="a bug"):
            checkpointer.wait()
        assert [path.name for path in tmp_path.iterdir()] == ["10"]


def test_wrong_arguments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="keep: got 0"):
        Checkpointer(tmp_path, keep=0)
    with pytest.raises(ValueError, match="best_mode"):
        Checkpointer(tmp_path, best_mode="most")
    with Checkpointer(tmp_path) as checkpointer, pytest.raises(TypeError, match="state leaf x is a int"):
        checkpointer.save(1, {"x": 1})


_CHILD = textwrap.dedent(
    """
    import os, signal, sys
    import jax.numpy as jnp
    from ditask_jax.training import checkpoints
    folder, point, keep = sys.argv[1:]
    last = 0

    def reached(name):
        if name == point and last >= 3:
            os.kill(os.getpid(), signal.SIGKILL)

    checkpoints._reached = reached
    checkpointer = checkpoints.Checkpointer(folder, keep=int(keep))
    for step in range((checkpointer.latest() or 0) + 1, 10_000):
        last += 1
        checkpointer.save(step, {f"w{i}": jnp.full((2000,), step + i, jnp.float32) for i in range(20)}, {"step": step})
        print(step, flush=True)
    """
)


@pytest.mark.parametrize("point", ["begin", "arrays", "manifest", "end", "anywhere"])
def test_killed_at_any_point_the_newest_complete_one_restores(tmp_path, point):
    """Runs a saver that SIGKILLs itself at a named point (or is killed at some moment) and reads what it left."""
    command = [sys.executable, "-c", _CHILD, str(tmp_path), point, "1"]
    environment = dict(os.environ, JAX_NUM_CPU_DEVICES="1")
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment)
    with child:
        begun = 0
        for line in child.stdout:
            begun = int(line)
            if point == "anywhere" and begun == 7:
                child.send_signal(signal.SIGKILL)
    assert child.returncode == -signal.SIGKILL
    like = {f"w{i}": jnp.zeros(2000) for i in range(20)}
    with Checkpointer(tmp_path, keep=1) as checkpointer:
        step, state, meta = checkpointer.restore_latest_verified(like)
        assert meta == {"step": step}
        assert step >= begun - 2
        for i in range(20):
            np.testing.assert_array_equal(state[f"w{i}"], step + i)
        checkpointer.save(step + 1, state, block=True)
        assert checkpointer.latest() == step + 1
    # Nothing but the newest is left, whatever the killed process had begun.
    assert {path.name for path in tmp_path.iterdir()} <= {str(step + 1), str(step + 2)}


@pytest.mark.parametrize("name", ["caf\udce9", "cafe\u0301", "two\nlines", "100 % {x} $y", "a[1]", "a\\b", "a*"])
def test_a_folder_of_any_name(tmp_path, name):
    """The first is no UTF-8, the last ones are patterns for Orbax: whole checkpoints were called not whole."""
    _saved(tmp_path / name, 1, 2)
    with Checkpointer(tmp_path / name, read_only=True) as checkpointer:
        step, state, _ = checkpointer.restore_latest_verified(_state(0))
    assert (step, checkpointer.rejected) == (2, [])
    _assert_equal(state, _state(2))
    assert sorted(path.name for path in (tmp_path / name).iterdir()) == ["1", "2"]


def test_manifest_is_the_last_thing_written(tmp_path, monkeypatch):
    seen = {}

    def reached(point):
        seen[point] = (tmp_path / "1" / MANIFEST_NAME).exists(), (tmp_path / "1" / "state").exists()

    monkeypatch.setattr(checkpoints, "_reached", reached)
    _saved(tmp_path, 1)
    assert seen == {"begin": (False, False), "arrays": (False, True), "manifest": (True, True), "end": (True, True)}
    assert json.loads((tmp_path / "1" / MANIFEST_NAME).read_text())["leaves"]["step"]["dtype"] == "int32"
