"""Runs the training command in a process of its own, kills it, and compares what it leaves with an undisturbed run."""

import contextlib
import os
import pathlib
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

from ditask_jax.errors import CheckpointError
from ditask_jax.training.manifest import MANIFEST_NAME, read_manifest
from ditask_jax.training.metrics_log import read_metrics, without_timings

POINTS = ("begin", "arrays", "manifest", "end")
OPTIONS = ("--config=configs/smoke.py", "--config.checkpoint_every_steps=1", "--config.data.train_examples=16")


class Command:
    """The training command on one device, with a compilation cache that all its runs share.

    Args:
      cache: folder of compiled programs.
      steps: length of the training.
      options: further ones of the command.
    """

    def __init__(self, cache: pathlib.Path, steps: int, options: Sequence[str] = ()):
        self.steps = steps
        self._options = (*OPTIONS, *options)
        self._environment = dict(
            os.environ,
            JAX_PLATFORMS="cpu",
            JAX_NUM_CPU_DEVICES="1",
            JAX_COMPILATION_CACHE_DIR=str(cache),
            JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="0",
        )

    def start(self, folder: pathlib.Path, point: str | None = None, occurrence: int = 1) -> subprocess.Popen:
        """Starts it; with a point of a save, it kills itself when it gets there for the n-th time."""
        module = ["ditask_jax.train"] if point is None else ["tests.crash.suicide", point, str(occurrence)]
        command = [
            sys.executable,
            "-m",
            *module,
            *self._options,
            f"--config.total_steps={self.steps}",
            f"--workdir={folder}",
        ]
        return subprocess.Popen(
            command, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def run(self, folder: pathlib.Path, point: str | None = None, occurrence: int = 1) -> tuple[int, str]:
        """Runs it to its end; exit code and output."""
        process = self.start(folder, point, occurrence)
        output, _ = process.communicate()
        return process.returncode, output

    def kill(
        self, folder: pathlib.Path, due: Callable[[], bool], delay: float = 0.0, with_signal: int = signal.SIGKILL
    ) -> tuple[int, str]:
        """Starts it and sends a signal so many seconds after something has become due, unless it ends before."""
        process = self.start(folder)
        while process.poll() is None and not due():
            time.sleep(0.002)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(delay)
        if process.poll() is None:
            process.send_signal(with_signal)
        output, _ = process.communicate()
        return process.returncode, output


def rows_written(folder: pathlib.Path) -> int:
    """Rows of the metrics log so far."""
    log = folder / "metrics.jsonl"
    return log.read_bytes().count(b"\n") if log.exists() else 0


def newest_whole(folder: pathlib.Path) -> int:
    """Step of the newest checkpoint whose manifest is intact, 0 where there is none; arrays are not read."""
    found = [0]
    for path in (folder / "checkpoints").glob(f"*/{MANIFEST_NAME}"):
        try:
            found.append(read_manifest(path.parent)["step"])
        except CheckpointError:
            continue  # half removed: an older one, or one that is being replaced
    return max(found)


def differences(folder: pathlib.Path, expected: pathlib.Path, steps: int) -> list[str]:
    """In what a finished run differs from another one, bit by bit; nothing, unless something was lost or wrong."""
    found = []
    ours, theirs = ([without_timings(row) for row in read_metrics(path)] for path in (folder, expected))
    if ours != theirs:
        first = next((a["step"] for a, b in zip(ours, theirs, strict=False) if a != b), min(len(ours), len(theirs)))
        found.append(f"metrics.jsonl differs, first at step {first}")
    if newest_whole(folder) != steps or newest_whole(expected) != steps:
        return [*found, f"the newest checkpoint is of step {newest_whole(folder)}, expected {steps}"]
    # The manifest holds a hash of every leaf: parameters, optimiser moments and batch statistics.
    leaves = [read_manifest(path / "checkpoints" / str(steps))["leaves"] for path in (folder, expected)]
    if leaves[0] != leaves[1]:
        found.append(f"leaves differ: {[name for name in leaves[1] if leaves[0].get(name) != leaves[1][name]][:3]}")
    if (folder / "evaluation.json").read_bytes() != (expected / "evaluation.json").read_bytes():
        found.append("evaluation.json differs")
    left = [path.name for path in (folder / "checkpoints").iterdir() if not path.name.isdecimal()]
    return found + ([f"left behind: {left}"] if left else [])
