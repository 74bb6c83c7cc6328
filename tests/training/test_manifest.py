"""Manifests by hand, and the choice of a checkpoint by its score: what is refused, and what is passed over."""

import json
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.errors import CheckpointError
from ditask_jax.training import manifest as manifests
from ditask_jax.training.checkpoints import Checkpointer, _to_devices

ARRAYS = {"a": np.float32([[1, 2, 3]]), "b": np.int32(7)}


def written(folder, step=3, metrics=None):
    """A folder with a file and its manifest, and what was read back."""
    folder.mkdir()
    (folder / "data").write_bytes(b"12345")
    manifests.write_manifest(folder, step, ARRAYS, {"seed": step}, metrics or {})
    return manifests.read_manifest(folder)


def rewritten(folder, **changes):
    """The manifest with other content and the hash of that."""
    body = json.loads((folder / manifests.MANIFEST_NAME).read_text()) | changes
    body.pop("sha256")
    (folder / manifests.MANIFEST_NAME).write_text(manifests._text(body | {"sha256": manifests._hash_body(body)}))


def test_a_manifest_says_what_a_checkpoint_holds(tmp_path):
    body = written(tmp_path / "3", metrics={"val": np.float32(0.5), "nan": float("nan"), "none": None})
    assert (body["format"], body["step"], body["meta"], body["metrics"]) == (1, 3, {"seed": 3}, {"val": 0.5})
    assert list(body["files"]) == ["data"]
    assert {name: (leaf["shape"], leaf["dtype"]) for name, leaf in body["leaves"].items()} == {
        "a": ([1, 3], "float32"),
        "b": ([], "int32"),
    }
    empty = manifests.empty_arrays(body)
    assert {name: (array.shape, array.dtype.name, array.sum()) for name, array in empty.items()} == {
        "a": ((1, 3), "float32", 0),
        "b": ((), "int32", 0),
    }
    manifests.check_hashes(body, ARRAYS, "it")
    manifests.check_files(body, tmp_path / "3", "it")
    assert (tmp_path / "3" / manifests.MANIFEST_NAME).read_text().endswith("}\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no manifest.json, the save was not finished"),
        (b"{\xff}", "not readable .UnicodeDecodeError"),
        (b"{", "not readable .JSONDecodeError"),
        (b"[" * 100_000, "not readable .RecursionError"),
        (b"[1]\n", "damaged, its content does not match its own hash"),
    ],
)
def test_manifests_that_are_none(tmp_path, content, message):
    if content is not None:
        (tmp_path / manifests.MANIFEST_NAME).write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as caught:
        manifests.read_manifest(tmp_path)
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_byte_that_changes_no_value_is_damage(tmp_path):
    written(tmp_path / "3")
    file = tmp_path / "3" / manifests.MANIFEST_NAME
    file.write_text(file.read_text().replace('"step": 3', '"step":  3'))
    with pytest.raises(CheckpointError, match="damaged"):
        manifests.read_manifest(tmp_path / "3")


def test_another_structure_is_told_in_part():
    body = {"leaves": {f"leaf{k}": {"shape": [k], "dtype": "float32"} for k in range(5)}}
    like = {name: jnp.zeros(leaf["shape"]) for name, leaf in body["leaves"].items()}
    manifests.check_structure(body, like, "it")
    wrong = {name: jnp.zeros(9, jnp.int32) for name in like}
    with pytest.raises(CheckpointError, match=r"it: leaf0 is float32\[0\], expected int32\[9\]; .* and 2 more"):
        manifests.check_structure(body, wrong, "it")
    three = {**like, "leaf0": wrong["leaf0"], "leaf1": wrong["leaf1"], "new": wrong["leaf0"]}
    with pytest.raises(CheckpointError, match=r"it: new is missing; leaf0 .*leaf1 .*expected int32\[9\]\. It was"):
        manifests.check_structure(body, three, "it")


def test_arrays_and_files_that_came_back_otherwise(tmp_path):
    body = written(tmp_path / "3")
    for name, array, message in (
        ("a", np.float32([1, 2, 3]), r"a came back as float32\[3\]"),
        ("b", np.int64(7), r"b came back as int64\[\]"),
        ("a", np.float32([[1, 2, 4]]), "a is damaged, its values do not match"),
    ):
        with pytest.raises(CheckpointError, match=f"checkpoint: it: {message}"):
            manifests.check_hashes(body, ARRAYS | {name: array}, "it")
    (tmp_path / "3" / "data").write_bytes(b"12344")
    with pytest.raises(CheckpointError, match="it: data is damaged, its content does not match its hash"):
        manifests.check_files(body, tmp_path / "3", "it")
    (tmp_path / "3" / "data").unlink()
    with pytest.raises(CheckpointError, match=r"it: data is not readable .FileNotFoundError"):
        manifests.check_files(body, tmp_path / "3", "it")


def test_states_that_cannot_be_saved():
    with pytest.raises(ValueError, match="two leaves of the state share one path"):
        manifests.flatten_state({"a/b": jnp.zeros(1), "a": {"b": jnp.zeros(1)}})
    with pytest.raises(TypeError, match="state leaf a is a float, expected an array"):
        manifests.flatten_state({"a": 1.0})
    copied = manifests.host_copy({"a": np.zeros((2, 3), order="F")})["a"]
    assert copied.flags.c_contiguous
    assert copied.flags.owndata
    # A name is part of the fingerprint, a value as well.
    prints = [manifests.fingerprint(weights) for weights in ({"a": np.ones(2)}, {"b": np.ones(2)}, {"a": np.zeros(2)})]
    assert len({*prints}) == 3
    assert manifests.fingerprint({"a": jnp.ones(2)}) == manifests.fingerprint({"a": np.ones(2, np.float32)})


def test_what_is_spread_over_processes(monkeypatch):
    """Weights are gathered for their fingerprint; a state that is split is refused, a replicated one read here."""

    class Spread:
        is_fully_addressable = False
        dtype, shape = np.dtype("float32"), (2,)

        def __init__(self, replicated):
            self.is_fully_replicated = replicated

        def addressable_data(self, index):
            return np.float32([index, 5])

    monkeypatch.setattr(manifests, "jax", types.SimpleNamespace(Array=Spread, tree_util=jax.tree_util))
    from jax.experimental import multihost_utils

    gathered = []
    monkeypatch.setattr(multihost_utils, "process_allgather", lambda *a, **k: gathered.append(k) or np.float32([8, 9]))
    split, whole = Spread(False), Spread(True)
    assert manifests._whole(split).tolist() == [8, 9]
    assert gathered == [{"tiled": True}]
    assert manifests._whole(whole) is whole
    assert manifests.host_copy({"x": whole})["x"].tolist() == [0, 5]
    with pytest.raises(ValueError, match="state leaf x is split over processes; only replicated arrays are saved"):
        manifests.host_copy({"x": split})


def test_the_best_one_is_whole_and_the_newer_of_equals(tmp_path):
    for step, score in ((1, 0.9), (2, 0.5), (3, 0.5), (4, None), (5, 0.1)):
        written(tmp_path / str(step), step, {"val": score})
    with Checkpointer(tmp_path, best_metric="val", read_only=True) as reader:
        assert (reader.best(), reader.latest(), reader.steps()) == (1, 5, [1, 2, 3, 4, 5])
        (tmp_path / "1" / manifests.MANIFEST_NAME).write_text("{}")
        assert reader.best() == 3
    with Checkpointer(tmp_path, best_metric="val", best_mode="min", read_only=True) as reader:
        assert reader.best() == 5
        assert (reader.poll(), reader.save(6, ARRAYS), reader.latest()) == (None, None, 5)
    for metric in (None, "other"):
        assert Checkpointer(tmp_path, best_metric=metric, read_only=True).best() is None


def test_a_manifest_of_a_newer_version_ends_the_search(tmp_path):
    """It is no damage: an older checkpoint must not take its place."""
    for step in (1, 2):
        written(tmp_path / str(step), step)
    rewritten(tmp_path / "2", format=2)
    with Checkpointer(tmp_path, read_only=True) as reader:
        with pytest.raises(manifests.NewerManifestError, match="2"):
            reader.restore_latest_verified(ARRAYS)
        assert reader.rejected == []


def test_types_that_jax_does_not_keep_are_refused():
    with pytest.raises(CheckpointError, match="it: holds float64 and JAX made it float32; set JAX_ENABLE_X64=1"):
        _to_devices({"x": np.zeros(2)}, None, "it")
    kept = _to_devices({"x": np.float32([1, 2])}, None, "it")["x"]
    assert isinstance(kept, jax.Array)
    assert kept.tolist() == [1, 2]
