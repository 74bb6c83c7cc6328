"""A model of three blocks for laws that are checked operation by operation: nothing but flows compiles as a whole.

Two stages, so that a shared stream goes on behind a fan-out and another one ends in the last block.
"""

import functools
import zlib

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.adapters import wrap
from ditask_jax.adapters.methods.ditask import DiffeomorphicAdapter
from ditask_jax.backbones.swin import Swin, SwinConfig
from ditask_jax.config import load_config
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn import Context, Scope, flatten, linears, split_state, unflatten
from ditask_jax.nn.state import ModelState
from tests.adapters.cases import task_list

SIZE = 16
IMAGES = np.random.default_rng(0).standard_normal((2, SIZE, SIZE, 3)).astype(np.float32)
SMALL = (
    "method.shared_cells=5",
    "method.task_cells=5",
    "method.shared_rank=3",
    "method.task_rank=2",
    "method.bottleneck=4",
    "method.dropout=0.0",
)


def method_of(name: str, *overrides: str):
    """A method with few parameters, as a configuration gives it."""
    from ditask_jax.adapters import method_class

    config = load_config("configs/smoke.py", [*SMALL, f"method.name={name}", *overrides])
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


def features(model: MultiTaskModel, context: Context | None = None) -> dict[str, list[jax.Array]]:
    """Per task its features of both stages: what adapters act on."""
    context = context or Context(train=False)
    if any(isinstance(layer.adapter, DiffeomorphicAdapter) for layer in linears(model.backbone)):
        # A flow is a thousand operations, none of which another method has: as one program it compiles sooner.
        parts = split_state(model)
        numbers = parts.trainable, parts.frozen, parts.stats
        return _compiled(parts.graphdef, context.train, context.dtype, *numbers, context.key)
    return model.features(jnp.asarray(IMAGES), context)


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
