"""Losses and their gradients against the PyTorch originals."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.tasks import (
    Depth,
    EdgeDetection,
    HumanParts,
    Saliency,
    SemanticSegmentation,
    SurfaceNormals,
    Task,
    multi_task_loss,
)

from .golden import OWN, Golden, find

# Options of the reference implementations that nothing uses.
_NOT_OURS = ("bce", "sal_void", "sal_sum_batch", "normals_l2_raw")
_KINDS = {
    "semseg": SemanticSegmentation,
    "human_parts": HumanParts,
    "sal": Saliency,
    "edge": EdgeDetection,
    "normals": SurfaceNormals,
    "depth": Depth,
}


def task_for(case: str, channels: int) -> Task | None:
    """The task a case name starts with, with as many classes as the case has channels."""
    kind = next((kind for name, kind in _KINDS.items() if case.startswith(name)), None)
    if kind in (SemanticSegmentation, HumanParts):
        return kind(num_outputs=channels, class_names=tuple(f"class {k}" for k in range(channels)))
    return kind() if kind else None


def as_batch(task: Task, label: np.ndarray) -> np.ndarray:
    """A golden label `[B, C, H, W]` in the layout and type of a batch."""
    label = label.transpose(0, 2, 3, 1) if task.label_spec.channels > 1 else label[:, 0]
    return label.astype(task.label_spec.dtype)


def _cases(prefix: str, excluded: bool) -> list:
    return [
        pytest.param(path, case, id=f"{path.stem}-{case}")
        for path in find("losses")
        for case in sorted({name.split("/")[0] for name in Golden(path)})
        if case.startswith(prefix) and not (excluded and case.startswith((*_NOT_OURS, "mtl_")))
    ]


def _assert_same_gradient(got: jax.Array, expected: np.ndarray):
    expected = expected.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(got, expected, rtol=0, atol=2e-5 * np.abs(expected).max())


def _logits(array: np.ndarray) -> jax.Array:
    return jnp.asarray(array.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(("path", "case"), _cases("", excluded=True))
def test_loss_and_gradient(path, case):
    golden = Golden(path)
    task = task_for(case, golden[f"{case}/pred"].shape[1])
    assert task is not None, f"{case} belongs to no task"
    label = as_batch(task, golden[f"{case}/label"])
    value, gradient = jax.jit(jax.value_and_grad(task.loss))(_logits(golden[f"{case}/pred"]), label)
    if np.all(label == 255):  # the reference implementations divide zero by zero
        assert float(value) == 0.0
        assert not np.any(np.asarray(gradient))
    else:
        np.testing.assert_allclose(value, golden[f"{case}/value"], rtol=1e-5)
        _assert_same_gradient(gradient, golden[f"{case}/grad"])


@pytest.mark.parametrize(("path", "case"), _cases("mtl_", excluded=False))
def test_weighted_total_and_every_gradient(path, case):
    golden = Golden(path)
    predictions, labels = golden.under(f"{case}/pred/"), golden.under(f"{case}/gt/")
    weights = golden.meta["loss_weights"]
    tasks = tuple(task_for(name, prediction.shape[1]) for name, prediction in predictions.items())
    if OWN:
        assert {task.name: task.loss_weight for task in tasks}.items() <= weights.items()
    tasks = tuple(dataclasses.replace(task, loss_weight=weights[task.name]) for task in tasks)
    logits = {name: _logits(prediction) for name, prediction in predictions.items()}
    batch = {task.name: as_batch(task, labels[task.name]) for task in tasks}
    total_of = jax.jit(jax.value_and_grad(lambda logits: multi_task_loss(tasks, logits, batch), has_aux=True))
    (total, losses), gradients = total_of(logits)
    np.testing.assert_allclose(total, golden[f"{case}/total"], rtol=1e-5)
    for name, loss in losses.items():
        np.testing.assert_allclose(loss, golden[f"{case}/value/{name}"], rtol=1e-5)
        _assert_same_gradient(gradients[name], golden[f"{case}/grad/{name}"])
