"""The optimiser: global-norm clip, AdamW (or SGD), weight-decay groups."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ditask_jax.errors import check_known
from ditask_jax.nn.state import Declared

OPTIMIZERS = ("adamw", "sgd")
CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm


def make_optimizer(
    optimizer: Mapping[str, Any], schedule: Callable[[Any], Any], declared: Any
) -> optax.GradientTransformation:
    """Builds the gradient transformation of a config.

    The update is `p - lr * (m / (sqrt(v) + eps) + weight_decay * p)`, bias-corrected, after scaling the gradient to a
    global norm of at most `clip_norm`. Its state is a plain pytree of arrays: the moments of every trainable leaf, and
    step counts.

    Args:
        optimizer: the section `optimizer` of a configuration.
        schedule: Learning rate by optimiser step; see `make_schedule`.
        declared: Nested dict like the trainable parameters, of what their makers declared; see `ModelState.declared`.

    Returns:
        An optax gradient transformation; `update` needs the parameters.

    Raises:
        ConfigError: Unknown optimiser name.

    References:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.

    >>> from ditask_jax.config import base_config
    >>> params = {"proj": {"theta": jnp.ones(3)}}
    >>> declared = {"proj": {"theta": Declared(decay="thetas", group="adapters")}}
    >>> transform = make_optimizer(base_config().optimizer, lambda step: 0.1, declared)
    >>> updates, _ = transform.update({"proj": {"theta": jnp.ones(3)}}, transform.init(params), params)
    >>> [round(float(u), 4) for u in updates["proj"]["theta"]]
    [-0.105, -0.105, -0.105]
    """
    check_known("config: optimizer.name", optimizer["name"], OPTIMIZERS)
    treatments = jax.tree.map(lambda leaf: treatment(leaf, optimizer), declared)
    mask = jax.tree.map(lambda leaf: leaf.decays, treatments)
    rates = jax.tree.map(lambda leaf: leaf.rate, treatments)
    beta1, beta2 = optimizer["betas"]
    direction = {
        "adamw": lambda: optax.scale_by_adam(b1=beta1, b2=beta2, eps=optimizer["eps"]),
        "sgd": lambda: optax.trace(decay=beta1),
    }[optimizer["name"]]()
    parts = [
        direction,
        optax.add_decayed_weights(optimizer["weight_decay"], mask=mask),
        optax.scale_by_learning_rate(schedule),
    ]
    if set(jax.tree.leaves(rates)) - {1.0}:
        parts.append(optax.stateless(lambda updates, _: jax.tree.map(lambda u, rate: u * rate, updates, rates)))
    if optimizer["clip_norm"] is not None:
        parts.insert(0, clip_by_global_norm(optimizer["clip_norm"]))
    return optax.chain(*parts)


@dataclasses.dataclass(frozen=True)
class Treatment:
    """How the optimiser treats a parameter.

    Attributes:
      rate: factor on the learning rate, and so on what weight decay takes off in a step.
      decays: whether weight decay applies.
    """

    rate: float
    decays: bool


def treatment(declared: Declared, optimizer: Mapping[str, Any]) -> Treatment:
    """Learning rate and weight decay of a parameter: the one place that decides them.

    Args:
      declared: by who made the parameter.
      optimizer: `config.optimizer`; `rates` and the switches `decay_thetas` and `decay_bias_tables` are read.

    >>> treatment(Declared("thetas", "adapters"), {"rates": {"adapters": 30.0}, "decay_thetas": False})
    Treatment(rate=30.0, decays=False)
    """
    rates = optimizer.get("rates", None) or {}
    decays = bool(optimizer[f"decay_{declared.decay}"]) if isinstance(declared.decay, str) else declared.decay
    return Treatment(float(rates.get(declared.group, 1.0)), decays)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformation:
    """Scales gradients to a global L2 norm of at most `max_norm`, with the epsilon of PyTorch's function.

    >>> clip = clip_by_global_norm(1.0)
    >>> round(float(clip.update({"w": jnp.array([3.0, 4.0])}, clip.init(None))[0]["w"][0]), 4)
    0.6
    """

    def update(updates, state, params=None):
        del params
        factor = jnp.minimum(1.0, max_norm / (optax.tree.norm(updates) + CLIP_EPSILON))
        return jax.tree.map(lambda u: u * factor.astype(u.dtype), updates), state

    return optax.GradientTransformation(lambda params: optax.EmptyState(), update)
