"""A backbone of two stages: half the time to compile of the smallest in the registry, with every kind of layer."""

import contextlib
from collections.abc import Iterator

import pytest

from ditask_jax.backbones.backbone_registry import REGISTRY, BackboneEntry
from ditask_jax.backbones.swin import SwinConfig

NAME = "swin_two_stages"
OPTIONS = (f"backbone.name={NAME}", "head.widths=4,4")


@contextlib.contextmanager
def two_stages() -> Iterator[str]:
    """While entered, the registry has the backbone; gives its name."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(REGISTRY, NAME, BackboneEntry(SwinConfig(8, (1, 2), (1, 2), window=2), image_size=64))
        yield NAME
