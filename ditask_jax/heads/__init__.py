"""Decoder heads by name."""

from ditask_jax.errors import check_known
from ditask_jax.heads.hrnet import HrnetHead

HEADS = {"hrnet": HrnetHead}


def head_class(name: str) -> type[HrnetHead]:
    """The head of a name; an unknown name raises ConfigError with the nearest one."""
    check_known("config: head.name", name, HEADS)
    return HEADS[name]


__all__ = ["HEADS", "HrnetHead", "head_class"]
