"""The Vision Transformer: timm's names, which the originals' PyTorch weights carry too."""

from collections.abc import Callable

import numpy as np

from ditask_jax.conversion.names import FIRST, FIRST_TWO, Rule, Table, convolution, linear, norm

Array = np.ndarray
_THEIRS, _OURS = "blocks.{block}", "backbone/blocks/{block}"

TIMM = Table(
    [
        Rule("cls_token", "backbone/class_token", FIRST_TWO),
        Rule("pos_embed", "backbone/position_embedding", FIRST),
        *convolution("patch_embed.proj", "backbone/patch_embed"),
        *norm(f"{_THEIRS}.norm1", f"{_OURS}/norm1"),
        *norm(f"{_THEIRS}.norm2", f"{_OURS}/norm2"),
        *linear(f"{_THEIRS}.attn.qkv", f"{_OURS}/attn/qkv"),
        *linear(f"{_THEIRS}.attn.proj", f"{_OURS}/attn/proj"),
        *linear(f"{_THEIRS}.mlp.fc1", f"{_OURS}/mlp/fc1"),
        *linear(f"{_THEIRS}.mlp.fc2", f"{_OURS}/mlp/fc2"),
        *norm("norm", "norm"),
        # Where the mean over positions is classified, the norm comes behind the mean.
        *norm("fc_norm", "fc_norm"),
        *linear("head", "head"),
    ]
)


def translate(name: str) -> tuple[str, Callable[[Array], Array]] | None:
    """Our path for timm's name, and how its array turns; None for a name we do not know.

    >>> translate("blocks.11.mlp.fc1.weight")[0]
    'backbone/blocks/11/mlp/fc1/kernel'
    """
    found = TIMM.ours_of(name)
    return None if found is None else (found[0], found[2].turn.to_ours)
