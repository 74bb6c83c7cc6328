"""Initial values as a function of (seed, path): adding a layer changes no other layer's start."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np

from ditask_jax.nn.context import name_hash

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

    def normal(self, name: str, shape: tuple[int, ...], std: float = 0.02):
        """Normal values of mean 0, those beyond +-2 drawn again: the `trunc_normal_` of the originals.

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
