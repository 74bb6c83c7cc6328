"""Files carry the number of their format: those of 0.1 are read, those of a newer version refused with both numbers."""

import json
import logging

import numpy as np
import pytest

from ditask_jax.adapters import storage
from ditask_jax.errors import CheckpointError, WeightsError
from ditask_jax.factors import factorize_all
from ditask_jax.files import atomic_write_json
from ditask_jax.plots import example_images
from ditask_jax.reports.runs import read_run
from ditask_jax.sweeps.running import read_evaluation
from ditask_jax.training import manifest as manifests
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.weight_files import FORMAT, _describe, encode_tensors, read_tensors, read_weights, write_weights
from tests.reports.folders import write_run


class Job:
    """As much of a sweep's point as reading its scores takes."""

    def __init__(self, workdir):
        self.workdir = workdir


def test_weights(tmp_path):
    """Those of 0.1 state a number; tests/conversion/test_robustness.py reads them."""
    path = tmp_path / "w.safetensors"
    write_weights(path, {"a/kernel": np.ones((2, 2), np.float32)}, architecture="x")
    arrays, metadata = read_tensors(path, "it")
    assert metadata["format"] == FORMAT == "ditask_jax/weights/2"
    described = {name: text for name, text in metadata.items() if name != "checksum"} | {
        "format": "ditask_jax/weights/3"
    }
    path.write_bytes(encode_tensors(arrays, described | {"checksum": _describe(described)}))
    with pytest.raises(WeightsError, match=r"weights: '.*' has format 3, this version reads formats up to 2; update"):
        read_weights(path)


def test_adapters(tmp_path):
    body = {"method": {"name": "full", "options": {}}, "groups": {}, "arrays": {"checksum": "x"}}
    body |= {
        "model": {"backbone": "x", "tasks": {}, "head": "x", "widths": []},
        "backbone": {"sha256": "x", "file": None},
    }

    def write(**more):
        atomic_write_json(tmp_path / "adapter.json", (full := body | more) | {"sha256": storage._hash(full)})
        return tmp_path

    assert storage.read_description(write())["method"]["name"] == "full"
    assert storage.read_description(write(format=storage.FORMAT))["format"] == "ditask_jax/adapter/2"
    with pytest.raises(WeightsError, match=r"adapter: '.*' has format 3, this version reads formats up to 2; update"):
        storage.read_description(write(format="ditask_jax/adapter/3"))
    with pytest.raises(WeightsError, match=r"has format 'x/1', expected 'ditask_jax/adapter/2'"):
        storage.read_description(write(format="x/1"))


def test_checkpoints(tmp_path):
    state = {"x": np.arange(3.0, dtype=np.float32)}
    with Checkpointer(tmp_path) as checkpointer:
        for step in (1, 2):
            checkpointer.save(step, state, block=True)
        path = tmp_path / "2" / manifests.MANIFEST_NAME
        body = json.loads(path.read_text())
        del body["sha256"]
        assert body["format"] == 1
        without = {name: value for name, value in body.items() if name != "format"}
        path.write_text(manifests._text(without | {"sha256": manifests._hash_body(without)}))
        assert checkpointer.restore_latest_verified(state)[0] == 2
        newer = body | {"format": 2}
        path.write_text(manifests._text(newer | {"sha256": manifests._hash_body(newer)}))
        # The one before it is whole, and yet is not taken: a newer version has trained on.
        with pytest.raises(CheckpointError, match=r"has format 2, this version reads formats up to 1; update"):
            checkpointer.restore_latest_verified(state)
        assert checkpointer.steps() == [1, 2]


def test_scores(tmp_path):
    folder = write_run(tmp_path / "a")
    content = json.loads((folder / "evaluation.json").read_text())
    assert "format" not in content
    assert read_run(folder).evaluation == read_evaluation(Job(folder)) == content
    atomic_write_json(folder / "evaluation.json", content | {"format": "ditask_jax/evaluation/1"})
    assert read_run(folder).scores == content["scores"]
    atomic_write_json(folder / "evaluation.json", content | {"format": "ditask_jax/evaluation/2"})
    for read in (read_run, lambda folder: read_evaluation(Job(folder))):
        with pytest.raises(CheckpointError, match=r"evaluation.json' has format 2, this version reads formats up to 1"):
            read(folder)


def test_examples(tmp_path):
    batch = {"valid": np.ones(0, bool)}
    content = json.loads(example_images.write_examples(tmp_path, batch, {}, [], 3).read_text())
    assert content["format"] == "ditask_jax/examples/1"
    assert example_images.read_examples(tmp_path) == content
    del content["format"]
    atomic_write_json(tmp_path / "examples.json", content)
    assert example_images.read_examples(tmp_path) == content
    atomic_write_json(tmp_path / "examples.json", content | {"format": "ditask_jax/examples/2"})
    with pytest.raises(CheckpointError, match=r"json' has format 2, this version reads formats up to 1; update"):
        example_images.read_examples(tmp_path)


def test_factors(tmp_path, caplog):
    """A cache: what cannot be read is computed again. The number is part of the name, so newer files are left alone."""
    kernels = {"a": (np.diag([3.0, 2.0]).astype(np.float32), 1)}
    factorize_all(kernels, tmp_path)
    (path,) = tmp_path.iterdir()
    assert path.suffix == ".factors2"
    other = path.with_suffix(".factors3")
    other.write_bytes(path.read_bytes().replace(b"ditask-factors 2", b"ditask-factors 3", 1))
    path.write_bytes(other.read_bytes())
    with caplog.at_level(logging.WARNING):
        factorize_all(kernels, tmp_path)
    (record,) = caplog.records
    assert "format 3, this version reads format 2; computing the factors of a again" in record.getMessage()
    assert other.read_bytes().startswith(b"ditask-factors 3\n")
