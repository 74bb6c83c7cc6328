"""Scores that nothing was measured for are unknown everywhere: in memory, in files, on paper; and JSON stays JSON."""

import json
import math

import numpy as np
import pytest

from ditask_jax.errors import ConfigError
from ditask_jax.files import atomic_write_json, json_text
from ditask_jax.reports.comparison import compare
from ditask_jax.reports.drawing import gain_curve
from ditask_jax.reports.model_card import model_card
from ditask_jax.reports.report_html import report_page
from ditask_jax.reports.runs import read_run
from ditask_jax.scenes import ScenesSource
from ditask_jax.sweeps.running import has_unknown_scores, score_of
from ditask_jax.tasks import create_tasks, delta_m, delta_m_of, load_references
from ditask_jax.training.checkpoints import Checkpointer
from ditask_jax.training.evaluation import check_best_metric, evaluate, score_table
from ditask_jax.training.metrics_log import METRICS_NAME, MetricsWriter, read_metrics
from ditask_jax.training.sharding import make_mesh
from tests.reports.folders import write_run

TASKS = create_tasks("semseg+human_parts+sal+normals+depth+edge", dataset="scenes")
(CLASSES,) = create_tasks("classification", dataset="vtab", num_classes={"classification": 3})
NAMES = [task.name for task in TASKS]
SIZE = (32, 32)


def strict(text: str):
    """What a reader makes of it that holds to the standard."""

    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    return json.loads(text, parse_constant=refuse)


class Unlabelled:
    """Scenes without a label of some tasks."""

    def __init__(self, *without: str):
        self.without = without

    def __len__(self):
        return 3

    def __getitem__(self, index):
        example = dict(ScenesSource("val", SIZE, num_examples=3)[index])
        for name in self.without:
            example[name] = np.full_like(example[name], 0 if name in ("normals", "depth") else 255)
        return example


# Sums that are no counts.
REAL = {"iou", "precision", "recall", "angle", "squared_angle", "angle_arccos", "squared_error", "squared_log_error"}


def scored(*without: str, factor: float = 1.0):
    """An evaluation with made-up sums: counts of one where there is a label, real sums and losses of the factor."""

    def step(placed):
        images = len(placed["valid"])
        sums, losses = {}, {}
        for task in TASKS:
            known = float(task.name not in without)
            value = lambda name, known=known: known * factor if name in REAL else int(known)
            sums[task.name] = {n: np.full((images, *s), value(n)) for n, s in task.sum_shapes.items()}
            losses[task.name] = np.float32(known * factor)
        decoded = {task.name: np.full((images, *SIZE), 0.5, np.float32) for task in TASKS if task.on_host}
        return sums, losses, decoded | {task.name: None for task in TASKS if not task.on_host}

    references = load_references("scenes")
    return evaluate(step, (), Unlabelled(*without), TASKS, SIZE, 3, make_mesh(1), references, threads=1)


@pytest.mark.parametrize("without", [(name,) for name in NAMES] + [tuple(NAMES)], ids=lambda names: names[-1])
def test_a_task_without_labels_has_no_score_no_loss_and_no_delta_m(without, tmp_path):
    found = scored(*without)
    for task in TASKS:
        if task.name in without:
            assert found.scores[task.name] == {task.primary_metric: None}
            assert found.losses[task.name] is None
        else:
            assert math.isfinite(found.scores[task.name][task.primary_metric])
            assert found.losses[task.name] is not None
    assert found.delta_m is None
    assert "unknown" in str(found)
    table = score_table(found, TASKS)
    lines = {line.split()[0]: line for line in table.splitlines()}
    assert all(("unknown" in lines[task.name]) == (task.name in without) for task in TASKS)
    assert f"unknown (no score of {' '.join(without)})" in table

    content = strict(atomic_write_json(tmp_path / "evaluation.json", found.to_json()).read_text())
    for task in TASKS:
        assert (content["scores"][task.name][task.primary_metric] is None) == (task.name in without)
    assert content["delta_m"] is None
    with MetricsWriter(tmp_path) as writer:
        writer.write(1, found.metrics())
    strict((tmp_path / METRICS_NAME).read_text())
    assert read_metrics(tmp_path)[0][f"val/tasks/{without[0]}/loss"] is None


def test_all_labels_give_all_scores():
    found = scored()
    assert found.delta_m is not None
    assert None not in found.losses.values()
    assert "unknown" not in score_table(found, TASKS)


@pytest.mark.parametrize("factor", [float("inf"), float("nan")])
def test_numbers_that_are_not_finite_are_unknown(factor):
    depth = next(task for task in TASKS if task.name == "depth")
    total = {name: np.float64(1) for name in depth.sum_shapes} | {"squared_error": np.float64(factor)}
    assert set(depth.finalize(total)) == {"log_rmse"}
    with np.errstate(invalid="ignore"):
        found = scored(factor=factor)
    assert set(found.losses.values()) == {None}
    assert found.scores["depth"] == {"rmse": None}
    assert found.delta_m is None
    strict(json_text(found.to_json()))
    assert delta_m_of((depth,), {"depth": {"rmse": factor}}, {"depth": 1.0}) is None
    assert delta_m_of((depth,), {"depth": {"rmse": None}}, {"depth": 1.0}) is None
    with pytest.raises(ConfigError, match=r"score of 'depth': got (inf|nan), expected a finite number"):
        delta_m({"depth": factor}, {"depth": 1.0}, {"depth": False})
    with pytest.raises(ConfigError, match="score of 'depth': got None"):
        delta_m({"depth": None}, {"depth": 1.0}, {"depth": False})


@pytest.mark.parametrize("task", [*TASKS, CLASSES], ids=lambda task: task.name)
def test_totals_of_zero_have_neither_scores_nor_details(task):
    total = {name: np.zeros(shape, np.int64) for name, shape in task.sum_shapes.items()}
    assert task.finalize(total) == {}
    assert task.details(total) == {}
    some = {name: np.ones(shape, np.int64) for name, shape in task.sum_shapes.items()}
    assert task.primary_metric in task.finalize(some)
    assert task.details(some) or type(task).__name__ in ("SurfaceNormals", "Depth")


@pytest.mark.parametrize(
    "score",
    [
        lambda total: int(total["squared_error"]) / int(total["pixels"]),
        lambda total: total["squared_error"] / total["pixels"],
        lambda total: None,
    ],
    ids=["Python's numbers", "NumPy's", "None"],
)
def test_a_plug_in_may_divide_by_nothing(score):
    class Unguarded(type(next(task for task in TASKS if task.name == "depth"))):
        def _scores(self, total):
            return {"rmse": score(total)}

    task = Unguarded()
    total = {name: np.zeros(shape, np.int64) for name, shape in task.sum_shapes.items()}
    assert task.finalize(total) == {}
    assert task.details(total) == {}


def test_the_best_checkpoint_is_one_that_has_the_score(tmp_path):
    name = "val/tasks/semseg/mIoU"
    with Checkpointer(tmp_path, 9, name) as checkpointer:
        for step, value in ((1, 0.5), (2, None), (3, float("nan")), (4, 0.25)):
            checkpointer.save(step, {"a": np.zeros(2)}, {}, {name: value}, block=True)
        assert checkpointer.best() == 1
        for step in checkpointer.steps():
            strict((tmp_path / str(step) / "manifest.json").read_text())
    unknown = scored("semseg")
    for metric in (name, "val/tasks/semseg/loss", "val/delta_m", "val/tasks/depth/rmse"):
        check_best_metric(metric, unknown)
    for metric in ("val/tasks/semsge/mIoU", "val/delta"):
        with pytest.raises(ConfigError, match="unknown name"):
            check_best_metric(metric, unknown)


@pytest.mark.parametrize("value", ["null", "NaN", "Infinity"])
def test_readers_take_unknown_scores_and_files_of_older_versions(value, tmp_path):
    known = write_run(tmp_path / "known", 1.0, ("seed=1",))
    path = write_run(tmp_path / "unknown", 1.0, ("seed=2",))
    content = json.loads((path / "evaluation.json").read_text())
    content["scores"]["depth"]["rmse"] = content["delta_m"] = content["losses"] = "@"
    content["losses"] = {"depth": "@", "sal": 0.5}
    (path / "evaluation.json").write_text(json.dumps(content).replace('"@"', value))
    row = {"step": 450, "train/loss": 1.0, "val/tasks/depth/rmse": "@", "val/delta_m": "@"}
    with open(path / METRICS_NAME, "a") as file:
        file.write(json.dumps(row).replace('"@"', value) + "\n")

    run = read_run(path)
    depth = next(task for task in run.tasks if task.name == "depth")
    assert run.primary(depth) is None
    assert run.delta_m is None
    assert run.series("val/delta_m") == ([], [])
    assert gain_curve(run, load_references("scenes")) == ([], [])
    table = compare([read_run(known), run], [])
    for text in (table.markdown(), table.csv(), model_card(run), report_page([run])):
        assert "nan" not in text.lower().replace("nano", "").replace("finance", "")
        assert "infinity" not in text.lower()
    assert "the score of depth is unknown" in model_card(run)

    class job:
        workdir = path

    assert score_of(job, "depth/rmse") is None
    assert score_of(job, "delta_m") is None
    assert has_unknown_scores(job)
