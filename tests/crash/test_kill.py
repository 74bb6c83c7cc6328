"""SIGKILL at any moment: the same command run again ends bit-equal to a run that was left alone.

The short form of `python -m tests.crash.suite`.
"""

import random
import signal

import pytest

from ditask_jax.training.manifest import read_manifest
from tests.crash.killing import Command, differences, newest_whole, rows_written
from tests.crash.suite import Suite

STEPS = 12


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """The command, and the folder of an undisturbed run of it."""
    folder = tmp_path_factory.mktemp("straight")
    # What is killed is the saving; LoRA compiles and starts in half the time. The suite kills DiTASK.
    command = Command(tmp_path_factory.mktemp("cache"), STEPS, ["--config.method.name=lora"])
    code, output = command.run(folder)
    assert code == 0, output
    assert len(read_manifest(folder / "checkpoints" / str(STEPS))["leaves"]) > 100
    return command, folder


@pytest.mark.slow
def test_killed_and_run_again(straight, tmp_path):
    command, expected = straight
    for rows in (1, 7):
        delay = random.Random(rows).random() * 0.05
        code, output = command.kill(tmp_path, lambda rows=rows: rows_written(tmp_path) >= rows, delay)
        assert code == -signal.SIGKILL, output
    assert newest_whole(tmp_path) > 0
    code, output = command.run(tmp_path)
    assert code == 0, output
    assert differences(tmp_path, expected, STEPS) == []


@pytest.mark.slow
def test_the_suite_in_short(tmp_path):
    suite = Suite(tmp_path, seed=1, steps=STEPS)
    suite.kills_at_points()
    suite.random_kills(6)
    suite.random_kills(2, signal.SIGTERM, "terminations")
    assert (suite.lost, suite.wrong) == ([], [])
    assert suite.counts["kills at points"] == 8
