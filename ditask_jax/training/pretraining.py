"""Pre-training a backbone as a classifier on scenes: where the embedded start comes from."""

import dataclasses
from collections.abc import Callable, Iterator

import cv2
import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax

from ditask_jax.backbones import backbone_entry, create_backbone
from ditask_jax.classifier import Classifier
from ditask_jax.data.scenes import ScenesClassificationSource
from ditask_jax.nn.context import Context, name_hash
from ditask_jax.nn.scope import Scope
from ditask_jax.nn.state import ModelState, flatten, split_state
from ditask_jax.training.optimizer import make_optimizer
from ditask_jax.training.progress import Progress
from ditask_jax.training.schedules import cosine, with_warmup


@dataclasses.dataclass(frozen=True)
class PretrainSettings:
    """How to pre-train.

    Attributes:
      backbone: name of the backbone.
      image_size: side of the pictures in pixels.
      steps: optimiser steps; no picture is seen twice.
      batch_size: pictures per step.
      learning_rate: peak of a cosine with a linear warm-up over the first tenth.
      weight_decay: of AdamW.
      drop_path_rate: of the last block.
      label_smoothing: mass spread evenly over all classes.
      eval_examples: held-out pictures to score.
      seed: of weights, pictures and drop path.
    """

    backbone: str = "swin_nano_patch4_window6"
    image_size: int = 96
    steps: int = 1500
    batch_size: int = 48
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.05
    drop_path_rate: float = 0.05
    label_smoothing: float = 0.1
    eval_examples: int = 960
    seed: int = 0


def _batches(source: ScenesClassificationSource, batch_size: int, flip_seed: int | None) -> Iterator[dict]:
    """Batches in order of index; pictures are mirrored at random in training."""
    cv2.setNumThreads(1)  # examples are drawn side by side already
    dataset = grain.MapDataset.source(source)
    if flip_seed is not None:
        dataset = dataset.seed(flip_seed).random_map(_mirror)
    dataset = dataset.map(lambda e: {"image": e["image"], "class": np.int32(e["class"])}).batch(batch_size)
    return iter(dataset.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=2 * batch_size)))


def _mirror(example: dict, rng: np.random.Generator) -> dict:
    image = example["image"]
    return {**example, "image": np.ascontiguousarray(image[:, ::-1]) if rng.random() < 0.5 else image}


def _normalised(images: jax.Array, entry) -> jax.Array:
    mean, std = (jnp.asarray(v, jnp.float32).reshape(1, 1, 1, 3) for v in (entry.mean, entry.std))
    return (images.astype(jnp.float32) / 255 - mean) / std


def pretrain(settings: PretrainSettings, report: Callable[[str], None] = print) -> tuple[dict, dict]:
    """Trains a classifier on endless scenes portraits.

    Args:
      settings: see `PretrainSettings`.
      report: takes lines of text.

    Returns:
      All weights by flat name (backbone, final norm and classifier), and `{"accuracy", "loss", "examples", "classes"}`
      on held-out pictures.
    """
    entry = backbone_entry(settings.backbone)
    train = ScenesClassificationSource(
        "pretrain", settings.image_size, settings.seed, settings.steps * settings.batch_size
    )
    scope = Scope(seed=settings.seed)
    backbone = create_backbone(
        settings.backbone, settings.image_size, settings.drop_path_rate, scope / "backbone"
    )
    parts = split_state(Classifier(backbone, train.num_classes, scope))
    warmup = max(settings.steps // 10, 1)
    peak = settings.learning_rate
    schedule = with_warmup(cosine(peak, peak * 1e-3, settings.steps - warmup), peak * 1e-3, peak, warmup)
    options = {"name": "adamw", "betas": (0.9, 0.999), "eps": 1e-8, "clip_norm": 5.0}
    options |= {"weight_decay": settings.weight_decay, "decay_thetas": True, "decay_bias_tables": False}
    optimizer = make_optimizer(options, schedule, parts.trainable)
    step = _make_step(parts, entry, optimizer, train.num_classes, settings)
    trainable, opt_state = parts.trainable, optimizer.init(parts.trainable)
    progress = Progress(settings.steps, settings.batch_size, log_every_steps=50)
    for number, batch in enumerate(_batches(train, settings.batch_size, settings.seed)):
        trainable, opt_state, loss, accuracy = step(trainable, opt_state, batch, number)
        progress.update(number + 1, {"loss": float(loss), "accuracy": float(accuracy)})
    progress.end_line()
    scores = _evaluate(parts, trainable, entry, settings)
    report(f"held-out accuracy {scores['accuracy']:.3f} over {scores['examples']} pictures, {scores['classes']} classes")
    return {name: np.asarray(value) for name, value in flatten(trainable).items()}, scores


def _make_step(parts: ModelState, entry, optimizer, classes: int, settings: PretrainSettings):
    def loss(trainable, batch, key):
        model = parts.merge(trainable, parts.frozen, parts.stats)
        logits = model(_normalised(batch["image"], entry), Context(train=True, key=key))
        targets = optax.smooth_labels(jax.nn.one_hot(batch["class"], classes), settings.label_smoothing)
        accuracy = jnp.mean(logits.argmax(-1) == batch["class"])
        return optax.softmax_cross_entropy(logits, targets).mean(), accuracy

    def step(trainable, opt_state, batch, number):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(settings.seed), name_hash("pretrain")), number)
        (value, accuracy), gradients = jax.value_and_grad(loss, has_aux=True)(trainable, batch, key)
        updates, opt_state = optimizer.update(gradients, opt_state, trainable)
        return optax.apply_updates(trainable, updates), opt_state, value, accuracy

    return jax.jit(step, donate_argnums=(0, 1))


def _evaluate(parts: ModelState, trainable, entry, settings: PretrainSettings) -> dict:
    source = ScenesClassificationSource(
        "pretrain_val", settings.image_size, settings.seed, settings.eval_examples
    )

    @jax.jit
    def logits(trainable, images):
        model = parts.merge(trainable, parts.frozen, parts.stats)
        return model(_normalised(images, entry), Context(train=False))

    right, loss, count = 0, 0.0, 0
    for batch in _batches(source, settings.batch_size, None):
        scores = np.asarray(logits(trainable, batch["image"]), np.float64)
        picked = np.take_along_axis(scores, batch["class"][:, None], 1)[:, 0]
        loss += float((np.log(np.exp(scores).sum(1)) - picked).sum())
        right += int((scores.argmax(1) == batch["class"]).sum())
        count += len(picked)
    return {"accuracy": right / count, "loss": loss / count, "examples": count, "classes": source.num_classes}
