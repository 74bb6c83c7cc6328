"""Predictions on arrays: images of any size in, one decoded map per task out."""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.adapters.merging import merge
from ditask_jax.data import Augmentation, transform
from ditask_jax.errors import ConfigError, DataError, did_you_mean
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import SHARED, linears
from ditask_jax.nn.state import FrozenParam, split_state
from ditask_jax.prediction.tiling import MapBuilder, check_overlap, resized_map, tiled
from ditask_jax.tasks import Task
from ditask_jax.training.restore import build_adapted, restore_run

# A model for some of its tasks: the streams, necks and heads of the others are not computed.


def check_tasks(model: MultiTaskModel, names: Sequence[str]) -> None:
    """Raises ConfigError unless there are names and the model has a task of each."""
    if not names:
        raise ConfigError(f"tasks: none given. Known: {' '.join(model.task_names)}")
    for name in names:
        if name not in model.task_names:
            raise ConfigError(f"tasks: the model was not made for '{name}'. {did_you_mean(name, model.task_names)}")


def for_tasks(model: MultiTaskModel, names: Sequence[str]) -> MultiTaskModel:
    """A copy of a merged model that computes only the named tasks, with the very same outputs for these.

    The shared stream stays, for it leads into the next stage; of the others only those of the named tasks, unless the
    method or a head lets tasks influence each other.

    Args:
      model: from `merge`; adapters that no kernel can stand for may still be in it.
      names: tasks to keep; their order is that of the model.

    Raises:
      ConfigError: a task that the model does not have, or none at all.

    >>> from ditask_jax.tasks import create_tasks
    >>> from ditask_jax.model import create_model
    >>> model = create_model("swin_test", create_tasks("semseg+depth", "scenes"), 32, widths=(4, 4, 4, 4))
    >>> for_tasks(model, ["depth"]).task_names
    ('depth',)
    """
    check_tasks(model, names)
    parts = split_state(model)
    smaller = parts.merge(parts.trainable, parts.frozen, parts.stats)
    kept = tuple(name for name in model.task_names if name in names)
    seen = {other for name in kept for other in model.seen_by(name)} - set(kept)
    layers = list(linears(smaller.backbone))
    # An adapter that is left and has the tasks' streams joins them (MTLoRA's addition): every task needs all of them.
    joined = any(layer.adapter is not None and layer.adapter.streams_out((SHARED,)) != (SHARED,) for layer in layers)
    for linear in () if joined else layers:
        streams = tuple(stream for stream in linear.merged_streams if stream == SHARED or stream in seen.union(kept))
        if streams != linear.merged_streams:
            rows = np.array([linear.merged_streams.index(stream) for stream in streams])
            linear.kernel = FrozenParam(linear.kernel[...][rows])
            linear.merged_streams = streams
    for name in {*model.task_names, *model.read_only} - set(kept) - seen:
        del smaller.heads[name]
        if name in smaller.necks:
            del smaller.necks[name]
    smaller.task_names = kept
    smaller.read_only = tuple(name for name, _ in model.outputs if name in seen)
    return smaller


# The predictor: from images to decoded maps at the images' own sizes.


Prediction = dict[str, np.ndarray]
"""By task: class ids uint8 `[H, W]`, probabilities or depth float32 `[H, W]`, unit normals float32 `[H, W, 3]`; a class
of the image int32 `[]`."""

# An image this many times larger than the network's input is resized with anti-aliasing, however the run resized.
_ALIASING = 2.0


class Predictor:
    """A trained model that takes images of any size.

    Adapters are merged into plain kernels once, and only the streams, necks and heads of the wanted tasks run.

    Args:
      model: a model, wrapped or not.
      tasks: the tasks it was created for.
      state: values in place of the model's own, as `Trainer.fit` returns them.
      only: names of the tasks to predict, joined by "+" or as a sequence; None: all.
      batch_size: images (or tiles) per forward pass.
      tile: run overlapping tiles over the image at its own scale, in place of resizing it to the network's size.
      overlap: least overlap of neighbouring tiles, as a fraction of a tile.
      resize: how images are resized: "cubic" or "pillow" (see `data.resize`); far larger images always by the
        second, which does not alias.
      dtype: of the matrix products.
      source: what the model came from, as text for descriptions.

    Attributes:
      tasks: those that are predicted, in the model's order.
      image_size: (height, width) of the network.

    >>> import ditask_jax as dj
    >>> tasks = dj.create_tasks("semseg+depth", dataset="scenes")
    >>> model = dj.create_model("swin_test", tasks, image_size=32, widths=(4, 4, 4, 4))
    >>> predictor = Predictor(model, tasks, only="depth")
    >>> [found] = predictor([np.zeros((50, 70, 3), np.uint8)])
    >>> {name: (value.shape, str(value.dtype)) for name, value in found.items()}
    {'depth': ((50, 70), 'float32')}
    """

    def __init__(
        self,
        model: MultiTaskModel,
        tasks: Sequence[Task],
        state: Any = None,
        *,
        only: str | Sequence[str] | None = None,
        batch_size: int = 8,
        tile: bool = False,
        overlap: float = 0.25,
        resize: str = "cubic",
        dtype=jnp.float32,
        source: str = "a model",
    ):
        if tuple(task.name for task in tasks) != model.task_names:
            given = " ".join(task.name for task in tasks)
            raise ConfigError(f"predict: the model was made for {' '.join(model.task_names)}, got the tasks {given}")
        if batch_size < 1:
            raise ConfigError(f"predict: batch_size: got {batch_size}, expected 1 or more")
        check_overlap(overlap)
        names = model.task_names if only is None else _names(only)
        check_tasks(model, names)
        self.tasks = tuple(task for task in tasks if task.name in names)
        if tile and not all(task.is_map for task in self.tasks):
            raise ConfigError("predict: tiles are for maps; a class of the whole image needs the whole image")
        self.image_size = model.backbone.image_size
        self.batch_size, self.tile, self.overlap = batch_size, tile, overlap
        self.source = source
        self._resize = resize
        parts = split_state(for_tasks(merge(model, state), names))
        self._values = (parts.trainable, parts.frozen, parts.stats)
        self._logits = jax.jit(lambda values, images: parts.merge(*values)(images, Context(train=False, dtype=dtype)))

    @classmethod
    def from_run(cls, workdir: str | Path, only: str | Sequence[str] | None = None, **options) -> "Predictor":
        """The model of a run's newest whole checkpoint.

        Args:
          workdir: the run's folder.
          only: names of tasks; None: all.
          options: keyword arguments of the constructor.

        Raises:
          CheckpointError: no run, no checkpoint, or other frozen weights than it was trained on.
        """
        run = restore_run(workdir)
        config = run.experiment.config
        given = {"resize": config.data.resize, "dtype": run.experiment.dtype}
        given["source"] = f"{config.method.name} on {config.data.name}, step {run.step}"
        return cls(run.experiment.model, run.experiment.tasks, run.state, only=only, **given | options)

    @classmethod
    def from_adapter(
        cls,
        folder: str | Path,
        weights: str | Path | None = None,
        only: str | Sequence[str] | None = None,
        dataset: str | None = None,
        **options,
    ) -> "Predictor":
        """The model of an adapter's folder, on the backbone that it was made on.

        Args:
          folder: from `save_adapter`, with everything that trained (its default).
          weights: the backbone's weight file, or "embedded"; None where the adapter was made on the embedded one, or on
            random weights of seed 0.
          only: names of tasks; None: all.
          dataset: where names of classes and the unit of depth are taken from; None: "class 1" ..., metres.
          options: keyword arguments of the constructor.

        Raises:
          WeightsError: damaged files, another backbone, or an adapter without necks and heads.
          ConfigError: no weights given where they are needed.
        """
        model, tasks = build_adapted(folder, weights, dataset)
        return cls(model, tasks, only=only, **{"source": f"adapter {Path(folder).name}"} | options)

    def __call__(self, images: Iterable[np.ndarray]) -> list[Prediction]:
        """Predicts images uint8 `[H, W, 3]` RGB, each of any size; grey `[H, W]` ones are taken as RGB."""
        return list(self.stream(images))

    def stream(self, images: Iterable[np.ndarray]) -> Iterator[Prediction]:
        """As a call, but one prediction after the other: images are taken from the iterable a batch at a time."""
        for group in _groups(images, self.batch_size):
            checked = [_checked(image) for image in group]
            yield from map(self._predict_tiled, checked) if self.tile else self._predict_resized(checked)

    def _predict_resized(self, images: Sequence[np.ndarray]) -> Iterator[Prediction]:
        for image, logits in zip(images, self._forward([self._fit(image) for image in images]), strict=True):
            size = image.shape[:2]
            yield {
                task.name: resized_map(task, logits[task.name], size)
                if task.is_map
                else np.asarray(task.decode(logits[task.name][None]))[0]
                for task in self.tasks
            }

    def _predict_tiled(self, image: np.ndarray) -> Prediction:
        maps = {task.name: MapBuilder(task, image.shape[:2]) for task in self.tasks}
        for strip in tiled(image, self._forward, self.image_size, self.overlap, self.batch_size):
            for name, (row, logits) in strip.items():
                maps[name].add(row, logits)
        return {name: builder.map for name, builder in maps.items()}

    def _fit(self, image: np.ndarray) -> np.ndarray:
        """The image at the network's size, resized as in evaluation."""
        shrinks = max(have / want for have, want in zip(image.shape[:2], self.image_size, strict=True))
        resize = "pillow" if shrinks > _ALIASING else self._resize
        return transform({"image": image}, (), self.image_size, augmentation=Augmentation(resize=resize))["image"]

    def _forward(self, images: Sequence[np.ndarray]) -> list[Mapping[str, np.ndarray]]:
        """Logits by task of images of the network's size."""
        # Batches of 1, 2, 4 ... images, filled up: few programs to compile, whatever numbers come.
        room = min(1 << (len(images) - 1).bit_length(), self.batch_size)
        batch = np.zeros((room, *self.image_size, 3), np.uint8)
        batch[: len(images)] = np.stack(images)
        logits = jax.device_get(self._logits(self._values, batch))
        return [{name: values[k] for name, values in logits.items()} for k in range(len(images))]


def _names(only: str | Sequence[str]) -> list[str]:
    names = [name.strip() for name in (only.split("+") if isinstance(only, str) else only)]
    return [name for name in names if name]


def _groups(images: Iterable[np.ndarray], size: int) -> Iterator[list[np.ndarray]]:
    remaining = iter(images)
    while group := list(itertools.islice(remaining, size)):
        yield group


def _checked(image: np.ndarray) -> np.ndarray:
    image = np.asarray(image)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, axis=2)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise DataError(f"predict: an image is {image.dtype} {list(image.shape)}; expected uint8 [H, W, 3]")
    return image
