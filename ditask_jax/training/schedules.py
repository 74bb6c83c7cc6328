"""Learning-rate schedules as pure functions of the integer step.

Every schedule accepts a Python integer or NumPy array (result in float64, for reports and tests) or a JAX array, traced
or not (result in the default float type). The step stays an integer until the last division, so that large steps lose
nothing.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.errors import ConfigError, check_known

Schedule = Callable[[Any], Any]

SCHEDULES = ("constant", "cosine", "linear", "multistep", "step")
REFERENCE_BATCH = 512  # published learning rates are per this many images


def constant(base: float) -> Schedule:
    """The base rate at every step.

    >>> float(constant(1e-3)(7))
    0.001
    """
    return lambda step: _pick(step, lambda xp, t: xp.zeros_like(t, dtype=_float(xp)) + base)


def cosine(base: float, end: float, steps: int) -> Schedule:
    """Half a cosine from `base` at step 0 to `end` at `steps`, and `end` ever after.

    >>> schedule = cosine(1.0, 0.0, 10)
    >>> [round(float(schedule(t)), 6) for t in (0, 5, 10, 99)]
    [1.0, 0.5, 0.0, 0.0]
    """

    def value(xp, t):
        fraction = xp.clip(t, 0, steps) / steps
        return xp.where(t < steps, end + 0.5 * (base - end) * (1.0 + xp.cos(math.pi * fraction)), end)

    return lambda step: _pick(step, value)


def linear(base: float, end: float, steps: int) -> Schedule:
    """A straight line from `base` at step 0 to `end` at `steps`, and `end` ever after.

    >>> [float(linear(1.0, 0.5, 10)(t)) for t in (0, 5, 10, 99)]
    [1.0, 0.75, 0.5, 0.5]
    """
    return lambda step: _pick(step, lambda xp, t: base - (base - end) * (xp.clip(t, 0, steps) / steps))


def step_decay(base: float, rate: float, every: int) -> Schedule:
    """`base * rate^floor(step / every)`.

    >>> [round(float(step_decay(1.0, 0.1, 30)(t)), 6) for t in (0, 29, 30, 60)]
    [1.0, 1.0, 0.1, 0.01]
    """
    return lambda step: _pick(step, lambda xp, t: base * _power(xp, rate, xp.maximum(t, 0) // every))


def multistep(base: float, rate: float, milestones: tuple[int, ...]) -> Schedule:
    """`base * rate^k` with k the number of milestones reached (a milestone counts at its own step).

    >>> [round(float(multistep(1.0, 0.1, (4, 7))(t)), 6) for t in (3, 4, 7)]
    [1.0, 0.1, 0.01]
    """

    def value(xp, t):
        reached = xp.zeros_like(t)
        for milestone in milestones:
            reached = reached + (t >= milestone)
        return base * _power(xp, rate, reached)

    return lambda step: _pick(step, value)


def with_warmup(schedule: Schedule, start: float, base: float, steps: int, *, prefix: bool = True) -> Schedule:
    """Puts a linear warm-up from `start` to `base` over `steps` before a schedule.

    Args:
        schedule: What follows the warm-up.
        start: Rate at step 0.
        base: Rate that the line would reach at `steps`.
        steps: Length of the warm-up; 0 leaves the schedule as it is.
        prefix: Whether the schedule starts counting after the warm-up; otherwise the warm-up hides its first steps.

    >>> warm = with_warmup(cosine(1.0, 0.0, 10), 0.0, 1.0, 4)
    >>> [round(float(warm(t)), 6) for t in (0, 2, 4, 14)]
    [0.0, 0.5, 1.0, 0.0]
    """
    if steps == 0:
        return schedule

    def value(xp, t):
        rising = start + xp.minimum(t, steps) * ((base - start) / steps)
        return xp.where(t < steps, rising, schedule(t - steps if prefix else t))

    return lambda step: _pick(step, value)


def used_at_step(schedule: Schedule, lag: int = 1) -> Schedule:
    """The rate that optimiser step n really uses: `schedule(max(n - lag, 0))`.

    The original loop updates the scheduler after the optimiser, so its steps 0 and 1 both use the first rate (lag 1).

    >>> lagged = used_at_step(linear(1.0, 0.0, 4))
    >>> [float(lagged(t)) for t in range(4)]
    [1.0, 1.0, 0.75, 0.5]
    """
    if lag == 0:
        return schedule
    return lambda step: _pick(step, lambda xp, t: schedule(xp.maximum(t - lag, 0)))


def describe_schedule(
    optimizer: Mapping[str, Any], steps_per_epoch: int, total_steps: int, batch_size: int
) -> dict[str, Any]:
    """Resolves a config's epochs and per-512-images rates into the numbers that training uses.

    Args:
        optimizer: `config.optimizer` of `configs/base.py`.
        steps_per_epoch: Optimiser steps of one pass over the training set.
        total_steps: Length of training in optimiser steps.
        batch_size: Global batch size; rates are multiplied by `batch_size / 512`.

    Returns:
        A JSON-ready dict: schedule, learning_rate, warmup_learning_rate, min_learning_rate, scale, total_steps,
        steps_per_epoch, warmup_steps, decay_steps, decay_rate, milestones (steps), end_learning_rate, lag.

    Raises:
        ConfigError: Unknown schedule name, or a warm-up as long as the training.

    >>> import configs.base
    >>> numbers = describe_schedule(configs.base.get_config().optimizer, 156, 46800, 32)
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

    Returns:
        A function of the integer optimiser step (0-based), usable on the host (float64) and inside `jax.jit`.

    Raises:
        ConfigError: As `describe_schedule`.

    References:
        timm's schedulers (0.9 and later) and the linear schedule of the official Swin code, in step units.

    >>> import configs.base
    >>> schedule = make_schedule(configs.base.get_config().optimizer, 156, 46800, 512)
    >>> [float(schedule(n)) for n in (0, 1, 3121)]
    [5e-07, 5e-07, 0.0005]
    """
    n = describe_schedule(optimizer, steps_per_epoch, total_steps, batch_size)
    base, warmup = n["learning_rate"], n["warmup_steps"]
    # The linear and step forms always count from the end of the warm-up; milestones always from step 0.
    prefix = {"cosine": n["warmup_prefix"], "multistep": False}.get(n["schedule"], True)
    length = total_steps - warmup if prefix else total_steps
    body = {
        "constant": lambda: constant(base),
        "cosine": lambda: cosine(base, n["end_learning_rate"], length),
        "linear": lambda: linear(base, n["end_learning_rate"], length),
        "step": lambda: step_decay(base, n["decay_rate"], n["decay_steps"]),
        "multistep": lambda: multistep(base, n["decay_rate"], tuple(n["milestones"])),
    }[n["schedule"]]()
    warm = with_warmup(body, n["warmup_learning_rate"], base, warmup, prefix=prefix)
    return used_at_step(warm, n["lag"])


def _steps(optimizer: Mapping[str, Any], what: str, steps_per_epoch: int) -> int:
    """Length of the warm-up or of one decay period in steps; a length given in steps wins over one in epochs."""
    steps = optimizer[f"{what}_steps"]
    return round(optimizer[f"{what}_epochs"] * steps_per_epoch) if steps is None else steps


def _pick(step, value):
    """Evaluates `value(xp, step)` with JAX for JAX arrays and with float64 NumPy for everything else."""
    if isinstance(step, jax.Array):
        return value(jnp, step)
    return value(np, np.asarray(step, dtype=np.int64))


def _float(xp):
    return np.float64 if xp is np else jnp.result_type(float)


def _power(xp, rate: float, exponent):
    """`rate ** exponent` for an integer array, in the float type of the namespace."""
    return xp.power(xp.asarray(rate, dtype=_float(xp)), exponent.astype(_float(xp)))
