"""Scores at the labels' own resolution: against resizing every picture on its own, and for any split into batches."""

import dataclasses

import cv2
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax import cli
from ditask_jax import evaluate as evaluate_command
from ditask_jax.config import load_config
from ditask_jax.data.scenes import ScenesSource
from ditask_jax.tasks import tasks
from ditask_jax.training import step as steps
from ditask_jax.training import trainer
from ditask_jax.training.evaluation import evaluate
from ditask_jax.training.mesh import make_mesh
from ditask_jax.training.resolution import resize_to_own
from ditask_jax.training.rundir import RunDir

TASKS = tasks("semseg+sal+normals+depth+edge", dataset="scenes")
SIZES = ((40, 60), (100, 90), (128, 33))
NETWORK = (32, 48)


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Scenes of different sizes."""

    def __len__(self):
        return len(SIZES)

    def __getitem__(self, index):
        return ScenesSource("val", SIZES[index], num_examples=9)[index]


def logits_of(images, xp):
    """A stand-in for a network: a fixed mixture of colours for every task."""
    out = {}
    for task in TASKS:
        mixture = np.random.default_rng(task.num_outputs).normal(size=(3, task.num_outputs)).astype(np.float32)
        out[task.name] = (images.astype(np.float32) / 255 - 0.5) @ xp.asarray(4 * mixture)
    return out


@pytest.fixture
def eval_step(monkeypatch):
    monkeypatch.setattr(
        steps, "make_predict", lambda parts, dtype, mesh: lambda t, f, s, images: logits_of(images, jnp)
    )
    return steps.make_eval_step(None, TASKS, make_mesh(1))


def scores(eval_step, batch_size, original_size=True):
    state = ({}, {}, {})
    found = evaluate(
        eval_step, state, Sizes(), TASKS, NETWORK, batch_size, make_mesh(1), {}, original_size=original_size
    )
    return found.scores


def totals_by_hand():
    """One picture after the other, OpenCV resizing the logits to the labels."""
    totals = dict.fromkeys((task.name for task in TASKS), None)
    # One program per task and size in place of every operation by itself, which would be compiled as well.
    decode = {task.name: jax.jit(task.decode) for task in TASKS}
    sums_of = {task.name: jax.jit(task.metric_sums) for task in TASKS if not task.on_host}
    for index, (height, width) in enumerate(SIZES):
        example = Sizes()[index]
        image = cv2.resize(example["image"].astype(np.float32), NETWORK[::-1], interpolation=cv2.INTER_CUBIC)
        logits = logits_of(np.clip(np.rint(image), 0, 255)[None], np)
        for task in TASKS:
            maps = cv2.resize(logits[task.name][0], (width, height), interpolation=cv2.INTER_LINEAR)
            maps = maps.reshape(1, height, width, -1)
            label = example[task.name]
            if task.name == "depth":
                label = np.where(label == 0, np.float32(255), label)
            if task.name == "normals":
                label = np.where(label.any(-1, keepdims=True), label, np.float32(255))
            if task.on_host:
                sums = task.host_sums(np.asarray(decode[task.name](maps)), label[None])
            else:
                sums = sums_of[task.name](maps, label[None])
            totals[task.name] = task.accumulate(totals[task.name], jax.device_get(sums))
    return {task.name: task.finalize(totals[task.name]) for task in TASKS}


def test_every_picture_is_scored_at_its_own_size_whatever_the_batches(eval_step):
    expected = totals_by_hand()
    for batch_size in (1, 2):
        found = scores(eval_step, batch_size)
        for task in TASKS:
            assert found[task.name].keys() == expected[task.name].keys()
            for name, value in expected[task.name].items():
                # A pixel whose two best classes tie to the last bit may fall either way.
                np.testing.assert_allclose(found[task.name][name], value, rtol=2e-4, err_msg=f"{task.name} {name}")
    assert scores(eval_step, 2, original_size=False) != found


def test_resizing_agrees_with_opencv():
    maps = np.random.default_rng(0).normal(size=(3, 7, 9, 4)).astype(np.float32)
    sizes = np.array([[7, 9], [20, 5], [3, 31]], np.int32)
    found = np.asarray(resize_to_own(jnp.asarray(maps), jnp.asarray(sizes), (32, 32)))
    for one, map_, (height, width) in zip(found, maps, sizes.tolist(), strict=True):
        want = cv2.resize(map_, (width, height), interpolation=cv2.INTER_LINEAR)
        np.testing.assert_allclose(one[:height, :width], want, atol=2e-5)
    np.testing.assert_array_equal(found[0, :7, :9], maps[0])


def test_a_finished_run_is_scored_at_another_resolution_on_request(tmp_path, monkeypatch, capsys):
    config = load_config("configs/smoke.py")
    RunDir(tmp_path).claim(config)
    asked = []

    class Stub:
        total_steps = 6

        def __init__(self, config):
            asked.append(config.eval_resolution)

        def restore(self, checkpointer):
            return 6

        def evaluate(self):
            return None

        def report(self, run, evaluation, file, say):
            say(f"scores: {file.name}")

    monkeypatch.setattr(trainer, "Trainer", Stub)
    for more, resolution, file in (
        ([], "network", "evaluation.json"),
        (["--resolution=network"], "network", "evaluation.json"),
        (["--resolution=original"], "original", "evaluation_original.json"),
    ):
        assert cli.execute(evaluate_command.main, [f"--workdir={tmp_path}", *more]) == cli.OK
        # The card has the scores that the run is known by: those at the network's resolution.
        card = [f"model card: {tmp_path / 'MODEL_CARD.md'}"] if file == "evaluation.json" else []
        assert capsys.readouterr().out.splitlines() == ["step 6 of 6", f"scores: {file}", *card]
        assert asked.pop() == resolution
    assert cli.execute(evaluate_command.main, [f"--workdir={tmp_path}", "--resolution=big"]) == cli.USER_ERROR
    assert RunDir(tmp_path).load_config().eval_resolution == "network"
