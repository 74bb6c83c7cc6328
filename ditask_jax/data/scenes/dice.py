"""Cheap scalar random draws: one block of uniforms per picture instead of one generator call per number."""

import zlib

import numpy as np

_BLOCK = 1024


class Dice:
    """Scalar draws from one `numpy.random.Generator`, read from blocks of uniforms.

    A generator call costs a microsecond or more and a scene needs several hundred numbers.

    Args:
      rng: the generator; `Dice` owns it from now on (arrays of noise come from `dice.rng`).

    >>> dice = Dice(np.random.default_rng(0))
    >>> 2.0 <= dice.uniform(2.0, 3.0) < 3.0
    True
    """

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self._block = iter(())

    def random(self) -> float:
        """A float in [0, 1)."""
        value = next(self._block, None)
        if value is None:
            self._block = iter(self.rng.random(_BLOCK).tolist())
            value = next(self._block)
        return value

    def uniform(self, low: float, high: float) -> float:
        """A float in [low, high)."""
        return low + (high - low) * self.random()

    def log_uniform(self, low: float, high: float) -> float:
        """A float in [low, high) whose logarithm is uniform."""
        return low * (high / low) ** self.random()

    def integer(self, low: int, high: int) -> int:
        """An int in low..high, both included."""
        return low + int((high - low + 1) * self.random())

    def chance(self, probability: float) -> bool:
        """True with the given probability."""
        return self.random() < probability

    def choice(self, items):
        """One item of a sequence."""
        return items[int(len(items) * self.random())]

    def vector(self, low: float, high: float, size: int) -> np.ndarray:
        """A float32 vector of uniforms."""
        return np.array([self.uniform(low, high) for _ in range(size)], np.float32)


def dice_for(seed: int, split: str, index: int) -> Dice:
    """The dice of one picture: a function of its three arguments, the same in every process.

    >>> dice_for(0, "train", 5).random() == dice_for(0, "train", 5).random()
    True
    >>> dice_for(0, "train", 5).random() == dice_for(0, "val", 5).random()
    False
    """
    # crc32 and not hash(): Python salts the hash of strings per process.
    entropy = (int(seed) & 0xFFFFFFFFFFFFFFFF, zlib.crc32(split.encode()), int(index))
    return Dice(np.random.Generator(np.random.PCG64(np.random.SeedSequence(entropy))))
