"""Backbone weights that train beside the adapters: the originals' rule, and parts of it for ablations."""

from collections.abc import Sequence

from ditask_jax.adapters.plan import parameter_group
from ditask_jax.adapters.registry import Method
from ditask_jax.errors import check_known

# DiTASK's, LoRA's and MTLoRA's trainable set without adapters, by the groups of the plan.
PUBLISHED = ("patch_embed", "norms", "relative_position_bias_table", "reduction")


def is_unfrozen(path: str, groups: Sequence[str]) -> bool:
    """Whether a backbone parameter (its `/`-joined path) is in one of these groups.

    >>> is_unfrozen("backbone/stages/0/blocks/1/norm2/bias", PUBLISHED)
    True
    >>> is_unfrozen("backbone/stages/0/blocks/1/mlp/fc1/bias", PUBLISHED)
    False
    """
    return parameter_group(path) in groups


def check_unfrozen(groups: Sequence[str]) -> None:
    """Raises ConfigError for a group that there is not."""
    for group in groups:
        check_known("config: method.unfrozen", group, PUBLISHED)


class UnfrozenMethod(Method):
    """A method that trains groups of backbone weights, its field `unfrozen`, beside its adapters."""

    unfrozen: tuple[str, ...]

    def trains(self, path: str) -> bool:
        return is_unfrozen(path, self.unfrozen)
