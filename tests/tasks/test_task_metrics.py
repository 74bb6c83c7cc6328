"""Scores against brute force, and sums that do not depend on how examples are split."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from ditask_jax.tasks import Depth, HumanParts, Saliency, SemanticSegmentation, SurfaceNormals

from .examples import ALL_TASKS, ignored_label, random_label, random_logits, sums_of, unit_vectors

SHAPE = (4, 9, 11)
DEVICE_TASKS = [task for task in ALL_TASKS if not task.on_host]


def scores_by_hand(task, logits, label, valid) -> dict[str, float]:
    """Every metric by its definition, with one loop over pixels or images."""
    images = [k for k in range(len(label)) if valid[k]]
    logits, label = logits.astype(np.float64), label.astype(np.float64)
    pixels = [i for i in np.ndindex(*logits.shape[:3]) if valid[i[0]] and np.all(label[i] != 255)]
    if isinstance(task, SemanticSegmentation | HumanParts):
        ratios = []
        for c in range(task.num_outputs):
            both = sum(label[i] == c and np.argmax(logits[i]) == c for i in pixels)
            either = sum(label[i] == c or np.argmax(logits[i]) == c for i in pixels)
            ratios.append(both / either if either else 0.0)
        return {"mIoU": np.mean(ratios)}
    if isinstance(task, Saliency):
        iou, f1 = [], []
        for step in range(15):
            threshold = 0.20 + 0.05 * step
            ratios = []
            for k in images:
                predicted, actual = 1 / (1 + np.exp(-logits[k, ..., 0])) > threshold, label[k] == 1
                hit, union = (predicted & actual).sum(), (predicted | actual).sum()
                ratios.append((hit / union if union else 1, hit / max(predicted.sum(), 1), hit / max(actual.sum(), 1)))
            mean_iou, precision, recall = np.mean(ratios, axis=0)
            iou.append(mean_iou)
            f1.append(2 * precision * recall / (precision + recall) if precision + recall else 0.0)
        return {"mIoU": max(iou), "maxF": max(f1)}
    if isinstance(task, SurfaceNormals):
        cosines = [np.dot(logits[i], label[i]) / np.linalg.norm(logits[i]) for i in pixels]
        angles = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
        return {
            "mean": angles.mean(),
            "mean_arccos": angles.mean(),
            "rmse_true": math.sqrt((angles**2).mean()),
            "within_11.25": (angles < 11.25).mean(),
            "within_22.5": (angles < 22.5).mean(),
            "within_30": (angles < 30).mean(),
        }
    predicted = np.array([max(logits[i][0], 1e-9) for i in pixels])
    actual = np.array([label[i] for i in pixels])
    return {
        "rmse": math.sqrt(((predicted - actual) ** 2).mean()),
        "log_rmse": math.sqrt(((np.log(predicted) - np.log(actual)) ** 2).mean()),
    }


@pytest.mark.parametrize("task", DEVICE_TASKS, ids=lambda task: task.name)
@pytest.mark.parametrize("valid", [(True,) * 4, (True, True, False, True)], ids=["full", "padded"])
def test_scores_agree_with_brute_force(task, valid):
    random = np.random.default_rng(10)
    logits, label = random_logits(task, random, SHAPE), random_label(task, random, SHAPE)
    if task.name == "normals":
        logits = np.where(label == 255, 1, label + 0.4 * logits).astype(np.float32)
    expected = scores_by_hand(task, logits, label, valid)
    scores = task.finalize(sums_of(task, logits, label, np.array(valid)))
    assert scores.keys() == expected.keys()
    assert task.primary_metric in scores
    for name, value in expected.items():
        np.testing.assert_allclose(scores[name], value, rtol=3e-6, err_msg=name)


def total_of(task, parts):
    total = None
    for logits, label, valid in parts:
        total = task.accumulate(total, sums_of(task, logits, label, valid))
    return total


def assert_same_total(got, expected, name):
    """Counts to the last unit; the compiler may vectorise real values otherwise for other shapes, which moves bits."""
    if expected.dtype.kind in "iu":
        np.testing.assert_array_equal(got, expected, err_msg=name)
    else:
        np.testing.assert_allclose(got, expected, rtol=3e-7, err_msg=name)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_totals_do_not_depend_on_the_split_into_batches(task):
    random = np.random.default_rng(11)
    shape = (6, 20, 24)
    logits, label = random_logits(task, random, shape), random_label(task, random, shape)
    everything = np.ones(6, bool)
    whole = total_of(task, [(logits, label, everything)])
    for size in (1, 4):
        parts = []
        for start in range(0, 6, size):
            rows = np.arange(start, start + size)
            # The last batch is filled up with a repeated example that must count nowhere.
            parts.append((logits[np.minimum(rows, 5)], label[np.minimum(rows, 5)], rows < 6))
        split = total_of(task, parts)
        for name, value in whole.items():
            assert_same_total(split[name], value, f"{name}, batches of {size}")
    assert task.finalize(whole) == task.finalize(sums_of(task, logits, label, everything))


@pytest.mark.parametrize("task", DEVICE_TASKS, ids=lambda task: task.name)
def test_totals_do_not_depend_on_the_number_of_devices(task):
    devices = jax.devices()
    random = np.random.default_rng(12)
    shape = (2 * len(devices), 12, 20)
    logits, label = random_logits(task, random, shape), random_label(task, random, shape)
    valid = np.arange(shape[0]) != shape[0] - 1
    sharding = NamedSharding(jax.make_mesh((len(devices),), ("data",)), PartitionSpec("data"))
    spread = sums_of(task, *jax.device_put((logits, label, valid), sharding))
    alone = sums_of(task, logits, label, valid)
    for name in alone:
        assert_same_total(spread[name], alone[name], name)


@pytest.mark.parametrize("task", ALL_TASKS, ids=lambda task: task.name)
def test_sums_have_the_declared_shapes_and_no_nan_without_labels(task):
    random = np.random.default_rng(13)
    sums = sums_of(task, random_logits(task, random, SHAPE), ignored_label(task, SHAPE))
    assert sums.keys() == task.sum_shapes.keys()
    for name, array in sums.items():
        assert len(array) == SHAPE[0]
        assert array.shape[array.ndim - len(task.sum_shapes[name]) :] == task.sum_shapes[name]
        assert not np.any(array), name
    assert task.finalize(task.accumulate(None, sums)) == {}
    assert task.finalize(None) == {}


def test_accumulate_adds_real_sums_in_order_so_that_splits_agree_to_the_bit():
    task = Depth()
    random = np.random.default_rng(17)
    rows = {name: random.lognormal(sigma=9, size=(16, 5)).astype(np.float32) for name in task.sum_shapes}
    whole = task.accumulate(None, rows)
    for size in (1, 3, 8):
        split = None
        for start in range(0, 16, size):
            split = task.accumulate(split, {name: array[start : start + size] for name, array in rows.items()})
        assert split == whole
        assert whole["squared_error"].dtype == np.float64


def test_accumulate_widens_and_leaves_its_arguments_alone():
    task = SemanticSegmentation(num_outputs=2, class_names=("background", "cat"))
    sums = {"confusion": np.full((2, 2, 2), 2**31 - 1, np.int32)}
    first = task.accumulate(None, sums)
    second = task.accumulate(first, sums)
    assert first["confusion"].dtype == np.int64
    assert first["confusion"].tolist() == [[2 * (2**31 - 1)] * 2] * 2
    assert second["confusion"].tolist() == [[4 * (2**31 - 1)] * 2] * 2


def test_class_iou_by_name_and_absent_class_counts_zero():
    task = SemanticSegmentation(num_outputs=3, class_names=("background", "cat", "dog"))
    label = np.array([[[0, 0, 1, 255]]], np.uint8)
    logits = jax.nn.one_hot(np.array([[[0, 1, 1, 2]]]), 3)
    sums = sums_of(task, logits, label)
    assert task.finalize(sums)["mIoU"] == pytest.approx((0.5 + 0.5 + 0) / 3)
    details = task.details(sums)
    assert details["class_iou"] == {"background": 0.5, "cat": 0.5, "dog": 0.0}
    assert details["pixel_accuracy"] == pytest.approx(2 / 3)
    assert details["labelled_pixels"] == 3


def test_people_less_images_do_not_change_human_parts():
    task = HumanParts(num_outputs=3, class_names=("background", "head", "torso"))
    random = np.random.default_rng(14)
    logits, label = random_logits(task, random, SHAPE), random_label(task, random, SHAPE)
    label[2] = 255
    with_empty = task.finalize(sums_of(task, logits, label))
    without = task.finalize(sums_of(task, np.delete(logits, 2, axis=0), np.delete(label, 2, axis=0)))
    assert with_empty == without


def test_saliency_of_empty_images_is_one_where_nothing_is_predicted():
    task = Saliency()
    label = np.zeros((1, 3, 3), np.uint8)
    assert task.finalize(sums_of(task, np.full((1, 3, 3, 1), -9, np.float32), label)) == {"mIoU": 1.0, "maxF": 0.0}
    assert task.finalize(sums_of(task, np.full((1, 3, 3, 1), 9, np.float32), label)) == {"mIoU": 0.0, "maxF": 0.0}


def test_saliency_threshold_is_strict():
    task = Saliency()
    sums = sums_of(task, np.zeros((1, 2, 2, 1), np.float32), np.ones((1, 2, 2), np.uint8))
    at_half = task.details(sums)["thresholds"].index(0.5)
    assert sums["iou"][0].tolist() == [1.0] * at_half + [0.0] * (15 - at_half)


def test_normals_angles_are_exact_near_zero_and_at_opposite_vectors():
    task = SurfaceNormals()
    label = unit_vectors(np.random.default_rng(15), (1, 64, 64))
    assert task.finalize(sums_of(task, 3 * label, label))["mean"] < 1e-4
    assert task.finalize(sums_of(task, -3 * label, label))["mean"] == pytest.approx(180, abs=1e-4)
    tilt = np.radians(0.01)
    plain = np.broadcast_to(np.float32([0, 0, 1]), (1, 4, 4, 3))
    tilted = np.broadcast_to(np.float32([np.sin(tilt), 0, np.cos(tilt)]), (1, 4, 4, 3))
    assert task.finalize(sums_of(task, tilted, plain))["mean"] == pytest.approx(0.01, rel=1e-4)


def test_decoded_predictions():
    semseg, parts, sal, normals, depth, edge = ALL_TASKS
    random = np.random.default_rng(16)
    logits = {task.name: random_logits(task, random, SHAPE) for task in ALL_TASKS}
    for task in (semseg, parts):
        classes = task.decode(logits[task.name])
        assert classes.dtype == jnp.int32
        np.testing.assert_array_equal(classes, logits[task.name].argmax(-1))
    for task in (sal, edge):
        np.testing.assert_allclose(
            task.decode(logits[task.name]), 1 / (1 + np.exp(-logits[task.name][..., 0])), rtol=1e-5
        )
    np.testing.assert_allclose(jnp.linalg.norm(normals.decode(logits["normals"]), axis=-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(depth.decode(logits["depth"]), np.maximum(logits["depth"][..., 0], 0))


def test_depth_prediction_is_clamped_before_the_logarithm():
    task = Depth()
    scores = task.finalize(sums_of(task, np.full((1, 2, 2, 1), -5, np.float32), np.ones((1, 2, 2), np.float32)))
    assert scores["rmse"] == pytest.approx(1.0)
    assert scores["log_rmse"] == pytest.approx(9 * math.log(10), rel=1e-6)
