"""A model of three blocks for laws of every method.

Without a method it runs operation by operation, which compiles once for all; a method's own operations compile sooner
as one program.

Two stages, so that a shared stream goes on behind a fan-out and another one ends in the last block.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.adapters import wrap
from ditask_jax.backbones.swin import Swin, SwinConfig
from ditask_jax.config import load_config
from ditask_jax.config_fields import chosen_options
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn import Context, Scope, flatten, linears, split_state, unflatten
from ditask_jax.nn.state import ModelState
from tests.adapters.cases import OUTPUTS, task_list

SIZE = 16
IMAGES = np.random.default_rng(0).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
SMALL = {
    "shared_cells": 5,
    "task_cells": 5,
    "rank": 3,
    "shared_rank": 3,
    "task_rank": 2,
    "bottleneck": 4,
    "shared_reflections": 4,
    "task_reflections": 2,
    "dropout": 0.0,
}


def options_for(name: str, options: dict) -> dict:
    """Overrides that set those of these options that a method has."""
    known = chosen_options("method", name)
    return {f"method.{option}": value for option, value in options.items() if option in known}


def method_of(name: str, *overrides: str):
    """A method with few parameters, as a configuration gives it."""
    from ditask_jax.adapters import method_class

    small = [f"{field}={value}" for field, value in options_for(name, SMALL).items()]
    config = load_config("configs/smoke.py", [f"method.name={name}", *small, *overrides])
    return method_class(name).from_config(config.method)


def plain_model(*tasks: str, drop_path_rate: float = 0.0) -> MultiTaskModel:
    """The model before anything is attached."""
    config = SwinConfig(8, (1, 2), (1, 2), window=2, mlp_ratio=2)
    backbone = Swin(config, SIZE, drop_path_rate, Scope(path="backbone"))
    return MultiTaskModel(backbone, task_list(*tasks), "hrnet", (2, 2), (0, 0, 0), (1, 1, 1), Scope())


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _compiled(graphdef, train, dtype, trainable, frozen, stats, key):
    model = ModelState(graphdef, {}, {}, {}).merge(trainable, frozen, stats)
    return model.features(jnp.asarray(IMAGES), Context(train=train, dtype=dtype, key=key))


def compiled(parts: ModelState, trainable: dict, context: Context | None = None) -> dict[str, list[jax.Array]]:
    """`features`, as one program for all models of one structure."""
    context = context or Context(train=False)
    return _compiled(parts.graphdef, context.train, context.dtype, trainable, parts.frozen, parts.stats, context.key)


def features(model: MultiTaskModel, context: Context | None = None) -> dict[str, list[jax.Array]]:
    """Per task its features of both stages: what adapters act on."""
    if any(layer.adapter is not None for layer in linears(model.backbone)):
        # Operations that no other model has compile sooner as one program.
        parts = split_state(model)
        return compiled(parts, parts.trainable, context)
    return model.features(jnp.asarray(IMAGES), context or Context(train=False))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _gradients(graphdef, stopped, trainable, frozen, stats, weights):
    def loss(trainable):
        model = ModelState(graphdef, {}, {}, {}).merge(trainable, frozen, stats)
        maps = model.features(jnp.asarray(IMAGES), Context(train=False))
        read = {name: jax.lax.stop_gradient(taps) if name in stopped else taps for name, taps in maps.items()}
        return sum(weights[name] * loss_of(taps) for name, taps in read.items()), maps

    return jax.grad(loss, has_aux=True)(trainable)


def gradients(parts: ModelState, trainable: dict, *, only: str = "", stopped: tuple[str, ...] = ()):
    """Gradient of the weighted squares of all features, or of those of one task, and the features.

    Every choice of a task is one program. With tasks that are `stopped`, no gradient is asked of their features.
    """
    weights = {name: np.float32(only in ("", name)) for name in OUTPUTS}
    return _gradients(parts.graphdef, stopped, trainable, parts.frozen, parts.stats, weights)


def weights_like(x: jax.Array) -> np.ndarray:
    """Weights by position and channel, so that no symmetry cancels a gradient."""
    return np.random.default_rng(x.size).standard_normal(x.shape).astype(np.float32)


def loss_of(maps) -> jax.Array:
    return sum(jnp.mean(weights_like(x) * x**2) for x in jax.tree.leaves(maps))


class Micro:
    """The model with a method attached, taken apart."""

    def __init__(self, method, *tasks: str, drop_path_rate: float = 0.0):
        self.model = plain_model(*tasks, drop_path_rate=drop_path_rate)
        self.plan = wrap(self.model, method)
        self.parts = split_state(self.model)

    def moved(self, only: str = "") -> dict:
        """Every trainable number (whose path holds `only`) moved, as a function of its path and place alone."""
        flat = {}
        for path, value in flatten(self.parts.trainable).items():
            noise = np.random.default_rng(zlib.crc32(path.encode())).standard_normal(value.shape)
            scale = 0.3 if "/adapter/" in path else 0.05
            flat[path] = jnp.asarray(np.asarray(value) + scale * noise * (only in path), jnp.float32)
        return unflatten(flat, self.parts.trainable)

    def built(self, trainable) -> MultiTaskModel:
        """The module with these values."""
        return self.parts.merge(trainable, self.parts.frozen, self.parts.stats)
