"""What a forward pass needs besides weights and images."""

import dataclasses
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp


def name_hash(name: str) -> int:
    """A stable 32-bit number for a name, to fold into random keys.

    >>> name_hash("shared") == name_hash("shared")
    True
    """
    return zlib.crc32(name.encode())


@dataclasses.dataclass(frozen=True)
class Context:
    """Mode, precision and randomness of one forward pass.

    Randomness is a function of (key, purpose, stream name): a layer folds its own path and the stream's name into
    `key`, so that adding a stream changes no draw of another one and no key is ever stored.

    Attributes:
      train: draw dropout and drop path, and use batch statistics.
      key: random key of this step; needed only when `train` and a rate is positive.
      dtype: dtype of the matrix products; parameters, norms, softmax and spectra stay float32.
      prepared: what `prepare_adapters` computed, by layer path.
      rows: the examples' places in the whole batch, int32 `[B]`, where this pass sees a part of it: every part then
        draws what the whole batch would have drawn. None: it is the whole batch.
      remat: what the backward pass computes again instead of keeping it; see `ditask_jax.nn.remat`.
      batch_axes: axes of the device mesh that the batch is spread over, where this pass sees one device's rows and what
        it computes across examples is meant for the whole batch; see `mean_over_devices`.

    >>> Context(train=False).dtype
    <class 'jax.numpy.float32'>
    """

    train: bool
    key: jax.Array | None = None
    dtype: Any = jnp.float32
    prepared: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rows: jax.Array | None = None
    remat: str = "none"
    batch_axes: tuple[str, ...] = ()

    def mean_over_devices(self, x: jax.Array) -> jax.Array:
        """The mean of an array over the devices that share the batch: of means over equal shares, that of the batch."""
        return jax.lax.pmean(x, self.batch_axes) if self.batch_axes else x

    @property
    def devices(self) -> int:
        """How many devices share the batch."""
        return jax.lax.psum(1, self.batch_axes) if self.batch_axes else 1

    @property
    def wide(self) -> Any:
        """The dtype of sums that are rounded to `dtype` when they are complete: float32 or wider."""
        return jnp.promote_types(self.dtype, jnp.float32)

    def key_for(self, purpose: str, stream: str = "") -> jax.Array:
        """Two uint32 for one purpose (a layer path and what it draws) on one stream, for `random_bits`."""
        if self.key is None:
            raise ValueError(f"{purpose}: a training forward pass that draws random numbers needs Context(key=...)")
        words = jax.random.key_data(self.key).reshape(-1)[:2]
        names = jnp.array([name_hash(f"{purpose}@{stream}"), name_hash(f"{stream}@{purpose}")], jnp.uint32)
        return words ^ names
