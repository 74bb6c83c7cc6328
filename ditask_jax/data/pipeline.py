"""Step-indexed batches: batch k is a pure function of (seed, k), so resuming needs the step number and nothing else.

The order is drawn anew for every pass over the data, and the random numbers of an example come from its position in
that endless order; processes take every P-th example after both, so that any number of processes, threads or workers
sees the same global batches.
"""

import dataclasses
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

import cv2
import grain
import numpy as np
from absl import flags

from ditask_jax.data.transforms import Augmentation, sample, transform
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.labels import IGNORE, LabelSpec

Batch = dict[str, Any]


class Source(Protocol):
    """A random-access sequence of examples; it must be picklable and safe to read from several threads."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Mapping: ...


class BatchIterator(Iterator[Batch]):
    """Iterator over batches that owns threads or worker processes: close it, or use it in a `with` statement.

    One that is left open is closed when it is collected or when the program ends.
    """

    def __init__(self, iterator: Iterator[Batch]) -> None:
        # In a box that the finalizer empties: grain's own iterator complains when it outlives the modules it needs.
        self._box = [iterator]
        self._finish = weakref.finalize(self, _close, self._box)

    def __next__(self) -> Batch:
        if not self._box:
            raise StopIteration
        try:
            return _owned(next(self._box[0]))
        except StopIteration:
            self.close()
            raise
        except Exception as error:
            self.close()
            message = _data_error_text(error)
            if message is None:
                raise
            raise DataError(message) from error

    def close(self) -> None:
        """Stops threads and workers; closing twice is harmless."""
        self._finish()

    def __enter__(self) -> "BatchIterator":
        return self

    def __exit__(self, *_) -> None:
        self.close()


def train_batches(
    source: Source,
    specs: Sequence[LabelSpec],
    image_size: int | tuple[int, int],
    batch_size: int,
    seed: int = 0,
    augmentation: Augmentation | None = None,
    start_step: int = 0,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    workers: int = 0,
    prefetch: int = 2,
) -> BatchIterator:
    """Endless shuffled, augmented batches from step `start_step` on.

    A batch may be larger than the data set: passes follow each other without a gap, and a batch then simply spans
    several of them.

    Args:
      source: examples (see `Source`).
      specs: the labels to prepare.
      image_size: height and width of the batch's pictures (or one int).
      batch_size: global number of examples, a multiple of `process_count`.
      seed: of order and augmentation.
      augmentation: ranges of the joint augmentation; None only resizes.
      start_step: number of the first batch.
      process_index, process_count: which share of every batch this process reads.
      threads: reading threads (of this process, or of each worker).
      workers: processes to read with, 0 for none; they are spawned, so scripts need a `__main__` guard.
      prefetch: batches held ready (at least one per thread).

    Returns:
      Batches `{"image": uint8 [B, H, W, 3], "labels": {name: [B, H, W] or [B, H, W, 3]}, "valid": bool [B],
      "index": int64 [B]}` with B the share of this process.

    Raises:
      DataError: the source is empty; while iterating, whatever file error an example raises.
      ConfigError: sizes that do not fit.

    >>> from ditask_jax.data.scenes import ScenesSource
    >>> spec = LabelSpec("semseg", num_values=12)
    >>> with train_batches(ScenesSource("train", 64), [spec], 64, batch_size=2, augmentation=Augmentation()) as batches:
    ...     batch = next(batches)
    >>> batch["image"].shape, batch["labels"]["semseg"].shape, batch["valid"].tolist()
    ((2, 64, 64, 3), (2, 64, 64), [True, True])
    """
    share = _share(source, batch_size, process_index, process_count)
    augment = _Augment(tuple(specs), _pair(image_size), augmentation)
    dataset = grain.MapDataset.source(_Indexed(source)).seed(int(seed)).shuffle().repeat(None).random_map(augment)
    dataset = dataset[process_index::process_count].batch(share, drop_remainder=True)[start_step:]
    return _iterate(dataset, threads, workers, prefetch)


def eval_batches(
    source: Source,
    specs: Sequence[LabelSpec],
    image_size: int | tuple[int, int],
    batch_size: int,
    process_index: int = 0,
    process_count: int = 1,
    threads: int = 2,
    workers: int = 0,
    prefetch: int = 2,
) -> BatchIterator:
    """Every example exactly once, in order, resized only; the last batch is filled up with rows of `valid` False.

    Every process gets the same number of batches. Filling rows are black, their labels all ignored, their index -1.

    Args, Returns and Raises as for `train_batches`.
    """
    share = _share(source, batch_size, process_index, process_count)
    prepare = _Prepare(tuple(specs), _pair(image_size))
    padded = _Padded(_Indexed(source), batch_size)
    dataset = grain.MapDataset.source(padded).map(prepare)[process_index::process_count]
    return _iterate(dataset.batch(share, drop_remainder=True), threads, workers, prefetch)


def num_eval_batches(num_examples: int, batch_size: int) -> int:
    """Batches that `eval_batches` yields.

    >>> num_eval_batches(5, 2)
    3
    """
    return -(-num_examples // batch_size)


@dataclasses.dataclass(frozen=True)
class _Indexed:
    """Adds its number to every example."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        return {**self.source[int(index)], "index": int(index)}


@dataclasses.dataclass(frozen=True)
class _Padded:
    """Lengthens a source to a multiple of the batch size by examples of nothing."""

    source: _Indexed
    multiple: int

    def __len__(self) -> int:
        return num_eval_batches(len(self.source), self.multiple) * self.multiple

    def __getitem__(self, index: int) -> dict:
        return self.source[index] if index < len(self.source) else {"index": -1}


@dataclasses.dataclass(frozen=True)
class _Prepare:
    specs: tuple[LabelSpec, ...]
    image_size: tuple[int, int]

    def __call__(self, example: Mapping) -> dict:
        if example["index"] < 0:
            return _row(_nothing(self.specs, self.image_size), False, -1)
        return _row(transform(example, self.specs, self.image_size), True, example["index"])


@dataclasses.dataclass(frozen=True)
class _Augment(grain.transforms.RandomMap):
    specs: tuple[LabelSpec, ...]
    image_size: tuple[int, int]
    augmentation: Augmentation | None

    def random_map(self, element: Mapping, rng: np.random.Generator) -> dict:
        draw = sample(self.augmentation, rng)
        return _row(transform(element, self.specs, self.image_size, draw, self.augmentation), True, element["index"])


def _row(example: dict, valid: bool, index: int) -> dict:
    return {**example, "valid": np.bool_(valid), "index": np.int64(index)}


def _nothing(specs: Sequence[LabelSpec], image_size: tuple[int, int]) -> dict:
    shapes = {spec: (*image_size, spec.channels) if spec.channels > 1 else image_size for spec in specs}
    labels = {spec.name: np.full(shape, IGNORE, spec.dtype) for spec, shape in shapes.items()}
    return {"image": np.zeros((*image_size, 3), np.uint8), "labels": labels}


def _pair(image_size: int | tuple[int, int]) -> tuple[int, int]:
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if min(height, width) < 1:
        raise ConfigError(f"data: image_size must be positive, got {height}x{width}")
    return int(height), int(width)


def _share(source: Source, batch_size: int, process_index: int, process_count: int) -> int:
    if len(source) == 0:
        raise DataError("data: the source holds no examples")
    if batch_size < 1 or batch_size % process_count:
        raise ConfigError(f"data: batch_size {batch_size} is not a positive multiple of {process_count} processes")
    if not 0 <= process_index < process_count:
        raise ConfigError(f"data: process_index {process_index} is outside 0..{process_count - 1}")
    return batch_size // process_count


def _one_thread_per_call(worker_index: int = 0, worker_count: int = 1) -> None:
    # The pipeline runs many examples side by side; OpenCV's own threads on top of that only fight for the cores.
    del worker_index, worker_count
    cv2.setNumThreads(1)


def _iterate(dataset: grain.MapDataset, threads: int, workers: int, prefetch: int) -> BatchIterator:
    _one_thread_per_call()
    options = grain.ReadOptions(num_threads=max(1, threads), prefetch_buffer_size=max(1, threads, prefetch))
    batches = dataset.to_iter_dataset(options)
    if workers:
        # Grain reads absl flags when it starts processes, and refuses where no absl app has parsed them
        # (tests, notebooks, plain scripts).
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.multiprocessing.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, prefetch))
        batches = batches.mp_prefetch(options, worker_init_fn=_one_thread_per_call)
    return BatchIterator(iter(batches))


def _close(box: list[Iterator[Batch]]) -> None:
    while box:
        box.pop().close()


def _owned(batch: Batch) -> Batch:
    """Copies arrays that lie in memory shared with a worker, which grain takes back noisily when the program ends."""
    return {
        key: _owned(value) if isinstance(value, dict) else value if type(value) is np.ndarray else np.array(value)
        for key, value in batch.items()
    }


def _data_error_text(error: Exception) -> str | None:
    """The message of the `DataError` behind an exception, or None if it is something else.

    Grain appends lines of its own to a message, and wraps what a worker process raises into another type.
    """
    text = str(error)
    if not isinstance(error, DataError):
        marker = f"{DataError.__name__}: "
        if marker not in text:
            return None
        text = text.rsplit(marker, 1)[1]
    return text.strip().splitlines()[0].strip()
