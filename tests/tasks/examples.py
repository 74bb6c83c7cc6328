"""One task of every kind, with random logits and labels as they arrive in a batch."""

import functools

import jax
import numpy as np

from ditask_jax.tasks import Task, create_tasks

ALL_TASKS = create_tasks("semseg+human_parts+sal+normals+depth+edge", dataset="scenes")


def unit_vectors(random: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    vectors = random.normal(size=(*shape, 3))
    return (vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)).astype(np.float32)


def random_label(task: Task, random: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    """A label map with about a fifth of its pixels missing where the task knows missing pixels."""
    missing = random.random(shape) < 0.2
    if task.name in ("sal", "edge"):
        return (random.random(shape) < 0.3).astype(np.uint8)
    if task.name == "normals":
        return np.where(missing[..., None], np.float32(255), unit_vectors(random, shape))
    if task.name == "depth":
        return np.where(missing, np.float32(255), random.uniform(0.5, 9, shape).astype(np.float32))
    return np.where(missing, 255, random.integers(0, task.num_outputs, shape)).astype(np.uint8)


def ignored_label(task: Task, shape: tuple[int, int, int]) -> np.ndarray:
    """A label map without a single labelled pixel."""
    full = (*shape, 3) if task.label_spec.channels == 3 else shape
    return np.full(full, 255, task.label_spec.dtype)


def random_logits(task: Task, random: np.random.Generator, shape: tuple[int, int, int]) -> np.ndarray:
    return random.normal(scale=2, size=(*shape, task.num_outputs)).astype(np.float32)


@functools.cache
def loss_of(task: Task):
    """The compiled loss, shared by tests."""
    return jax.jit(task.loss)


@functools.cache
def value_and_gradient_of(task: Task):
    """The compiled loss with its gradient by the logits, shared by tests."""
    return jax.jit(jax.value_and_grad(task.loss))


@functools.cache
def _device_sums(task: Task):
    return jax.jit(task.metric_sums)


def sums_of(task: Task, logits, label, valid=None) -> dict[str, np.ndarray]:
    """Sums of a batch by whichever of the two ways the task is scored."""
    if task.on_host:
        return task.host_sums(np.asarray(task.decode(logits)), label, valid)
    valid = np.ones(len(label), bool) if valid is None else np.asarray(valid)
    return jax.tree.map(np.asarray, _device_sums(task)(logits, label, valid))
