"""Logits at an image's size: strips are the same as the whole."""

import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.prediction import tiling
from ditask_jax.tasks import create_tasks

SIZES = [(6, 5), (13, 9), (3, 4), (1, 1), (6, 11)]


@pytest.mark.parametrize("size", SIZES)
def test_strips_are_the_bilinear_resize_of_the_model(size, monkeypatch):
    monkeypatch.setattr(tiling, "_PIXELS", 20)
    logits = np.random.default_rng(0).normal(size=(6, 5, 3)).astype(np.float32)
    strips = list(tiling.upsampled(logits, size))
    assert sum(len(strip) for _, strip in strips) == size[0]
    assert [row for row, _ in strips] == np.cumsum([0, *(len(strip) for _, strip in strips[:-1])]).tolist()
    expected = resize_bilinear(jnp.asarray(logits[None]), size)[0]
    np.testing.assert_allclose(np.concatenate([strip for _, strip in strips]), expected, atol=1e-5)


def test_logits_of_the_right_size_are_not_touched():
    logits = np.random.default_rng(1).normal(size=(7, 5, 2)).astype(np.float32)
    assert np.array_equal(np.concatenate([strip for _, strip in tiling.upsampled(logits, (7, 5))]), logits)


def test_every_task_decodes_in_pieces_as_in_one(monkeypatch):
    chosen = create_tasks("semseg+sal+normals+depth", dataset="scenes")
    for task in chosen:
        logits = np.random.default_rng(2).normal(size=(9, 7, task.num_outputs)).astype(np.float32)
        expected = np.asarray(task.decode(jnp.asarray(logits[None])))[0]
        monkeypatch.setattr(tiling, "_PIXELS", 16)
        tiling._decoder.cache_clear()
        found = tiling.resized_map(task, logits, (9, 7))
        assert found.dtype == (np.uint8 if task.name == "semseg" else np.float32)
        assert found.shape == task.label_spec.shape((9, 7))
        np.testing.assert_allclose(found, expected, atol=1e-6)
    tiling._decoder.cache_clear()
