"""Runs with images and curves for tests of the report, made up in a moment."""

import json
import pathlib

import numpy as np

from ditask_jax.plots.example_images import write_examples
from ditask_jax.reports import read_run
from tests.reports.folders import write_run

CELLS = ("image_size=32", "tasks=semseg+depth", "backbone.name=swin_test", "backbone.weights=none")


def write_shown_run(
    folder: pathlib.Path, gain: float = 1.0, overrides: tuple[str, ...] = (), images: int = 3, steps: int = 6
) -> pathlib.Path:
    """A run with so many images, and a log with evaluations on the way.

    Targets and predictions are one colour each, so that a test can tell which image it sees.
    """
    write_run(folder, gain, (*CELLS, *overrides), total=300_000, backbone=50_000)
    rows = []
    for step in range(1, steps + 1):
        row = {"step": step, "time/step": 0.5, "time/read": 0.1, "time/process_memory": 10**9}
        row |= {"train/loss": 1 / step, "train/tasks/semseg/loss": 2 / step, "train/learning_rate": 1e-3}
        if step % 3 == 0:
            row |= {"val/tasks/semseg/mIoU": step / 100, "val/tasks/depth/rmse": 2 / step, "val/delta_m": step - 5.0}
        rows.append(row)
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    start = {"time": "2026-01-02T03:04:05+00:00", "devices": ["a chip"], "device_count": 2, "processes": 1}
    (folder / "starts.jsonl").write_text(json.dumps(start) + "\n")
    if images:
        run = read_run(folder)
        write_examples(folder / "examples", *_batch(images), run.tasks, 450)
    return folder


def _batch(images: int):
    rng = np.random.default_rng(0)
    labels = {
        "semseg": np.broadcast_to(np.arange(images, dtype=np.uint8)[:, None, None], (images, 32, 32)),
        "depth": np.broadcast_to(np.linspace(1, 4, 32, dtype=np.float32), (images, 32, 32)),
    }
    predicted = {"semseg": labels["semseg"] + 1, "depth": labels["depth"][:, ::-1]}
    batch = {
        "image": rng.integers(0, 256, (images, 32, 32, 3), np.uint8),
        "labels": labels,
        "valid": np.ones(images, bool),
        "index": np.arange(images) * 10,
    }
    return batch, predicted
