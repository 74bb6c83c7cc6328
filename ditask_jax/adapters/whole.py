"""The two methods without adapters: everything trains, or nothing of the backbone does."""

import dataclasses

from ditask_jax.adapters.registry import Method


@dataclasses.dataclass(frozen=True)
class Full(Method):
    """Full fine-tuning: every parameter of the backbone trains."""

    name = "full"

    def trains(self, path: str) -> bool:
        return True


@dataclasses.dataclass(frozen=True)
class Frozen(Method):
    """Decoder-only tuning: the backbone stays as it was loaded."""

    name = "frozen"

    def trains(self, path: str) -> bool:
        return False
