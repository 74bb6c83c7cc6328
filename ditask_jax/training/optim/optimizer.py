"""The optimiser: global-norm clip, AdamW (or SGD), learning rate, weight decay and warm-up by group of parameters."""

import dataclasses
import fnmatch
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax

from ditask_jax.errors import ConfigError, check_known
from ditask_jax.nn.state import Declared, flatten, unflatten
from ditask_jax.options import plain

OPTIMIZERS = ("adamw", "sgd")
CLIP_EPSILON = 1e-6  # torch.nn.utils.clip_grad_norm_ adds it to the norm


def make_optimizer(
    optimizer: Mapping[str, Any],
    schedule: Callable[[Any], Any],
    declared: Any,
    warmed: Callable[[int], Callable[[Any], Any]] | None = None,
) -> optax.GradientTransformation:
    """Builds the gradient transformation of a config.

    The update is `p - lr * (m / (sqrt(v) + eps) + weight_decay * p)`, bias-corrected, after scaling the gradient to a
    global norm of at most `clip_norm`. Its state is a plain pytree of arrays: the moments of every trainable leaf, and
    step counts.

    Args:
        optimizer: the section `optimizer` of a configuration.
        schedule: Learning rate by optimiser step; see `make_schedule`.
        declared: Nested dict like the trainable parameters, of what their makers declared; see `ModelState.declared`.
        warmed: Gives the schedule with a warm-up of so many steps; needed where groups have one of their own.

    Returns:
        An optax gradient transformation; `update` needs the parameters.

    Raises:
        ConfigError: Unknown optimiser name, or a pattern that fits no parameter.

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
    treated = treatments(declared, optimizer)
    beta1, beta2 = optimizer["betas"]
    direction = {
        "adamw": lambda: optax.scale_by_adam(b1=beta1, b2=beta2, eps=optimizer["eps"]),
        "sgd": lambda: optax.trace(decay=beta1),
    }[optimizer["name"]]()
    parts = [direction, _weight_decay(optimizer, treated), _learning_rate(schedule, treated, warmed)]
    clip = make_clip(optimizer)
    return optax.chain(*parts) if clip is None else optax.chain(clip, *parts)


def _weight_decay(optimizer: Mapping[str, Any], treated: Any) -> optax.GradientTransformation:
    """What is as for all groups is optax's own, so that programs and states of such runs are what they always were."""
    if not optimizer.get("decays", None):
        return optax.add_decayed_weights(optimizer["weight_decay"], mask=jax.tree.map(lambda t: t.decays, treated))
    add = lambda update, t, value: update + t.weight_decay * value if t.weight_decay else update
    return optax.stateless(lambda updates, params: jax.tree.map(add, updates, treated, params))


def _learning_rate(
    schedule: Callable[[Any], Any], treated: Any, warmed: Callable[[int], Callable[[Any], Any]] | None
) -> optax.GradientTransformation:
    leaves = jax.tree.leaves(treated)
    if all(t.rate == 1 and t.warmup_steps is None for t in leaves):
        return optax.scale_by_learning_rate(schedule)
    schedules = {steps: warmed(steps) for steps in sorted({t.warmup_steps for t in leaves} - {None})}
    schedules[None] = schedule

    def update(updates, state, params=None):
        del params
        sizes = {steps: -found(state.count) for steps, found in schedules.items()}
        scale = lambda u, t: u * jnp.asarray(sizes[t.warmup_steps] * t.rate, u.dtype)
        count = optax.safe_increment(state.count)
        return jax.tree.map(scale, updates, treated), optax.ScaleByScheduleState(count)

    # The state is that of optax's schedule: a count.
    return optax.GradientTransformation(optax.scale_by_learning_rate(schedule).init, update)


# How the optimiser treats a parameter: what its maker declared, and what the configuration says of its group.


@dataclasses.dataclass(frozen=True)
class Treatment:
    """How the optimiser treats a parameter.

    Attributes:
      rate: factor on the learning rate, and so on what weight decay takes off in a step.
      decays: whether weight decay applies.
      weight_decay: how much, 0 where it does not.
      warmup_steps: a warm-up of its own; None: that of all.
      group: of the parameter, with the patterns that split it off from the rest of its group.
    """

    rate: float
    decays: bool
    weight_decay: float = 0.0
    warmup_steps: int | None = None
    group: str = "decoders"


def treatment(declared: Declared, optimizer: Mapping[str, Any], path: str = "") -> Treatment:
    """Learning rate, weight decay and warm-up of a parameter: the one place that decides them.

    Args:
      declared: by who made the parameter.
      optimizer: `config.optimizer`; `rates`, `decays`, `warmups`, `weight_decay` and the switches `decay_thetas` and
        `decay_bias_tables` are read.
      path: of the parameter, `/`-joined, for patterns.

    Raises:
      ConfigError: two patterns of one length fit.

    >>> found = treatment(Declared("thetas", "adapters"), {"rates": {"adapters": 30.0}, "decay_thetas": False})
    >>> found.rate, found.decays, found.group
    (30.0, False, 'adapters')
    >>> split = {"rates": {"adapters": 30.0, "adapters:*/theta_depth": 3.0}}
    >>> treatment(Declared(False, "adapters"), split, "backbone/proj/adapter/theta_depth").rate
    3.0
    """
    rate, decay, warmup = (_entry(optimizer, field, declared.group, path) for field in ("rates", "decays", "warmups"))
    patterns = dict.fromkeys(key for key, _ in (rate, decay, warmup) if ":" in key)
    decays = bool(optimizer[f"decay_{declared.decay}"]) if isinstance(declared.decay, str) else declared.decay
    amount = optimizer.get("weight_decay", 0.0) if decay[1] is None else decay[1]
    return Treatment(
        rate=1.0 if rate[1] is None else float(rate[1]),
        decays=decays,
        weight_decay=float(amount) if decays else 0.0,
        warmup_steps=warmup[1],
        group="+".join(patterns) or declared.group,
    )


def _entry(optimizer: Mapping[str, Any], field: str, group: str, path: str) -> tuple[str, Any]:
    """The entry of a field that holds for a parameter, by its key: the longest pattern that fits, or its group's."""
    entries = plain(optimizer.get(field, None)) or {}
    fitting = [key for key in entries if key.startswith(f"{group}:") and _fits(path, key)]
    longest = sorted(key for key in fitting if len(key) == max(map(len, fitting)))
    if len(longest) > 1:
        raise ConfigError(
            f"config: optimizer.{field}: '{longest[0]}' and '{longest[1]}' both fit '{path}'; make one of them longer"
        )
    key = longest[0] if longest else group
    return key, entries.get(key)


def _fits(path: str, key: str) -> bool:
    return fnmatch.fnmatchcase(path, key.partition(":")[2])


def treatments(declared: Any, optimizer: Mapping[str, Any]) -> Any:
    """The treatment of every parameter, as a nested dict like what was declared.

    Raises:
      ConfigError: a pattern that fits no parameter of its group.
    """
    flat = flatten(declared)
    for field in ("rates", "decays", "warmups"):
        for key in plain(optimizer.get(field, None)) or {}:
            own = [path for path, leaf in flat.items() if leaf.group == key.partition(":")[0]]
            if ":" in key and not any(_fits(path, key) for path in own):
                paths = f"for example '{own[0]}' and '{own[-1]}'" if own else "this model has none"
                raise ConfigError(f"config: optimizer.{field}: '{key}' fits no parameter of its group; {paths}")
    return unflatten({path: treatment(leaf, optimizer, path) for path, leaf in flat.items()}, declared)


def make_clip(optimizer: Mapping[str, Any]) -> optax.GradientTransformation | None:
    """What clips the gradients, the first thing that an optimiser does; None where nothing does.

    Args:
      optimizer: `config.optimizer`.
    """
    return None if optimizer["clip_norm"] is None else clip_by_global_norm(optimizer["clip_norm"])


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
