"""Factors of frozen kernels and their cache on disk."""

import logging
import multiprocessing
import os
import pathlib

import numpy as np
import pytest

from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.linalg import Factors, content_hash, default_cache_dir, factorize, factorize_all

RANDOM = np.random.default_rng(0)
KERNELS = {
    "qkv": (RANDOM.normal(size=(12, 36)).astype(np.float32), 3),
    "wide": (RANDOM.normal(size=(8, 32)).astype(np.float32), 1),
    "tall": (RANDOM.normal(size=(32, 8)).astype(np.float32), 1),
    "zero": (np.zeros((4, 4), np.float32), 1),
}


def _equal(a: Factors, b: Factors):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("name", KERNELS)
def test_factors_rebuild_each_part(name):
    kernel, parts = KERNELS[name]
    left, values, right = factorize(kernel, parts)
    assert {array.dtype for array in (left, values, right)} == {np.dtype(np.float32)}
    assert (np.diff(values, axis=-1) <= 0).all()
    rebuilt = np.concatenate([(left[p] * values[p]) @ right[p] for p in range(parts)], axis=1)
    np.testing.assert_allclose(rebuilt, kernel, atol=2e-6)
    identity = np.eye(values.shape[1])
    np.testing.assert_allclose(
        np.swapaxes(left, 1, 2) @ left, np.broadcast_to(identity, (parts, *identity.shape)), atol=1e-6
    )
    largest = np.take_along_axis(left, np.abs(left).argmax(axis=1, keepdims=True), axis=1)
    assert (largest > 0).all()


def test_sign_does_not_depend_on_the_kernels_sign():
    kernel, parts = KERNELS["wide"]
    np.testing.assert_allclose(factorize(kernel, parts).left, factorize(-kernel, parts).left, atol=1e-6)


def test_hash_knows_content_shape_type_and_parts():
    kernel = np.arange(16, dtype=np.float32).reshape(4, 4)
    hashes = {
        content_hash(k, p)
        for k, p in [(kernel, 1), (kernel, 2), (kernel.reshape(2, 8), 1), (kernel.view(np.int32), 1), (kernel + 1, 1)]
    }
    assert len(hashes) == 5
    assert content_hash(kernel, 1) == content_hash(np.asfortranarray(kernel), 1)


def test_second_call_reads_the_cache(tmp_path, monkeypatch):
    first = factorize_all(KERNELS, tmp_path / "new" / "folder")
    assert list(first) == list(KERNELS)
    monkeypatch.setattr("ditask_jax.linalg.factorize", lambda *_: pytest.fail("computed again"))
    second = factorize_all(KERNELS, tmp_path / "new" / "folder")
    assert all(_equal(first[name], second[name]) for name in KERNELS)
    assert all(np.isfinite(array).all() for factors in second.values() for array in factors)


@pytest.mark.parametrize("damage", ["flip", "truncate", "empty", "garbage", "header"])
def test_damaged_file_is_reported_and_replaced(tmp_path, damage, caplog):
    kernels = {"wide": KERNELS["wide"]}
    good = factorize_all(kernels, tmp_path)["wide"]
    (path,) = tmp_path.iterdir()
    whole = path.read_bytes()
    flipped = whole[:-5] + bytes([whole[-5] ^ 1]) + whole[-4:]
    lines = whole.split(b"\n", 2)
    damaged = {
        "flip": flipped,
        "truncate": whole[:-8],
        "empty": b"",
        "garbage": b"\x00" * 500,
        "header": b"\n".join([lines[0], b"{]", lines[2]]),
    }
    path.write_bytes(damaged[damage])
    with caplog.at_level(logging.WARNING):
        again = factorize_all(kernels, tmp_path)["wide"]
    assert _equal(good, again)
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "computing the factors of wide again" in record.getMessage()
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_unusable_folder_is_reported_and_not_needed(tmp_path, caplog):
    blocked = tmp_path / "file"
    blocked.write_text("not a folder")
    with caplog.at_level(logging.WARNING):
        factors = factorize_all(KERNELS, blocked / "cache")
    assert _equal(factors["wide"], factorize(*KERNELS["wide"]))
    (record,) = caplog.records
    assert "working without a cache" in record.getMessage()


def test_unwritable_file_is_reported_once(tmp_path, caplog, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("ditask_jax.linalg.tempfile.mkstemp", refuse)
    with caplog.at_level(logging.WARNING):
        factors = factorize_all(KERNELS, tmp_path)
    assert set(factors) == set(KERNELS)
    (record,) = caplog.records
    assert "Permission denied; working without a cache" in record.getMessage()


def _work(folder, queue):
    queue.put(float(factorize_all(KERNELS, folder)["wide"].singular_values.sum()))


def test_processes_may_share_a_folder(tmp_path):
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    workers = [context.Process(target=_work, args=(tmp_path, queue)) for _ in range(3)]
    for worker in workers:
        worker.start()
    sums = {queue.get(timeout=120) for _ in workers}
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert sums == {float(factorize(*KERNELS["wide"]).singular_values.sum())}
    assert len(list(tmp_path.iterdir())) == len(KERNELS)


def test_cache_folder_follows_the_environment(monkeypatch):
    monkeypatch.setenv("DITASK_CACHE_DIR", "/somewhere")
    assert default_cache_dir() == pathlib.Path("/somewhere")
    monkeypatch.delenv("DITASK_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", f"{os.sep}xdg")
    assert default_cache_dir() == pathlib.Path("/xdg/ditask_jax")
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert default_cache_dir() == pathlib.Path.home() / ".cache" / "ditask_jax"


@pytest.mark.parametrize(
    ("kernel", "parts", "error", "message"),
    [
        (np.ones(3), 1, ConfigError, "expected \\[in, out\\]"),
        (np.ones((2, 4)), 3, ConfigError, "4 outputs do not split into 3 equal parts"),
        (np.array([[1.0, np.nan]]), 1, WeightsError, "not finite"),
    ],
)
def test_bad_kernels_are_named(kernel, parts, error, message):
    with pytest.raises(error, match=message):
        factorize(kernel, parts)
