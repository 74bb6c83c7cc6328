"""What building a layer needs (`Scope`: initial values by seed and path), and running it (`Context`)."""

import dataclasses
import math
import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

# What a forward pass needs besides weights and images.


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
      pieces: into how many pieces the backbone cuts the rows, one after another, each recomputed in the backward pass:
        the activations of one are alive at a time; see `ditask_jax.nn.remat.by_pieces`.
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
    pieces: int = 1
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


# Initial values as a function of (seed, path): adding a layer changes no other layer's start.


# Normal initial values lie in +-LIMIT.
LIMIT = 2.0


@dataclasses.dataclass(frozen=True)
class Scope:
    """A place in the model tree that hands out initial values.

    Values come from NumPy, so building a model compiles nothing. With `abstract`, shapes without storage are handed
    out instead: a Swin-Large can be described in a moment.

    >>> scope = Scope(seed=0) / "head"
    >>> scope.path, scope.zeros((2,)).shape
    ('head', (2,))
    >>> bool((scope.normal("kernel", (3, 3), 0.1) == (Scope(seed=0) / "head").normal("kernel", (3, 3), 0.1)).all())
    True
    """

    seed: int = 0
    path: str = ""
    abstract: bool = False

    def __truediv__(self, name: str | int) -> "Scope":
        return dataclasses.replace(self, path=f"{self.path}/{name}" if self.path else str(name))

    def _generator(self, name: str) -> np.random.Generator:
        return np.random.Generator(np.random.Philox(key=[self.seed, name_hash(f"{self.path}/{name}")]))

    def _make(self, shape, draw):
        if self.abstract:
            return jax.ShapeDtypeStruct(shape, jnp.float32)
        # Values, not steps of a program, where a model is built inside `jax.jit`: it can then be filled and wrapped.
        with jax.ensure_compile_time_eval():
            return jnp.asarray(draw(), jnp.float32)

    def zeros(self, shape: tuple[int, ...]):
        return self._make(shape, lambda: np.zeros(shape, np.float32))

    def ones(self, shape: tuple[int, ...]):
        return self._make(shape, lambda: np.ones(shape, np.float32))

    def full(self, shape: tuple[int, ...], value: float):
        return self._make(shape, lambda: np.full(shape, value, np.float32))

    def normal(self, name: str, shape: tuple[int, ...], std: float = 0.02):
        """Normal values of mean 0, those beyond +-2 drawn again: the `trunc_normal_` of the reference implementations.

        The limits are absolute, not in standard deviations: at 0.02 this is the plain normal distribution.
        """

        def draw() -> np.ndarray:
            generator = self._generator(name)
            values = generator.standard_normal(shape, np.float32) * np.float32(std)
            outside = np.abs(values) > LIMIT
            if outside.any():
                values[outside] = _between_limits(generator, int(outside.sum()), std)
            return values

        return self._make(shape, draw)

    def uniform(self, name: str, shape: tuple[int, ...], bound: float):
        draw = lambda: self._generator(name).uniform(-bound, bound, shape)
        return self._make(shape, draw)

    def fan_in_uniform(self, name: str, shape: tuple[int, ...]):
        """Uniform in +-1/sqrt(fan in): what PyTorch gives convolutions and linears; fan in is all but the last axis."""
        return self.uniform(name, shape, 1 / math.sqrt(math.prod(shape[:-1])))


def _between_limits(generator: np.random.Generator, count: int, std: float) -> np.ndarray:
    """Draws of the normal distribution between +-LIMIT, by the inverse of its distribution function."""
    from scipy.special import ndtri  # here: hardly ever needed

    share = math.erf(LIMIT / std / math.sqrt(2))
    return (ndtri(0.5 + share * (generator.random(count) - 0.5)) * std).astype(np.float32)
