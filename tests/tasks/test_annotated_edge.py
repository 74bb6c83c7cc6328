"""Edges that several people drew: the counts of the Berkeley benchmark, the target of training, pictures."""

import numpy as np
import pytest
from scipy.sparse import csr_array
from scipy.sparse.csgraph import maximum_bipartite_matching

from ditask_jax.labels import erode_lines, pack_annotators, unpack_annotators
from ditask_jax.tasks import EdgeDetection, create_tasks
from ditask_jax.tasks.annotated_edge import AnnotatedEdges, f_measure
from ditask_jax.tasks.edge_matching import FINE_THRESHOLDS, THRESHOLDS, match_annotators, match_edges, thin

from .examples import loss_of

(TASK,) = create_tasks("edge", dataset="bsds")


def random_case(seed, annotators=3, shape=(32, 40)):
    random = np.random.default_rng(seed)
    probability = np.where(random.random(shape) < 0.3, random.random(shape), 0).astype(np.float32)
    return probability, random.random((annotators, *shape)) < 0.1


def test_several_annotators_fit_one_map():
    _, masks = random_case(0, annotators=9)
    known = np.ones(masks.shape[1:], bool)
    known[:4] = False
    packed = np.where(known, pack_annotators(masks), np.uint16(0))
    found, found_known = unpack_annotators(packed)
    np.testing.assert_array_equal(found_known, known)
    np.testing.assert_array_equal(found, masks & known)
    assert not unpack_annotators(np.full((4, 4), 255, np.uint16))[1].any()  # what padded examples hold


def test_one_annotator_is_scored_as_a_plain_label():
    probability, masks = random_case(1, annotators=1)
    right, predicted, matched, actual = match_annotators(probability, masks, np.ones(masks.shape[1:], bool), 0.05)
    plain = match_edges(probability, masks[0].astype(np.uint8), 0.05)
    np.testing.assert_array_equal(right, matched)
    fine, coarse = FINE_THRESHOLDS.index(0.5), THRESHOLDS.index(0.5)
    # Thinned from a lower threshold on, a map may keep other pixels of a line, here and there.
    assert abs(int(matched[fine]) - int(plain[0][coarse])) <= 2
    assert abs(int(predicted[fine]) - int(plain[1][coarse])) <= 4
    assert actual == erode_lines(masks[0]).sum()


@pytest.mark.parametrize("seed", range(2))
def test_recall_adds_up_over_annotators_and_precision_takes_anybody(seed):
    probability, masks = random_case(seed)
    known = np.ones(masks.shape[1:], bool)
    right, predicted, matched, actual = match_annotators(probability, masks, known, 0.03)
    true_lines = [np.argwhere(erode_lines(mask)) for mask in masks]
    assert actual == sum(map(len, true_lines))
    lines = thin(probability, FINE_THRESHOLDS[0])
    for k in (4, 49, 89):
        points = np.argwhere(lines & (probability >= np.float32(FINE_THRESHOLDS[k])))
        gaps = [np.hypot(*(points[:, None] - one[None]).transpose(2, 0, 1)) for one in true_lines]
        close = [gap <= 0.03 * np.hypot(*probability.shape) for gap in gaps]
        pairs = [int((maximum_bipartite_matching(csr_array(one)) >= 0).sum()) for one in close]
        assert predicted[k] == len(points)
        assert matched[k] == sum(pairs)
        assert max(pairs) <= right[k] <= min(sum(pairs), np.any([one.any(1) for one in close], axis=0).sum())


def test_scores_take_one_threshold_for_all_or_each_image_its_own():
    """Two images whose lines are right at different thresholds: only the second score can choose for each."""
    line = np.zeros((40, 40), bool)
    line[20, 4:36] = True
    weak, strong = np.zeros((40, 40), np.float32), np.zeros((40, 40), np.float32)
    weak[20, 4:36] = 0.2
    strong[20, 4:36], strong[::9, 4:36] = 0.9, 0.3
    label = np.stack([pack_annotators([line, line])] * 2)
    sums = TASK.host_sums(np.stack([weak, strong]), label)
    scores = TASK.finalize(sums)
    assert scores["oisF"] == 1
    assert 0.5 < scores["odsF"] < 0.9
    right, predicted, matched, actual = (sums[name].sum(0) for name in ("right", "predicted", "matched", "actual"))
    assert scores["odsF"] == pytest.approx(f_measure(right, predicted, matched, actual).max())
    assert (sums["actual"] == 2 * erode_lines(line).sum()).all()
    ignored = TASK.host_sums(np.stack([weak, strong]), np.zeros_like(label))
    assert TASK.finalize(ignored) == {}
    assert TASK.finalize(TASK.host_sums(np.stack([weak, strong]), label, np.array([True, False])))["odsF"] == 1
    details = TASK.details(sums)
    assert details["f1"][FINE_THRESHOLDS.index(details["best_threshold"])] == max(details["f1"])


def test_training_leaves_out_what_few_of_them_drew():
    masks = np.zeros((5, 1, 6), bool)
    for column, votes in enumerate((0, 1, 2, 5)):
        masks[:votes, 0, column] = True
    label = pack_annotators(masks)
    label[0, 4:] = 0, 255  # brought in by a rotation; of a padded example
    logits = np.linspace(-2, 2, 6, dtype=np.float32).reshape(1, 1, 6, 1)
    expected = np.array([[[0, 255, 1, 1, 255, 255]]], np.uint8)
    want = loss_of(EdgeDetection())(logits, expected)
    assert float(loss_of(TASK)(logits, label[None])) == float(want) > 0
    half = AnnotatedEdges(agreement=0.5)
    expected[0, 0, 2] = 255
    want = loss_of(EdgeDetection())(logits, expected)
    assert float(loss_of(half)(logits, label[None])) == float(want)


def test_labels_are_drawn_as_shares():
    label = pack_annotators([np.array([[True, True, False]]), np.array([[True, False, False]])])
    label[0, 2] = 0
    assert TASK.picture(label)[0].tolist() == [[255] * 3, [128] * 3, [200, 60, 60]]
    assert TASK.picture(np.array([[0.5]], np.float32))[0].tolist() == [[128] * 3]
    assert TASK.colour_key()[0].text == "probability, or share of annotators, 0 to 1"
