"""Step-indexed batches: batch k is a pure function of (seed, k), so resuming needs the step number and nothing else.

The order is drawn anew for every pass over the data, and the random numbers of an example come from its position in
that endless order; processes take their rows after both, process p the p-th of P equal blocks of every batch, so that
any number of processes, threads or workers sees the same global batches, row by row.
"""

import dataclasses
import re
import sys
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import grain
import numpy as np
from absl import flags

from ditask_jax.data.augment import Augmentation, sample, transform
from ditask_jax.data.wrappers import ASKED, SkippingSource, Source, skipped_text
from ditask_jax.errors import ConfigError, DataError
from ditask_jax.labels import LabelSpec
from ditask_jax.shell import process_settings

Batch = dict[str, Any]
_SIZE_STEP = 128


class BatchIterator(Iterator[Batch]):
    """Iterator over batches that owns threads or worker processes: close it, or use it in a `with` statement.

    One that is left open is closed when it is collected or when the program ends. Of a `SkippingSource`, what was
    passed over is counted in `skipped` (number of the example -> times) and reported when closed.
    """

    def __init__(self, iterator: Iterator[Batch], source: Source | None = None) -> None:
        self.skipped: dict[int, int] = {}
        self._source = source
        # In a box that the finalizer empties: grain's own iterator complains when it outlives the modules it needs.
        self._box = [iterator]
        self._finish = weakref.finalize(self, _close, self._box)

    def __next__(self) -> Batch:
        if not self._box:
            raise StopIteration
        try:
            batch = _owned(next(self._box[0]))
        except StopIteration:
            self.close()
            raise
        except Exception as error:  # what a source or a worker process raises; raised again unless it is about data
            self.close()
            message = _data_error_text(error) or _death_text(error)
            if message is None:
                raise
            raise DataError(message) from error
        asked = batch.pop(ASKED, batch["index"])
        for number in asked[(asked != batch["index"]) & (asked >= 0)].tolist():
            self.skipped[number] = self.skipped.get(number, 0) + 1
        return batch

    def close(self) -> None:
        """Stops threads and workers; closing twice is harmless."""
        is_first = bool(self._box)
        self._finish()
        if is_first and self.skipped and self._source is not None:
            print(skipped_text(self._source, self.skipped), file=sys.stderr, flush=True)

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
      image_size: height and width of the batch's images (or one int).
      batch_size: global number of examples, a multiple of `process_count`.
      seed: of order and augmentation.
      augmentation: ranges of the joint augmentation; None only resizes.
      start_step: number of the first batch.
      process_index, process_count: which block of every batch's rows this process reads.
      threads: reading threads (of this process, or of each worker).
      workers: processes to read with, 0 for none; they are spawned, so scripts need a `__main__` guard. A script that
        reads with threads is faster after `ditask_jax.shell.process_settings()`, which the commands call.
      prefetch: batches held ready (at least one per thread).

    Returns:
      Batches `{"image": uint8 [B, H, W, 3], "labels": {name: [B, H, W], [B, H, W, 3] or, for a class of the image,
      [B]}, "valid": bool [B], "index": int64 [B]}` with B the share of this process.

    Raises:
      DataError: the source is empty; while iterating, whatever file error an example raises.
      ConfigError: sizes that do not fit.

    >>> from ditask_jax.scenes import ScenesSource
    >>> spec = LabelSpec("semseg", num_values=12)
    >>> with train_batches(ScenesSource("train", 64), [spec], 64, batch_size=2, augmentation=Augmentation()) as batches:
    ...     batch = next(batches)
    >>> batch["image"].shape, batch["labels"]["semseg"].shape, batch["valid"].tolist()
    ((2, 64, 64, 3), (2, 64, 64), [True, True])
    """
    share = _share(source, batch_size, process_index, process_count)
    augment = _Augment(tuple(specs), _pair(image_size), augmentation)
    dataset = grain.MapDataset.source(_Indexed(source)).seed(int(seed)).shuffle().repeat(None).random_map(augment)
    # Blocks of rows first, every P-th block then: a device's rows are the same however devices share out processes.
    dataset = dataset.batch(share, drop_remainder=True)[process_index::process_count][start_step:]
    return _iterate(dataset, source, threads, workers, prefetch)


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
    augmentation: Augmentation | None = None,
    original_size: bool = False,
) -> BatchIterator:
    """Every example exactly once, in order, resized only; the last batch is filled up with rows of `valid` False.

    Every process gets the same number of batches. Filling rows are black, their labels all ignored, their index -1.

    Args, Returns and Raises as for `train_batches`, but of `augmentation` only what is not random is used, and

    Args:
      original_size: keep label maps at their own size: each is filled up with ignored pixels, to the right and below,
        to the largest of its batch (rounded up, so that few sizes occur), and the batch gets "size" int32 [B, 2], the
        heights and widths.
    """
    share = _share(source, batch_size, process_index, process_count)
    prepare = _Prepare(tuple(specs), _pair(image_size), augmentation, original_size)
    padded = _Padded(_Indexed(source), batch_size)
    stack = _StackPadded(tuple(specs)) if original_size else None
    dataset = grain.MapDataset.source(padded).map(prepare).batch(share, drop_remainder=True, batch_fn=stack)
    return _iterate(dataset[process_index::process_count], source, threads, workers, prefetch)


def widen_labels(labels: Mapping, specs: Sequence[LabelSpec], size: Sequence[int]) -> dict:
    """Fills label maps `[B, h, w, ...]` up with ignored pixels, to the right and below, to a height and width."""
    widened = dict(labels)
    for spec in specs:
        old = labels[spec.name]
        new = np.full((len(old), *spec.shape(tuple(size))), spec.missing, spec.dtype)
        new[:, : old.shape[1], : old.shape[2]] = old
        widened[spec.name] = new
    return widened


def num_eval_batches(num_examples: int, batch_size: int) -> int:
    """Batches that `eval_batches` yields.

    >>> num_eval_batches(5, 2)
    3
    """
    return -(-num_examples // batch_size)


@dataclasses.dataclass(frozen=True)
class _Indexed:
    """Adds its number to every example, unless it has one."""

    source: Source

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index: int) -> dict:
        example = self.source[int(index)]
        if not isinstance(example, Mapping):
            raise DataError(
                f"data: example {int(index)} is a {type(example).__name__}; expected a dict with image, id and a label "
                "by the name of each task"
            )
        return {"index": int(index), **example}


@dataclasses.dataclass(frozen=True)
class _Padded:
    """Lengthens a source to a multiple of the batch size by examples of nothing."""

    source: _Indexed
    multiple: int

    def __len__(self) -> int:
        return num_eval_batches(len(self.source), self.multiple) * self.multiple

    def __getitem__(self, index: int) -> dict:
        if index < len(self.source):
            return self.source[index]
        return {"index": -1, ASKED: -1} if isinstance(self.source.source, SkippingSource) else {"index": -1}


@dataclasses.dataclass(frozen=True)
class _Prepare:
    specs: tuple[LabelSpec, ...]
    image_size: tuple[int, int]
    augmentation: Augmentation | None
    original_size: bool

    def __call__(self, example: Mapping) -> dict:
        if example["index"] < 0 or example.get(ASKED, example["index"]) != example["index"]:
            # Filling, or another example in place of one that cannot be read, which would then count twice.
            row = _row(_nothing(self.specs, self.image_size), False, -1)
            size = self.image_size
        else:
            done = transform(example, self.specs, self.image_size, None, self.augmentation, self.original_size)
            row, size = _row(done, True, example["index"]), example["image"].shape[:2]
        row |= _asked(example)
        return {**row, "size": np.array(size, np.int32)} if self.original_size else row


@dataclasses.dataclass(frozen=True)
class _StackPadded:
    """Stacks rows whose label maps differ in size."""

    specs: tuple[LabelSpec, ...]

    def __call__(self, rows: Sequence[Mapping]) -> Batch:
        sizes = np.stack([row["size"] for row in rows if row["valid"]] or [rows[0]["size"]])
        height, width = (-(-sizes.max(0) // _SIZE_STEP) * _SIZE_STEP).tolist()
        labels = {}
        for spec in self.specs:
            labels[spec.name] = np.full((len(rows), *spec.shape((height, width))), spec.missing, spec.dtype)
            for k, row in enumerate(rows):
                label = row["labels"][spec.name]
                if not spec.is_map:
                    labels[spec.name][k] = label
                elif row["valid"]:
                    labels[spec.name][k, : label.shape[0], : label.shape[1]] = label
        plain = {name: np.stack([row[name] for row in rows]) for name in rows[0] if name != "labels"}
        return {**plain, "labels": labels}


@dataclasses.dataclass(frozen=True)
class _Augment(grain.transforms.RandomMap):
    specs: tuple[LabelSpec, ...]
    image_size: tuple[int, int]
    augmentation: Augmentation | None

    def random_map(self, element: Mapping, rng: np.random.Generator) -> dict:
        draw = sample(self.augmentation, rng)
        done = transform(element, self.specs, self.image_size, draw, self.augmentation)
        return {**_row(done, True, element["index"]), **_asked(element)}


def _row(example: dict, valid: bool, index: int) -> dict:
    return {**example, "valid": np.bool_(valid), "index": np.int64(index)}


def _asked(example: Mapping) -> dict:
    return {ASKED: np.int64(example[ASKED])} if ASKED in example else {}


def _nothing(specs: Sequence[LabelSpec], image_size: tuple[int, int]) -> dict:
    labels = {spec.name: np.full(spec.shape(image_size), spec.missing, spec.dtype) for spec in specs}
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


def _set_up_worker(worker_index: int, worker_count: int) -> None:
    """Settings of a reading process, which is the loader's own; those of the caller's process are left alone."""
    del worker_index, worker_count
    process_settings()


def _iterate(dataset: grain.MapDataset, source: Source, threads: int, workers: int, prefetch: int) -> BatchIterator:
    options = grain.ReadOptions(num_threads=max(1, threads), prefetch_buffer_size=max(1, threads, prefetch))
    batches = dataset.to_iter_dataset(options)
    if workers:
        # Grain reads absl flags when it starts processes, and refuses where no absl app has parsed them
        # (tests, notebooks, plain scripts).
        if not flags.FLAGS.is_parsed():
            flags.FLAGS.mark_as_parsed()
        options = grain.multiprocessing.MultiprocessingOptions(workers, per_worker_buffer_size=max(1, prefetch))
        batches = batches.mp_prefetch(options, worker_init_fn=_set_up_worker)
    return BatchIterator(iter(batches), source)


def _close(box: list[Iterator[Batch]]) -> None:
    while box:
        box.pop().close()


def _owned(batch: Batch) -> Batch:
    """Copies arrays that lie in memory shared with a worker, which grain takes back noisily when the program ends."""
    return {
        key: _owned(value) if isinstance(value, dict) else value if type(value) is np.ndarray else np.array(value)
        for key, value in batch.items()
    }


def _death_text(error: Exception) -> str | None:
    """What to do where a worker process has died, or None if `error` is something else.

    >>> _death_text(RuntimeError("Worker process was terminated unexpectedly with exit code -7. Search the logs"))
    'data: a reading process ended with exit code -7: shared memory (/dev/shm) is full; lower data.workers'
    """
    found = _DEATH.search(str(error))
    if found is None:
        return None
    code = int(found[1])
    advice = _DEATHS.get(code, "what it printed stands above; data.workers=0 reads without such processes")
    return f"data: a reading process ended with exit code {code}: {advice}"


_DEATH = re.compile(r"terminated unexpectedly with exit code (-?\d+)")
_DEATHS = {
    -9: "it was killed, usually because memory ran out; lower data.workers or data.threads",
    -7: "shared memory (/dev/shm) is full; lower data.workers",
}


def _data_error_text(error: Exception) -> str | None:
    """The message of the `DataError` behind an exception, or None if it is something else.

    Grain appends lines of its own to a message, and wraps what a worker process raises into another type.
    """
    text = str(error)
    if isinstance(error, OSError) and error.filename:
        reason = str(error.strerror or type(error).__name__).splitlines()[0]
        return f"data: '{error.filename}' cannot be read ({reason}); bring it back and run the same command again"
    if not isinstance(error, DataError):
        marker = f"{DataError.__name__}: "
        if marker not in text:
            return None
        text = text.rsplit(marker, 1)[1]
    return text.strip().splitlines()[0].strip()
