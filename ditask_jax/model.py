"""A multi-task model: one backbone, and a neck and a head per task."""

from collections.abc import Sequence
from typing import Protocol

import jax
from flax import nnx

from ditask_jax.backbones import backbone_entry, create_backbone
from ditask_jax.errors import ConfigError
from ditask_jax.heads import head_class
from ditask_jax.heads.hrnet import Neck
from ditask_jax.nn.context import Context
from ditask_jax.nn.images import normalise_images
from ditask_jax.nn.linear import prepare_adapters
from ditask_jax.nn.resize import resize_bilinear
from ditask_jax.nn.scope import Scope

DEFAULT_WIDTHS = (18, 36, 72, 144)


class TaskLike(Protocol):
    """What a model needs to know of a task."""

    name: str
    num_outputs: int


class MultiTaskModel(nnx.Module):
    """Images to one dense map per task.

    Attributes:
      backbone: features with a stream axis.
      necks, heads: by task name.
      task_names: the tasks, in order.
    """

    def __init__(self, backbone, tasks: Sequence[TaskLike], head: str, widths, mean, std, scope: Scope):
        self.backbone = backbone
        self.task_names = tuple(task.name for task in tasks)
        self.mean, self.std = tuple(mean), tuple(std)
        channels = backbone.config.feature_channels
        cls = head_class(head)
        self.necks = nnx.Dict({t.name: Neck(channels, widths, scope / "necks" / t.name) for t in tasks})
        self.heads = nnx.Dict({t.name: cls(widths, t.num_outputs, scope / "heads" / t.name) for t in tasks})

    def normalise(self, images: jax.Array) -> jax.Array:
        """uint8 pixels (or floats in 0..255) to normalised float32, on the device."""
        return normalise_images(images, self.mean, self.std)

    def features(self, images: jax.Array, context: Context) -> dict[str, list[jax.Array]]:
        """Per task its stage features `[B, h, w, C]`, from normalised images `[B, H, W, 3]`."""
        taps = self.backbone(images, prepare_adapters(self.backbone, context))
        pick = lambda x, streams, name: x[streams.index(name) if name in streams else 0]
        return {name: [pick(x, streams, name) for x, streams in taps] for name in self.task_names}

    def decode(self, features: dict[str, list[jax.Array]], size: tuple[int, int], context: Context):
        """Per task logits `[B, H, W, outputs]` at the image's size."""
        out = {}
        for name in self.task_names:
            maps = self.necks[name](features[name], context)
            out[name] = resize_bilinear(self.heads[name](maps, context), size)
        return out

    def __call__(self, images: jax.Array, context: Context) -> dict[str, jax.Array]:
        """Raw logits per task, float32 `[B, H, W, outputs]`, from images `[B, H, W, 3]` in 0..255."""
        features = self.features(self.normalise(images), context)
        return self.decode(features, images.shape[1:3], context)


def create_model(
    backbone: str,
    tasks: Sequence[TaskLike],
    image_size: int | tuple[int, int],
    head: str = "hrnet",
    widths: Sequence[int] = DEFAULT_WIDTHS,
    drop_path_rate: float = 0.0,
    seed: int = 0,
    abstract: bool = False,
) -> MultiTaskModel:
    """Builds a multi-task model with seeded random weights.

    Args:
      backbone: a name of `list_models()`.
      tasks: task objects (`ditask_jax.tasks`), or anything with `name` and `num_outputs`.
      image_size: pixels, an int or (height, width).
      head: decoder head.
      widths: channels of each stage's neck; the head is four times their sum wide.
      drop_path_rate: of the last block; linear from 0.
      seed: of the initial values, which are a function of (seed, path).
      abstract: shapes only, for describing a model without building it.

    Raises:
      ConfigError: unknown names, no tasks, impossible image size.
    """
    if not tasks:
        raise ConfigError("config: tasks: the list is empty; name at least one task, as in 'semseg+depth'")
    scope = Scope(seed=seed, abstract=abstract)
    entry = backbone_entry(backbone)
    stages = len(entry.config.depths)
    if len(widths) != stages:
        raise ConfigError(f"config: head.widths: got {len(widths)} widths, expected one per stage ({stages})")
    body = create_backbone(backbone, image_size, drop_path_rate, scope / "backbone")
    return MultiTaskModel(body, tasks, head, tuple(widths), entry.mean, entry.std, scope)
