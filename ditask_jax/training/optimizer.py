"""The optimiser: global-norm clip, AdamW (or SGD), weight-decay groups."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ditask_jax.errors import check_known

OPTIMIZERS = ("adamw", "sgd")
CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm


def make_optimizer(
    optimizer: Mapping[str, Any], schedule: Callable[[Any], Any], trainable: Any
) -> optax.GradientTransformation:
    """Builds the gradient transformation of a config.

    The update is `p - lr * (m / (sqrt(v) + eps) + weight_decay * p)`, bias-corrected, after scaling the gradient to a
    global norm of at most `clip_norm`. Its state is a plain pytree of arrays: the moments of every trainable leaf, and
    step counts.

    Args:
        optimizer: `config.optimizer` of `configs/base.py`.
        schedule: Learning rate by optimiser step; see `make_schedule`.
        trainable: Nested dict of the trainable parameters (arrays or shapes); only names and ranks are looked at.

    Returns:
        An optax gradient transformation; `update` needs the parameters.

    Raises:
        ConfigError: Unknown optimiser name.

    References:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019.

    >>> import configs.base
    >>> params = {"proj": {"theta": jnp.ones(3)}}
    >>> transform = make_optimizer(configs.base.get_config().optimizer, lambda step: 0.1, params)
    >>> updates, _ = transform.update({"proj": {"theta": jnp.ones(3)}}, transform.init(params), params)
    >>> [round(float(u), 4) for u in updates["proj"]["theta"]]
    [-0.105, -0.105, -0.105]
    """
    check_known("config: optimizer.name", optimizer["name"], OPTIMIZERS)
    mask = decay_mask(
        trainable, decay_thetas=optimizer["decay_thetas"], decay_bias_tables=optimizer["decay_bias_tables"]
    )
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
    if optimizer["clip_norm"] is not None:
        parts.insert(0, clip_by_global_norm(optimizer["clip_norm"]))
    return optax.chain(*parts)


def decay_mask(trainable: Any, *, decay_thetas: bool = True, decay_bias_tables: bool = True) -> Any:
    """Tells for every trainable leaf whether weight decay applies.

    Decided by the leaf's own name and rank: `theta*` and `gain*` (which move singular values) and
    `relative_position_bias*` follow their switches (thetas are decayed whatever their shape: the original keeps them as
    a row `[1, K]`); other leaves of rank 0 or 1 and names ending in `bias` or `scale` are never decayed; everything
    else is.

    Returns:
        Booleans in the structure of `trainable`.

    >>> shapes = {"theta": jnp.zeros(3), "norm": {"scale": jnp.ones(3)}, "conv": {"kernel": jnp.ones((1, 2))}}
    >>> decay_mask(shapes)
    {'conv': {'kernel': True}, 'norm': {'scale': False}, 'theta': True}
    """

    def decays(path, leaf) -> bool:
        name = jax.tree_util.keystr(path[-1:], simple=True)
        if name.startswith(("theta", "gain")):
            return bool(decay_thetas)
        if name.startswith("relative_position_bias"):
            return bool(decay_bias_tables)
        return jnp.ndim(leaf) > 1 and not name.endswith(("bias", "scale"))

    return jax.tree_util.tree_map_with_path(decays, trainable)


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
