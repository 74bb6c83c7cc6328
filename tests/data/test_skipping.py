"""Bad files passed over: batch k stays a function of (seed, k), evaluation counts nothing twice, and it is reported."""

import dataclasses

import numpy as np
import pytest

from ditask_jax.data.pipeline import eval_batches, train_batches
from ditask_jax.data.wrappers import SkippingSource
from ditask_jax.errors import DataError
from tests.data.specs import SEMSEG


@dataclasses.dataclass(frozen=True)
class Numbers:
    """Tiny examples that show their index; some cannot be read."""

    count: int
    broken: tuple[int, ...] = ()

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index in self.broken:
            raise DataError(f"data: /pictures/{index}.png cannot be decoded")
        return {"image": np.full((8, 8, 3), index, np.uint8), "semseg": np.full((8, 8), index % 12, np.uint8)}


def take(source, count, **options):
    with train_batches(source, [SEMSEG], 8, 4, seed=5, **options) as stream:
        batches = [next(stream) for _ in range(count)]
    return batches, stream.skipped


def test_nothing_changes_where_nothing_is_bad(capfd):
    plain, _ = take(Numbers(10), 6)
    kept, skipped = take(SkippingSource(Numbers(10)), 6)
    assert skipped == {}
    for a, b in zip(plain, kept, strict=True):
        assert a.keys() == b.keys()
        np.testing.assert_array_equal(a["image"], b["image"])
        np.testing.assert_array_equal(a["index"], b["index"])
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("options", [{}, {"workers": 1}, {"threads": 5, "prefetch": 6}])
def test_the_next_good_example_stands_in_and_is_counted(options, capfd):
    plain, _ = take(Numbers(6), 6)
    kept, skipped = take(SkippingSource(Numbers(6, broken=(2, 3, 5))), 6, **options)
    stand_in = np.array([0, 1, 4, 4, 4, 0])
    for a, b in zip(plain, kept, strict=True):
        np.testing.assert_array_equal(b["index"], stand_in[a["index"]])
        np.testing.assert_array_equal(b["image"][:, 0, 0, 0], b["index"])
    assert skipped == {2: 4, 3: 4, 5: 4}  # 24 examples are four passes over 6
    line = "data: passed over 3 bad examples of 6, 12 times in all; the first: /pictures/2.png cannot be decoded"
    assert line in capfd.readouterr().err


def test_resuming_and_several_processes_see_the_same_batches():
    source = SkippingSource(Numbers(7, broken=(1, 6)))
    whole, _ = take(source, 6)
    later, _ = take(source, 3, start_step=3)
    for a, b in zip(whole[3:], later, strict=True):
        np.testing.assert_array_equal(a["image"], b["image"])
    shares = [take(source, 6, process_index=p, process_count=2)[0] for p in range(2)]
    for a, *parts in zip(whole, *shares, strict=True):
        np.testing.assert_array_equal(a["index"], np.concatenate([part["index"] for part in parts]))


@pytest.mark.parametrize("options", [{}, {"original_size": True}])
def test_evaluation_leaves_bad_examples_out(options, capfd):
    with eval_batches(SkippingSource(Numbers(7, broken=(0, 6))), [SEMSEG], 8, 4, **options) as stream:
        batches = list(stream)
    seen = np.concatenate([batch["index"][batch["valid"]] for batch in batches])
    assert seen.tolist() == [1, 2, 3, 4, 5]
    assert [batch["valid"].tolist() for batch in batches] == [[False, True, True, True], [True, True, False, False]]
    assert (batches[0]["labels"]["semseg"][0] == 255).all()
    assert stream.skipped == {0: 1, 6: 1}
    assert "passed over 2 bad examples of 7, 2 times" in capfd.readouterr().err
    assert "asked" not in batches[0]


def test_a_set_of_nothing_but_bad_files_stops():
    with (
        train_batches(SkippingSource(Numbers(100, broken=tuple(range(100)))), [SEMSEG], 8, 4) as stream,
        pytest.raises(DataError, match=r"64 examples in a row cannot be read; the last: data: /pictures/"),
    ):
        next(stream)
