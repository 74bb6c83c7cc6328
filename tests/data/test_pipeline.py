"""Batches: a function of (seed, step) whatever the processes, threads and workers; evaluation covers all once."""

import dataclasses

import cv2
import jax
import numpy as np
import pytest

from ditask_jax import shell
from ditask_jax.data.augment import Augmentation, Draw, transform
from ditask_jax.data.pipeline import eval_batches, num_eval_batches, train_batches
from ditask_jax.data.sources import open_source
from ditask_jax.data.wrappers import CachedSource
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.labels import LabelSpec
from ditask_jax.scenes import ScenesSource
from tests.data.sources import Numbers
from tests.data.specs import ALL, DEPTH, NORMALS, SEMSEG


def take(count, source=None, batch_size=4, seed=3, **options):
    source = source or ScenesSource("train", 32, num_examples=10)
    with train_batches(source, ALL, (24, 32), batch_size, seed, Augmentation(), **options) as batches:
        return [next(batches) for _ in range(count)]


def assert_equal(some, others):
    assert len(some) == len(others)
    for a, b in zip(some, others, strict=True):
        np.testing.assert_array_equal(a["index"], b["index"])
        np.testing.assert_array_equal(a["image"], b["image"])
        assert a["labels"].keys() == b["labels"].keys()
        for name in a["labels"]:
            np.testing.assert_array_equal(a["labels"][name], b["labels"][name])


@pytest.fixture(scope="module")
def reference():
    return take(6)


def test_shape_and_dtype_of_a_batch(reference):
    batch = reference[0]
    assert set(batch) == {"image", "labels", "valid", "index"}
    assert batch["image"].shape == (4, 24, 32, 3)
    assert batch["image"].dtype == np.uint8
    assert batch["valid"].dtype == bool
    assert batch["valid"].all()
    assert batch["index"].dtype == np.int64
    for spec in ALL:
        shape = (4, 24, 32, 3) if spec.channels == 3 else (4, 24, 32)
        assert batch["labels"][spec.name].shape == shape
        assert batch["labels"][spec.name].dtype == spec.dtype


@pytest.mark.parametrize("options", [{"threads": 1}, {"threads": 5}, {"prefetch": 7}])
def test_threads_and_prefetching_change_nothing(reference, options):
    assert_equal(take(6, **options), reference)


def test_resuming_needs_the_step_only(reference):
    assert_equal(take(3, start_step=3), reference[3:])
    assert_equal(take(1, start_step=5), reference[5:])


@pytest.mark.parametrize("count", [2, 4])
def test_processes_share_the_same_global_batches(reference, count):
    assert_equal(joined([take(6, process_index=p, process_count=count) for p in range(count)]), reference)


def joined(shares):
    """The global batches of which processes have read a block of rows each."""
    return [jax.tree.map(lambda *rows: np.concatenate(rows), *parts) for parts in zip(*shares, strict=True)]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2, 3])
def test_processes_with_workers_read_the_same_rows(reference, workers):
    shares = [take(4, process_index=p, process_count=2, start_step=2, workers=workers) for p in range(2)]
    assert_equal(joined(shares), reference[2:])


def test_worker_processes_change_nothing_and_pass_errors_on(reference):
    assert_equal(take(2, start_step=4, workers=1), reference[4:])
    with (
        train_batches(Numbers(4, broken=2), [SEMSEG], 8, 4, workers=1) as batches,
        pytest.raises(DataError, match=r"^folder: /pictures/2\.png cannot be decoded$"),
    ):
        next(batches)


@pytest.mark.slow
def test_a_worker_that_dies_is_one_line():
    with (
        train_batches(Numbers(4, deadly=2), [SEMSEG], 8, 4, workers=1) as batches,
        pytest.raises(DataError, match=r"^data: a reading process ended with exit code -9: it was killed, usually"),
    ):
        next(batches)


def test_every_pass_covers_all_examples_in_another_order_with_other_draws():
    with train_batches(Numbers(12), [SEMSEG], 8, 4, seed=1) as stream:
        order = np.concatenate([next(stream)["index"] for _ in range(9)])
    passes = order.reshape(3, 12)
    for one in passes:
        assert sorted(one) == list(range(12))
    assert not np.array_equal(passes[0], passes[1])
    source = ScenesSource("train", 32, num_examples=1)
    images = [batch["image"][0] for batch in take(6, source, batch_size=1)]
    assert len({image.tobytes() for image in images}) == 6


def test_seeds_differ():
    assert not np.array_equal(take(1)[0]["image"], take(1, seed=4)[0]["image"])


def test_a_batch_may_be_larger_than_the_data_set():
    with train_batches(Numbers(3), [SEMSEG], 8, 8) as stream:
        batch = next(stream)
    assert batch["image"].shape[0] == 8
    assert np.bincount(batch["index"]).tolist() in ([3, 3, 2], [3, 2, 3], [2, 3, 3])


@pytest.mark.parametrize(("count", "batch_size"), [(10, 4), (8, 4), (3, 8), (1, 2)])
@pytest.mark.parametrize("processes", [1, 2])
def test_evaluation_covers_everything_once_and_marks_the_filling(count, batch_size, processes):
    seen, lengths = [], []
    for p in range(processes):
        with eval_batches(Numbers(count), [SEMSEG], 8, batch_size, p, processes) as stream:
            batches = list(stream)
        lengths.append(len(batches))
        for batch in batches:
            assert batch["image"].shape[0] == batch_size // processes
            np.testing.assert_array_equal(batch["valid"], batch["index"] >= 0)
            assert (batch["labels"]["semseg"][~batch["valid"]] == 255).all()
            for index, image in zip(batch["index"], batch["image"], strict=True):
                assert index < 0 or (image == index).all()
            seen += batch["index"][batch["valid"]].tolist()
    assert sorted(seen) == list(range(count))
    assert lengths == [num_eval_batches(count, batch_size)] * processes


def test_evaluation_only_resizes():
    source = ScenesSource("val", 32, num_examples=5)
    with eval_batches(source, ALL, (20, 28), 2) as stream:
        batches = list(stream)
    want = transform(source[3], ALL, (20, 28))
    np.testing.assert_array_equal(batches[1]["image"][1], want["image"])
    for spec in ALL:
        np.testing.assert_array_equal(batches[1]["labels"][spec.name][1], want["labels"][spec.name])


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Examples of different sizes, with a class of the image beside a map."""

    sizes: tuple[tuple[int, int], ...] = ((30, 40), (200, 100), (129, 20))

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index]
        semseg = np.arange(height * width, dtype=np.int64).reshape(height, width) % 12
        image = np.zeros((height, width, 3), np.uint8)
        return {"image": image, "semseg": semseg.astype(np.uint8), "classification": 300 + index}


CLASS = LabelSpec("classification", dtype="int32", num_values=397, is_map=False)


def test_labels_at_their_own_size_are_filled_up_with_ignored_pixels():
    source = Sizes()
    with eval_batches(source, (SEMSEG, CLASS), (16, 16), 2, original_size=True) as stream:
        batches = list(stream)
    assert [batch["labels"]["semseg"].shape for batch in batches] == [(2, 256, 128), (2, 256, 128)]
    assert batches[0]["size"].tolist() == [[30, 40], [200, 100]]
    assert batches[1]["valid"].tolist() == [True, False]
    assert [batch["labels"]["classification"].tolist() for batch in batches] == [[300, 301], [302, -1]]
    assert batches[0]["image"].shape == (2, 16, 16, 3)
    for k, (height, width) in enumerate(source.sizes):
        label = batches[k // 2]["labels"]["semseg"][k % 2]
        np.testing.assert_array_equal(label[:height, :width], source[k]["semseg"])
        assert (label[height:] == 255).all()
        assert (label[:, width:] == 255).all()
    assert (batches[1]["labels"]["semseg"][1] == 255).all()


def test_classes_of_pictures_come_as_a_vector():
    with train_batches(Sizes(), (CLASS,), 16, 2, augmentation=Augmentation()) as stream:
        batch = next(stream)
    assert batch["labels"]["classification"].dtype == np.int32
    np.testing.assert_array_equal(batch["labels"]["classification"], 300 + batch["index"])
    with eval_batches(Sizes(), (CLASS,), 16, 2) as stream:
        assert [batch["labels"]["classification"].tolist() for batch in stream] == [[300, 301], [302, -1]]


def test_a_broken_example_stops_with_its_file_name():
    with (
        eval_batches(Numbers(6, broken=4), [SEMSEG], 8, 2) as stream,
        pytest.raises(DataError, match=r"^folder: /pictures/4\.png cannot be decoded$"),
    ):
        list(stream)


def test_closing_twice_and_reading_after_closing():
    stream = train_batches(Numbers(6), [SEMSEG], 8, 2)
    next(stream)
    stream.close()
    stream.close()
    with pytest.raises(StopIteration):
        next(stream)


def test_mistakes_are_named():
    with pytest.raises(DataError, match="holds no examples"):
        train_batches(Numbers(0), [SEMSEG], 8, 2)
    with pytest.raises(DataError, match="holds no examples"):
        eval_batches(Numbers(0), [SEMSEG], 8, 2)
    with pytest.raises(ConfigError, match="batch_size 3 is not a positive multiple of 2 processes"):
        train_batches(Numbers(4), [SEMSEG], 8, 3, process_count=2)
    with pytest.raises(ConfigError, match=r"process_index 2 is outside 0\.\.1"):
        train_batches(Numbers(4), [SEMSEG], 8, 2, process_index=2, process_count=2)
    with (
        train_batches(Numbers(4), [DEPTH], 8, 2) as stream,
        pytest.raises(DataError, match="has no label 'depth'"),
    ):
        next(stream)


def test_a_cache_changes_nothing_and_keeps_to_its_bound():
    source = ScenesSource("train", 32, num_examples=10)
    assert_equal(take(6, CachedSource(source)), take(6, source))
    size = sum(value.nbytes for value in source[0].values() if isinstance(value, np.ndarray))
    small = CachedSource(source, max_bytes=3 * size)
    for k in range(10):
        np.testing.assert_array_equal(small[k]["depth"], source[k]["depth"])
    assert [small[k] is small[k] for k in range(10)] == [True] * 3 + [False] * 7
    with pytest.raises(ValueError, match="read-only"):
        small[0]["depth"][0] = 1


def test_sources_by_name():
    source = open_source("scenes", "val", ("depth",), image_size=(32, 48), num_examples=3)
    assert source[2]["depth"].shape == (32, 48)
    with pytest.raises(ConfigError, match=r"data\.name: unknown name 'pascl'\. Did you mean 'pascal'\? Known: scenes"):
        open_source("pascl", "val", ("depth",))
    with pytest.raises(DataError, match=r"'pascal' needs data\.root"):
        open_source("pascal", "val", ("semseg",))
    with pytest.raises(DataError, match=r"'folder' needs data\.root"):
        open_source("folder", "val", ("depth",))
    with pytest.raises(ConfigError, match="'scenes' has no option 'val_fraction'"):
        open_source("scenes", "val", ("depth",), val_fraction=0.1)


@pytest.mark.parametrize("batches", [train_batches, eval_batches])
def test_reading_leaves_the_process_as_it_is(batches, monkeypatch):
    """OpenCV's threads and the C library's allocator are for commands and worker processes to set."""
    monkeypatch.setattr("ditask_jax.shell.keep_freed_memory", lambda: pytest.fail("told the C library"))
    before = cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        with batches(ScenesSource("train", 32, num_examples=2), [DEPTH], 32, 2) as opened:
            next(opened)
        assert cv2.getNumThreads() == 3
    finally:
        cv2.setNumThreads(before)


def test_freed_memory_is_kept_for_the_next_example():
    resource = pytest.importorskip("resource")
    if not shell.keep_freed_memory():
        pytest.skip("the C library of this system cannot be told")
    example = {"image": np.zeros((375, 500, 3), np.uint8), "normals": np.ones((375, 500, 3), np.float32)}

    def faults():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for k in range(20):
            transform(example, (NORMALS,), (448, 448), Draw(angle=5.0 + k))
        return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

    faults()
    assert faults() < 20 * 600, "less than the pages of one float image an example"
