"""Learning-rate schedules: optax's, joined behind a warm-up, as functions of the integer step.

A schedule takes a JAX array, traced or not (result in the default float type), or a Python integer or NumPy array
(result in float64 on the host, for reports and tests). Boundaries are compared as integers, so they are exact at any
step.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ditask_jax.errors import ConfigError, check_known

Schedule = Callable[[Any], Any]

SCHEDULES = ("constant", "cosine", "linear", "multistep", "step")
REFERENCE_BATCH = 512  # published learning rates are per this many images


def step_decay(base: float, rate: float, every: int) -> Schedule:
    """`base * rate^floor(step / every)`.

    `optax.exponential_decay(staircase=True)` divides in float32, which is off by a step beyond 2^24; here the integers
    are divided first.

    >>> [round(float(step_decay(1.0, 0.1, 30)(t)), 6) for t in (0, 29, 30, 60)]
    [1.0, 1.0, 0.1, 0.01]
    """
    decay = optax.exponential_decay(base, 1, rate)
    return lambda step: decay(step // every)


def describe_schedule(
    optimizer: Mapping[str, Any], steps_per_epoch: int, total_steps: int, batch_size: int
) -> dict[str, Any]:
    """Resolves a config's epochs and per-512-images rates into the values that training uses.

    Args:
        optimizer: the section `optimizer` of a configuration.
        steps_per_epoch: Optimiser steps of one pass over the training set.
        total_steps: Length of training in optimiser steps.
        batch_size: Global batch size; rates are multiplied by `batch_size / 512`.

    Returns:
        A JSON-ready dict: schedule, learning_rate, warmup_learning_rate, min_learning_rate, scale, total_steps,
        steps_per_epoch, warmup_steps, decay_steps, decay_rate, milestones (steps), end_learning_rate, lag.

    Raises:
        ConfigError: Unknown schedule name, or a warm-up as long as the training.

    >>> from ditask_jax.config import base_config
    >>> numbers = describe_schedule(base_config().optimizer, 156, 46800, 32)
    >>> numbers["learning_rate"], numbers["warmup_steps"], numbers["decay_steps"]
    (3.125e-05, 3120, 4680)
    """
    name = optimizer["schedule"]
    check_known("config: optimizer.schedule", name, SCHEDULES)
    for field, value in (
        ("steps_per_epoch", steps_per_epoch),
        ("total_steps", total_steps),
        ("batch_size", batch_size),
    ):
        if value < 1:
            raise ConfigError(f"config: {field}: got {value}, expected at least 1")
    scale = batch_size / REFERENCE_BATCH
    base = optimizer["learning_rate"] * scale
    minimum = optimizer["min_learning_rate"] * scale
    warmup_steps = _steps(optimizer, "warmup", steps_per_epoch)
    if warmup_steps >= total_steps and name in ("cosine", "linear"):
        raise ConfigError(
            f"config: optimizer.warmup_steps: {warmup_steps} warm-up steps leave nothing of {total_steps} total steps "
            f"for the {name} schedule; lower optimizer.warmup_epochs (or warmup_steps), or train longer"
        )
    ends = {"cosine": minimum, "linear": base * optimizer["linear_end_fraction"]}
    return {
        "schedule": name,
        "learning_rate": base,
        "warmup_learning_rate": optimizer["warmup_learning_rate"] * scale,
        "min_learning_rate": minimum,
        "end_learning_rate": ends.get(name),
        "scale": scale,
        "steps_per_epoch": steps_per_epoch,
        "total_steps": total_steps,
        "warmup_steps": warmup_steps,
        "warmup_prefix": optimizer["warmup_prefix"],
        "decay_steps": max(_steps(optimizer, "decay", steps_per_epoch), 1),
        "decay_rate": optimizer["decay_rate"],
        "milestones": [round(epoch * steps_per_epoch) for epoch in optimizer["milestones"]],
        "lag": optimizer["schedule_lag"],
    }


def make_schedule(optimizer: Mapping[str, Any], steps_per_epoch: int, total_steps: int, batch_size: int) -> Schedule:
    """Builds the schedule of a config, as used at each optimiser step; the arguments are those of `describe_schedule`.

    With `optimizer.schedule_lag` n the rate of a step is that of n steps before. The reference implementation updates
    the scheduler after the optimiser, so its steps 0 and 1 both use the first rate: lag 1.

    Returns:
        A function of the integer optimiser step (0-based), usable on the host (float64) and inside `jax.jit`.

    Raises:
        ConfigError: As `describe_schedule`.

    References:
        timm's schedulers (0.9 and later) and the linear schedule of the official Swin code, in step units.

    >>> from ditask_jax.config import base_config
    >>> schedule = make_schedule(base_config().optimizer, 156, 46800, 512)
    >>> [round(float(schedule(n)), 9) for n in (0, 1, 3121)]
    [5e-07, 5e-07, 0.0005]
    """
    n = describe_schedule(optimizer, steps_per_epoch, total_steps, batch_size)
    name, base, end, warmup = n["schedule"], n["learning_rate"], n["end_learning_rate"], n["warmup_steps"]
    # The linear and step forms always count from the end of the warm-up; milestones always from step 0.
    after_warmup = {"cosine": n["warmup_prefix"], "multistep": False}.get(name, True)
    offset = warmup if after_warmup else 0
    milestones = n["milestones"]
    body = {
        "constant": lambda: optax.constant_schedule(base),
        "cosine": lambda: optax.cosine_decay_schedule(base, total_steps - offset, alpha=end / base),
        "linear": lambda: optax.linear_schedule(base, end, total_steps - offset),
        "step": lambda: step_decay(base, n["decay_rate"], n["decay_steps"]),
        # Two milestones on one step count twice.
        "multistep": lambda: optax.piecewise_constant_schedule(
            base, {step: n["decay_rate"] ** milestones.count(step) for step in milestones}
        ),
    }[name]()
    schedule = body
    if warmup:
        rising = optax.linear_schedule(n["warmup_learning_rate"], base, warmup)
        # `join_schedules` counts every part from its own start.
        schedule = optax.join_schedules([rising, lambda step: body(step + warmup - offset)], [warmup])
    return _on_host_too(lambda step: schedule(jnp.maximum(step - n["lag"], 0)))


def _steps(optimizer: Mapping[str, Any], what: str, steps_per_epoch: int) -> int:
    """Length of the warm-up or of one decay period in steps; a length given in steps wins over one in epochs."""
    steps = optimizer[f"{what}_steps"]
    return round(optimizer[f"{what}_epochs"] * steps_per_epoch) if steps is None else steps


def _on_host_too(schedule: Schedule) -> Schedule:
    """Evaluates steps that are no JAX arrays in float64 on the CPU, where they wait for no training step."""

    compiled = jax.jit(schedule)  # its operations one by one would take a millisecond

    def value(step):
        if isinstance(step, jax.Array):
            return schedule(step)
        with jax.enable_x64(True), jax.default_device(_cpu()):
            return np.asarray(compiled(jnp.asarray(step, dtype=jnp.int64)), dtype=np.float64)

    return value


def _cpu() -> jax.Device | None:
    """The host's own device; None, JAX's default, where JAX_PLATFORMS leaves out the CPU."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None
