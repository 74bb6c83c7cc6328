"""Scores of one set of weights, end to end: the same for any batch size and number of devices."""

import dataclasses

import jax
import numpy as np
import pytest

import ditask_jax as dj
from ditask_jax.adapters.wrap import wrap
from ditask_jax.nn.state import split_state
from ditask_jax.scenes import ScenesSource
from ditask_jax.training.evaluation import evaluate
from ditask_jax.training.sharding import make_mesh, place_whole, replicated
from ditask_jax.training.step import make_eval_step
from tests.training.small import two_stages

TASKS = "semseg+human_parts+sal+normals+depth"
COUNT = 37  # a multiple of nothing
POINT = 1e-2  # of a metric that is a fraction
SMALLEST = {"fraction": 1e-3 * POINT, "degrees": 1e-3, "metres": 1e-3}


@pytest.fixture(scope="module")
def tasks():
    return dj.create_tasks(TASKS, dataset="scenes")


@pytest.fixture(scope="module")
def parts(tasks):
    with two_stages() as name:
        model = dj.create_model(name, tasks, image_size=32, widths=(4, 4))
    wrap(model, dj.DiTASK(shared_cells=4, task_cells=4))
    parts = split_state(model)
    # Off the start, where every class of a task is as likely.
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: np.asarray(x) + 0.3 * rng.standard_normal(x.shape, np.float32), parts.trainable)
    return dataclasses.replace(parts, trainable=moved)


def scores(parts, tasks, devices: int, batch_size: int):
    mesh = make_mesh(devices)
    state = place_whole((parts.trainable, parts.stats, parts.frozen), replicated(mesh))
    source = ScenesSource("val", 32, num_examples=COUNT)
    return evaluate(make_eval_step(parts, tasks, mesh), state, source, tasks, 32, batch_size, mesh, {})


@pytest.mark.slow
def test_scores_agree_to_a_thousandth_of_a_point(parts, tasks):
    expected = scores(parts, tasks, 1, 8)
    assert expected.examples == COUNT
    for devices, batch_size in ((1, 1), (1, 5), (2, 8), (4, 4), (8, 8), (8, 40)):
        found = scores(parts, tasks, devices, batch_size)
        assert found.examples == COUNT
        for task in tasks:
            for metric, value in expected.scores[task.name].items():
                got = found.scores[task.name][metric]
                assert got == pytest.approx(value, abs=SMALLEST[task.unit]), (devices, batch_size, task.name, metric)
