"""Small wrapped models for the laws, shared by the tests of adapters."""

import functools
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters import wrap
from ditask_jax.model import create_model
from ditask_jax.nn import Context, flatten, split_state, unflatten
from ditask_jax.nn.state import ModelState

# Methods whose laws are left to the slow tests: every one compiles programs of its own. `test_rivals.py` has for each,
# by default, its formula, its merging and its counts.
LATER = frozenset({"faar", "hra", "ia3", "lora_xs", "psoft", "svft", "vera"})
OUTPUTS = {"semseg": 5, "depth": 1, "normals": 3, "sal": 1, "edge": 1, "human_parts": 7}
SIZE = 64
IMAGES = np.random.default_rng(0).integers(0, 256, (2, SIZE, SIZE, 3), np.uint8)


def by_method(names):
    """Names of methods as parameters of a test, those of `LATER` for the slow tests."""
    return [pytest.param(name, marks=pytest.mark.slow) if name in LATER else name for name in names]


def task_list(*names: str):
    return [SimpleNamespace(name=name, num_outputs=OUTPUTS[name]) for name in names]


class Wrapped:
    """A test-size model with a method attached."""

    def __init__(self, method, *names: str, seed: int = 0, backbone: str = "swin_test", drop_path_rate: float = 0.0):
        tasks = task_list(*(names or ("semseg", "depth")))
        self.model = create_model(backbone, tasks, SIZE, widths=(4, 4, 4, 4), seed=seed, drop_path_rate=drop_path_rate)
        self.plan = wrap(self.model, method)
        self.parts = split_state(self.model)

    def random_trainable(self, scale: float = 0.3, seed: int = 1):
        """Every trainable number moved off its start, as after some training."""
        # NumPy compiles nothing, where every new shape of an eager JAX operation would.
        rng, moved = np.random.default_rng(seed), {}
        for path, value in flatten(self.parts.trainable).items():
            noise = scale * rng.standard_normal(value.shape) * (1.0 if "theta" in path else 0.1)
            moved[path] = jnp.asarray(np.asarray(value) + noise, value.dtype)
        return unflatten(moved, self.parts.trainable)

    def logits(self, trainable=None, context: Context | None = None, images=IMAGES):
        trainable = self.parts.trainable if trainable is None else trainable
        model = self.parts.merge(trainable, self.parts.frozen, self.parts.stats)
        return model(jnp.asarray(images), context or Context(train=False))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(graphdef, train, trainable, frozen, stats, key):
    model = ModelState(graphdef, {}, {}, {}).merge(trainable, frozen, stats)
    return model(jnp.asarray(IMAGES), Context(train=train, key=key))


def compiled_logits(parts: ModelState, trainable=None, context: Context | None = None) -> dict[str, jax.Array]:
    """Logits; models of one structure are compiled once, whatever numbers they hold and whatever is drawn."""
    context = context or Context(train=False)
    trainable = parts.trainable if trainable is None else trainable
    return _logits(parts.graphdef, context.train, trainable, parts.frozen, parts.stats, context.key)


def largest_difference(left, right) -> float:
    """Largest difference of two nested dicts, relative to the largest entry."""
    left, right = ([np.asarray(leaf) for leaf in jax.tree.leaves(tree)] for tree in (left, right))
    scale = max(float(np.abs(a).max()) for a in left)
    return max(float(np.abs(a - b).max()) for a, b in zip(left, right, strict=True)) / max(scale, 1e-30)
