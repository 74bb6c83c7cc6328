"""Classification against formulas, with padded and unlabelled images, and whatever the split into batches."""

import jax
import numpy as np
import pytest

from ditask_jax.tasks import Classification, delta_m_of, load_references

CLASSES = 5
TASK = Classification(num_outputs=CLASSES, class_names=tuple(f"class {k}" for k in range(CLASSES)))


@pytest.fixture
def batch():
    random = np.random.default_rng(0)
    logits = random.normal(size=(12, CLASSES)).astype(np.float32)
    label = random.integers(0, CLASSES, 12).astype(np.int32)
    label[3] = -1
    valid = np.arange(12) != 7
    return logits, label, valid


def test_loss_is_the_cross_entropy_of_labelled_pictures(batch):
    logits, label, valid = batch
    known = valid & (label >= 0)
    wide = logits.astype(np.float64)
    entropy = np.log(np.exp(wide).sum(-1)) - wide[np.arange(12), np.maximum(label, 0)]
    value, gradient = jax.value_and_grad(TASK.loss)(logits, label, valid)
    np.testing.assert_allclose(value, entropy[known].mean(), rtol=1e-6)
    probability = np.exp(wide) / np.exp(wide).sum(-1, keepdims=True)
    expected = (probability - np.eye(CLASSES)[label]) * known[:, None] / known.sum()
    np.testing.assert_allclose(gradient, expected, atol=1e-7)


def test_without_a_label_loss_and_gradient_are_zero(batch):
    logits, label, valid = batch
    for wrong_label, wrong_valid in ((np.full_like(label, -1), valid), (label, np.zeros_like(valid))):
        value, gradient = jax.value_and_grad(TASK.loss)(1e4 * logits, wrong_label, wrong_valid)
        assert float(value) == 0
        assert not np.any(gradient)
        assert TASK.finalize(TASK.metric_sums(logits, wrong_label, wrong_valid)) == {}


def test_accuracy_counts_every_picture_once(batch):
    logits, label, valid = batch
    right = [np.argmax(logits[k]) == label[k] for k in range(12) if valid[k] and label[k] >= 0]
    whole = TASK.accumulate(None, jax.device_get(TASK.metric_sums(logits, label, valid)))
    assert TASK.finalize(whole) == {"top1": np.mean(right)}
    assert TASK.details(whole) == {"correct": sum(right), "images": 10}
    total = None
    for rows in (slice(0, 5), slice(5, 12)):
        total = TASK.accumulate(total, jax.device_get(TASK.metric_sums(logits[rows], label[rows], valid[rows])))
    assert total == whole


def test_pictures_and_captions():
    colours = {TASK.render(np.int32(k)).reshape(-1, 3)[0].tobytes() for k in range(CLASSES)}
    assert len(colours) == CLASSES
    assert TASK.render(np.int32(-1)).max() == 0
    assert [TASK.caption(np.int32(k)) for k in (0, 4, -1)] == ["class 0", "class 4", "no label"]
    many = Classification(num_outputs=400, class_names=("x",) * 400)
    assert many.render(np.int32(399)).shape == many.render(np.int32(0)).shape


def test_delta_m_of_a_single_task(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text('{"scores": {"classification": {"metric": "top1", "value": 0.5}}}')
    scores = {"classification": {"top1": 0.6}}
    assert delta_m_of((TASK,), scores, load_references("vtab", file)) == pytest.approx(20.0)
    assert delta_m_of((TASK,), scores, load_references("vtab")) is None
