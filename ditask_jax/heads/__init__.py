"""Decoder heads by name.

A head is built as `Head(channels, outputs, scope)` and says two things about itself: `has_neck`, whether 1x1
convolutions of its task first narrow the backbone's features to `head.widths` channels (those are its `channels` then),
and `is_map`, whether it gives a map `[B, h, w, outputs]` or one vector per picture `[B, outputs]`.
"""

from typing import ClassVar, Protocol

from ditask_jax.errors import check_known
from ditask_jax.heads.hrnet import HrnetHead
from ditask_jax.heads.linear_head import LinearHead


class Head(Protocol):
    """What a model needs to know of a head class."""

    has_neck: ClassVar[bool]
    is_map: ClassVar[bool]


HEADS: dict[str, type[HrnetHead] | type[LinearHead]] = {"hrnet": HrnetHead, "linear": LinearHead}


def head_class(name: str) -> type[HrnetHead] | type[LinearHead]:
    """The head of a name; an unknown name raises ConfigError with the nearest one."""
    check_known("config: head.name", name, HEADS)
    return HEADS[name]


__all__ = ["HEADS", "Head", "HrnetHead", "LinearHead", "head_class"]
