"""A part of the training split that is kept aside: what is in it, and that nothing else depends on it."""

import pickle

import pytest

from ditask_jax.config import load_config
from ditask_jax.data.wrappers import aside
from ditask_jax.errors import DataError
from ditask_jax.scenes import ScenesSource
from ditask_jax.training.experiment import build_source, known_examples

SOURCE = ScenesSource("train", 32, num_examples=50)


def _numbers(fraction, scored):
    return aside(SOURCE, fraction, scored).numbers.tolist()


def test_the_parts_are_the_whole_and_larger_ones_hold_smaller_ones():
    for fraction in (0.01, 0.2, 0.5, 0.97):
        kept, rest = _numbers(fraction, True), _numbers(fraction, False)
        assert sorted(kept + rest) == list(range(50))
        assert len(kept) == max(round(50 * fraction), 1)
        assert kept == sorted(kept)
        assert rest == sorted(rest)
    assert set(_numbers(0.2, True)) < set(_numbers(0.5, True))


def test_which_they_are_is_recorded():
    """Another choice would make scores of finished searches those of other examples."""
    assert _numbers(0.1, True) == [0, 7, 39, 45, 49]


def test_nothing_left_to_train_on_is_an_error():
    with pytest.raises(DataError, match=r"held_aside 0\.99 of 50 examples leaves none to train on"):
        aside(SOURCE, 0.99, False)


def test_examples_attributes_and_pickling_are_those_of_the_whole():
    part = aside(SOURCE, 0.2, True, most=3)
    assert len(part) == 3
    assert part[2]["id"] == SOURCE[part.numbers[2]]["id"]
    assert part.split == SOURCE.split
    assert pickle.loads(pickle.dumps(part)).numbers.tolist() == part.numbers.tolist()


def test_both_splits_of_a_configuration_are_of_training():
    changes = ["data.train_examples=40", "data.eval_examples=none", "data.held_aside=0.25"]
    config = load_config("configs/smoke.py", changes)
    train, val = build_source(config, "train"), build_source(config, "val")
    ids = lambda source: {source[k]["id"] for k in range(len(source))}
    whole = build_source(load_config("configs/smoke.py", changes[:2]), "train")
    assert (len(train), len(val)) == (30, 10)
    assert ids(train) | ids(val) == ids(whole)
    assert not ids(train) & ids(val)
    assert known_examples(config) == 30
    assert len(build_source(load_config("configs/smoke.py", changes[::2]), "val")) == 6
