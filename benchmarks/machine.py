"""What the machine itself can do, measured beside the programs: rates of matrix products and of copying."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

# Of the middle of a Swin-Tiny at 448 pixels (tokens, inputs, outputs), and a square one that any library runs well.
PRODUCTS = ((2048, 2048, 2048), (3920, 384, 1536))
COPIED = 64 << 20


def product_rows(dtype=jnp.float32) -> dict[str, tuple[Callable[[], object], float]]:
    """By name a product as a function without arguments, and its floating-point operations."""
    rows = {}
    for tokens, inputs, outputs in PRODUCTS:
        x, kernel = jnp.ones((tokens, inputs), dtype), jnp.ones((inputs, outputs), dtype)
        compute = jax.jit(lambda x, kernel: x @ kernel)
        repeated = lambda compute=compute, x=x, kernel=kernel: jax.block_until_ready(compute(x, kernel))
        rows[f"product {tokens}x{inputs}x{outputs}"] = repeated, 2.0 * tokens * inputs * outputs
    return rows


def copy_row() -> tuple[Callable[[], object], float]:
    """A copy between two arrays that are there already, and the bytes it reads and writes.

    Arrays on the device are copied there; on a CPU NumPy does it, which allocates nothing.
    """
    if jax.devices()[0].platform == "cpu":
        source, target = np.ones(COPIED // 4, np.float32), np.empty(COPIED // 4, np.float32)
        return lambda: np.copyto(target, source), 2.0 * COPIED
    array = jnp.ones((8 * COPIED // 4,), jnp.float32)
    compute = jax.jit(lambda x: x + 1)
    return lambda: jax.block_until_ready(compute(array)), 16.0 * COPIED
