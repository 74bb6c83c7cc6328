"""What precision numbers are computed in, and what is written differently for CPUs and accelerators."""

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp

# The least precision of statistics, softmax and losses, whatever dtype flows through.


def widened(x: jax.Array) -> jax.Array:
    """The array in float32, or as it is where it is wider.

    >>> widened(jnp.ones(1, jnp.bfloat16)).dtype.name
    'float32'
    """
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


# What is written differently for XLA's CPU backend and for accelerators; keeping what the former would fuse apart.


# Which form to trace whatever the platform; None: that of the platform that a program is compiled for.
_forced: ContextVar[bool | None] = ContextVar("forced", default=None)


def by_backend(*arguments: Any, cpu: Callable, elsewhere: Callable) -> Any:
    """`cpu(*arguments)` in a program for CPUs, `elsewhere(*arguments)` in one for accelerators: two forms of one thing.

    >>> float(by_backend(2.0, cpu=lambda x: x + x, elsewhere=lambda x: 2 * x))
    4.0
    """
    forced = _forced.get()
    if forced is None:
        return jax.lax.platform_dependent(*arguments, cpu=cpu, default=elsewhere)
    return (elsewhere if forced else cpu)(*arguments)


@contextlib.contextmanager
def accelerator_forms(wanted: bool = True) -> Iterator[None]:
    """What is traced inside takes the form for accelerators (or that for CPUs) on any platform: for tests.

    A function compiled before keeps the form that it has.

    >>> with accelerator_forms():
    ...     float(by_backend(2.0, cpu=lambda x: x + x, elsewhere=lambda x: 3 * x))
    6.0
    """
    token = _forced.set(wanted)
    try:
        yield
    finally:
        _forced.reset(token)


@jax.custom_jvp
def fusion_barrier(x: jax.Array) -> jax.Array:
    """The same numbers, by a comparison that XLA's CPU backend does not take into its fused reductions and products.

    Barriers would not do: that backend drops them before it fuses. Elsewhere it is one more step of a loop.

    >>> fusion_barrier(jnp.array([1.0, jnp.inf, jnp.nan])).tolist()
    [1.0, inf, nan]
    """
    return jnp.where(x == x, x, jnp.nan)


fusion_barrier.defjvp(lambda primals, tangents: (fusion_barrier(*primals), tangents[0]))
