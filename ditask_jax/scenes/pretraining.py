"""Pretraining a backbone as a classifier of scenes: where the embedded weights come from.

Every position of the last stage (a region of 16x16 pixels) is classified by what it shows, as the shares of the scene
classes among its pixels. One label per image would be the usual choice, and cannot be learnt from scratch in minutes:
ten kinds of things, one large one per image, were still at chance after 9,000 images with a model of this size.
"""

import dataclasses
from collections.abc import Callable, Iterator

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from einops import reduce

from ditask_jax.backbones import backbone_entry, create_backbone
from ditask_jax.model import RegionClassifier
from ditask_jax.nn.context import Context, Scope
from ditask_jax.nn.resize import normalise_images
from ditask_jax.nn.state import ModelState, flatten, split_state
from ditask_jax.scenes import CLASSES, ScenesSource
from ditask_jax.training.optim.optimizer import make_optimizer
from ditask_jax.training.progress import Progress

# Images of this seed and its neighbours are nobody's training or validation set.
PICTURE_SEED = 1_000_003


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """How to pre-train.

    Attributes:
      backbone: name of the backbone.
      image_size: side of the images in pixels.
      steps: optimiser steps; no image is seen twice.
      batch_size: images per step.
      learning_rate: peak of a cosine with a linear warm-up over the first tenth.
      weight_decay: of AdamW.
      eval_examples: held-out images to score.
      seed: of weights and images.
    """

    backbone: str = "swin_nano_patch2_window6"
    image_size: int = 96
    steps: int = 150
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.02
    eval_examples: int = 480
    seed: int = 0


def _batches(settings: PretrainSettings, split: str, count: int) -> Iterator[dict]:
    """Batches of new images, in order of index."""
    source = ScenesSource(split, settings.image_size, PICTURE_SEED + settings.seed, count, ("semseg",))
    dataset = grain.MapDataset.source(source).map(lambda e: {"image": e["image"], "semseg": e["semseg"]})
    dataset = dataset.batch(settings.batch_size, drop_remainder=True)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)))


def region_shares(classes: jax.Array, grid: tuple[int, int]) -> jax.Array:
    """Shares of the scene classes in every region: class maps `[B, H, W]` to `[B, *grid, classes]`.

    >>> region_shares(jnp.zeros((1, 4, 4), jnp.uint8), (2, 2))[0, 0, 0, 0].item()
    1.0
    """
    one_hot = jax.nn.one_hot(classes, len(CLASSES))
    return reduce(one_hot, "b (h i) (w j) c -> b h w c", "mean", h=grid[0], w=grid[1])


def pretrain(settings: PretrainSettings, report: Callable[[str], None] = print) -> tuple[dict, dict]:
    """Trains a region classifier on endless scenes.

    Args:
      settings: see `PretrainSettings`.
      report: takes lines of text.

    Returns:
      All weights by flat name (backbone, final norm and classifier), and `{"accuracy", "examples"}` on held-out
      images; a region counts as right when its commonest class is predicted.
    """
    entry = backbone_entry(settings.backbone)
    scope = Scope(seed=settings.seed)
    backbone = create_backbone(settings.backbone, settings.image_size, 0.0, scope / "backbone")
    parts = split_state(RegionClassifier(backbone, len(CLASSES), scope))
    warmup = max(settings.steps // 10, 1)
    peak = settings.learning_rate
    low = peak * 1e-3
    schedule = optax.warmup_cosine_decay_schedule(low, peak, warmup, max(settings.steps, warmup + 1), low)
    options = {"name": "adamw", "betas": (0.9, 0.999), "eps": 1e-8, "clip_norm": 1.0}
    options |= {"weight_decay": settings.weight_decay, "decay_thetas": True, "decay_bias_tables": False}
    optimizer = make_optimizer(options, schedule, parts.declared)
    step = _make_step(parts, entry, optimizer)
    trainable, opt_state = parts.trainable, optimizer.init(parts.trainable)
    progress = Progress(settings.steps, settings.batch_size, log_every_steps=25)
    for number, batch in enumerate(_batches(settings, "train", settings.steps * settings.batch_size)):
        trainable, opt_state, loss, accuracy = step(trainable, opt_state, batch)
        progress.update(number + 1, {"loss": float(loss), "accuracy": float(accuracy)})
    progress.end_line()
    scores = _evaluate(parts, trainable, entry, settings)
    report(f"held-out regions classified right: {scores['accuracy']:.3f} over {scores['examples']} images")
    # PVT's class token, which regions do not read, belongs to a whole set of weights too.
    arrays = flatten(trainable) | flatten(parts.frozen)
    return {name: np.asarray(value) for name, value in arrays.items()}, scores


def _hits(logits: jax.Array, shares: jax.Array) -> jax.Array:
    return jnp.mean(logits.argmax(-1) == shares.argmax(-1))


def _make_step(parts: ModelState, entry, optimizer):
    def loss(trainable, batch):
        model = parts.merge(trainable, parts.frozen, parts.stats)
        logits = model(normalise_images(batch["image"], entry.mean, entry.std), Context(train=True))
        shares = region_shares(batch["semseg"], logits.shape[1:3])
        return optax.softmax_cross_entropy(logits, shares).mean(), _hits(logits, shares)

    def step(trainable, opt_state, batch):
        (value, accuracy), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, batch)
        updates, opt_state = optimizer.update(gradients, opt_state, trainable)
        return optax.apply_updates(trainable, updates), opt_state, value, accuracy

    return jax.jit(step, donate_argnums=(0, 1))


def _evaluate(parts: ModelState, trainable, entry, settings: PretrainSettings) -> dict:
    @jax.jit
    def accuracy(trainable, batch):
        model = parts.merge(trainable, parts.frozen, parts.stats)
        logits = model(normalise_images(batch["image"], entry.mean, entry.std), Context(train=False))
        return _hits(logits, region_shares(batch["semseg"], logits.shape[1:3]))

    found = [float(accuracy(trainable, batch)) for batch in _batches(settings, "val", settings.eval_examples)]
    return {"accuracy": float(np.mean(found)), "examples": len(found) * settings.batch_size}
