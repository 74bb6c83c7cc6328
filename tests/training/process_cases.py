"""What one process and two processes both compute, to be compared: a source, its batches, a model of one product."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.data import Augmentation, eval_batches, train_batches
from ditask_jax.tasks import create_tasks
from ditask_jax.tasks.base import multi_task_loss
from ditask_jax.training.distributed import share
from ditask_jax.training.evaluation import evaluate
from ditask_jax.training.sharding import place_batch, place_whole, replicated, sharded
from ditask_jax.training.step import resize_to_own

BATCH, SIZE = 16, 16
TASKS = create_tasks("semseg+edge", "scenes")  # one scored on the device, one on the host
SPECS = [task.label_spec for task in TASKS]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Random examples, every one of another size; their labels need canvases of different sizes."""

    count: int = 21

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        size = (20 + 3 * (index % 5), 30 + 9 * index)
        semseg = rng.integers(0, TASKS[0].num_outputs, size).astype(np.uint8)
        return {"image": rng.integers(0, 256, (*size, 3), np.uint8), "semseg": semseg, "edge": (semseg == 1) * 255}


def weights() -> np.ndarray:
    """A kernel from colours to the logits of all tasks."""
    outputs = sum(task.num_outputs for task in TASKS)
    return np.random.default_rng(1).normal(size=(3, outputs)).astype(np.float32)


def computed(mesh) -> dict:
    """Everything that must not depend on how devices are shared out among processes."""
    whole = replicated(mesh)
    w = place_whole(weights(), whole)
    options = {"seed": 5, "augmentation": Augmentation(), "threads": 1, **share()}
    with train_batches(Sizes(), SPECS, SIZE, BATCH, **options) as batches:
        training = [next(batches) for _ in range(3)]
    # Rows in another order would give other numbers: positions weigh the images.
    position = np.arange(1, BATCH + 1, dtype=np.float32)[:, None, None, None]
    total = jax.jit(lambda w, x: ((x / 255.0 * position) @ w).sum(), out_shardings=whole)
    placed = [place_batch({"image": batch["image"]}, mesh)["image"] for batch in training]
    if not all(image.sharding == sharded(mesh) and image.shape[0] == BATCH for image in placed):
        raise RuntimeError("a batch is not spread over the mesh")
    found = {"totals": [float(total(w, image)) for image in placed]}
    found["gradient"] = np.asarray(jax.jit(jax.grad(total), out_shardings=whole)(w, placed[0])).tolist()
    for name, original in (("network", False), ("original", True)):
        evaluation = evaluate(
            _eval_step(whole), (w, {}, {}), Sizes(), TASKS, SIZE, BATCH, mesh, {}, threads=1, original_size=original
        )
        found[name] = {"scores": evaluation.scores, "losses": evaluation.losses}
    return found


def rows_read() -> dict[str, list]:
    """The numbers of the examples that this process reads, batch by batch."""
    with train_batches(Sizes(), SPECS, SIZE, BATCH, seed=5, threads=1, **share()) as batches:
        training = [next(batches)["index"].tolist() for _ in range(3)]
    with eval_batches(Sizes(), SPECS, SIZE, BATCH, threads=1, **share()) as batches:
        return {"train": training, "eval": [batch["index"].tolist() for batch in batches]}


def _eval_step(whole):
    """As `make_eval_step`, for a model that is one product."""

    def step(w, _, __, batch: Mapping):
        values, start, logits = batch["image"] / 255.0 @ w, 0, {}
        for task in TASKS:
            logits[task.name] = values[..., start : start + task.num_outputs]
            start += task.num_outputs
        if "size" in batch:
            canvas = batch["labels"]["semseg"].shape[1:3]
            logits = {name: resize_to_own(value, batch["size"], canvas) for name, value in logits.items()}
        labels, valid = batch["labels"], batch["valid"]
        sums = {t.name: t.metric_sums(logits[t.name], labels[t.name], valid) for t in TASKS if not t.on_host}
        decoded = {t.name: t.decode(logits[t.name]) for t in TASKS if t.on_host}
        return sums, multi_task_loss(TASKS, logits, labels, valid)[1], decoded

    return jax.jit(step, out_shardings=whole)


def state() -> dict:
    """Something to save."""
    return {"trainable": {"w": jnp.asarray(weights())}, "step": jnp.int32(3)}
