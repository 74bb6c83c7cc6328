"""Scores against those of the PyTorch originals."""

import jax
import numpy as np
import pytest

from ditask_jax.tasks import delta_m

from .golden import Golden, find
from .test_losses import as_batch, task_for

_HIGHER_IS_BETTER = {"semseg": True, "human_parts": True, "sal": True, "edge": True, "normals": False, "depth": False}
# Scored over image rows instead of images; a loss of probabilities taken for logits.
_NOT_OURS = ("sal_batch1", "edge")


def _cases() -> list:
    return [
        pytest.param(path, case, id=f"{path.stem}-{case}")
        for path in find("metrics")
        for case in sorted({name.split("/")[0] for name in Golden(path)})
        if not case.startswith(_NOT_OURS)
    ]


def _examples() -> list:
    return [
        pytest.param(example, id=f"{path.stem}-{k}")
        for path in find("metrics")
        for k, example in enumerate(Golden(path).meta.get("scores", {}).get("delta_m", []))
    ]


@pytest.mark.parametrize(("path", "case"), _cases())
def test_scores(path, case):
    golden = Golden(path)
    predictions, labels = golden.under(f"{case}/pred/"), golden.under(f"{case}/gt/")
    task = task_for(case, next(iter(predictions.values())).shape[1])
    assert task is not None, f"{case} belongs to no task"
    total = None
    for batch in sorted(predictions, key=int):
        logits = predictions[batch].transpose(0, 2, 3, 1)
        sums = jax.jit(task.metric_sums)(logits, as_batch(task, labels[batch]))
        total = task.accumulate(total, jax.tree.map(np.asarray, sums))
    scores, expected = task.finalize(total), golden.meta["scores"][case]
    if task.name in ("semseg", "human_parts"):
        assert scores["mIoU"] == pytest.approx(expected["mIoU"], abs=1e-6)
        got = list(task.details(total)["class_iou"].values())
        np.testing.assert_allclose(got, expected["jaccards_all_categs"], rtol=0, atol=1e-6)
    elif task.name == "sal":
        assert scores["mIoU"] == pytest.approx(expected["mIoU"], abs=1e-6)
        assert scores["maxF"] == pytest.approx(expected["maxF"], abs=1e-6)
    elif task.name == "normals":
        assert scores["mean"] == pytest.approx(expected["mean_v2"], abs=1e-3)
        assert scores["mean_arccos"] == pytest.approx(expected["mean"], abs=1e-3)
    else:
        assert scores["rmse"] == pytest.approx(expected["rmse"], rel=1e-5)
        assert scores["log_rmse"] == pytest.approx(expected["log_rmse"], rel=1e-5)


@pytest.mark.parametrize("example", _examples())
def test_delta_m(example):
    scores, references = (
        {task: next(iter(metrics.values())) for task, metrics in example[side].items()} for side in ("multi", "single")
    )
    assert delta_m(scores, references, _HIGHER_IS_BETTER) == pytest.approx(100 * example["value"], abs=1e-6)
