"""The Pyramid Vision Transformers: names of the released checkpoints of both generations, and timm's of the second."""

from collections.abc import Callable

import numpy as np

from ditask_jax.conversion.names import FIRST, FIRST_TWO, Rule, Table, convolution, linear, norm

Array = np.ndarray
_STAGE = "backbone/stages/{stage}"
_CLASSIFIER = linear("head", "head")


def _block(theirs: str, depthwise: str | None) -> list[Rule]:
    """Rules of a block; `depthwise` names the convolution inside the MLP, where there is one."""
    ours = f"{_STAGE}/blocks/{{block}}"
    rules = [
        *norm(f"{theirs}.norm1", f"{ours}/norm1"),
        *norm(f"{theirs}.norm2", f"{ours}/norm2"),
        *linear(f"{theirs}.attn.q", f"{ours}/attn/q"),
        *linear(f"{theirs}.attn.kv", f"{ours}/attn/kv"),
        *linear(f"{theirs}.attn.proj", f"{ours}/attn/proj"),
        *convolution(f"{theirs}.attn.sr", f"{ours}/attn/spatial_reduction"),
        *norm(f"{theirs}.attn.norm", f"{ours}/attn/norm"),
        *linear(f"{theirs}.mlp.fc1", f"{ours}/mlp/fc1"),
        *linear(f"{theirs}.mlp.fc2", f"{ours}/mlp/fc2"),
    ]
    return rules + (convolution(f"{theirs}.mlp.{depthwise}", f"{ours}/mlp/depthwise") if depthwise else [])


def _patches(theirs: str, ours: str) -> list[Rule]:
    return [*convolution(f"{theirs}.proj", ours), *norm(f"{theirs}.norm", f"{ours}/norm")]


V1 = Table(
    [
        Rule("pos_embed{stage+1}", f"{_STAGE}/position_embedding", FIRST),
        # There are four stages, and the last one has the class token.
        Rule("cls_token", "backbone/stages/3/class_token", FIRST_TWO),
        *_patches("patch_embed{stage+1}", f"{_STAGE}/patch_embed"),
        *_block("block{stage+1}.{block}", None),
        *norm("norm", "norm"),
        *_CLASSIFIER,
    ]
)

V2 = Table(
    [
        *_patches("patch_embed{stage+1}", f"{_STAGE}/patch_embed"),
        *_block("block{stage+1}.{block}", "dwconv.dwconv"),
        *norm("norm{stage+1}", f"{_STAGE}/norm"),
        *_CLASSIFIER,
    ]
)

TIMM_V2 = Table(
    [
        *_patches("patch_embed", "backbone/stages/0/patch_embed"),
        *_patches("stages.{stage}.downsample", f"{_STAGE}/patch_embed"),
        *_block("stages.{stage}.blocks.{block}", "dwconv"),
        *norm("stages.{stage}.norm", f"{_STAGE}/norm"),
        *_CLASSIFIER,
    ]
)


def translate(name: str) -> tuple[str, Callable[[Array], Array]] | None:
    """Our path for a released checkpoint's name, and how its array turns; None for a name we do not know.

    >>> translate("block2.0.attn.kv.weight")[0], translate("norm.bias")[0], translate("norm1.bias")[0]
    ('backbone/stages/1/blocks/0/attn/kv/kernel', 'norm/bias', 'backbone/stages/0/norm/bias')
    """
    return _translate(name, V1) or _translate(name, V2)


def translate_timm(name: str) -> tuple[str, Callable[[Array], Array]] | None:
    """The same for timm's names of the second generation.

    >>> translate_timm("stages.1.downsample.proj.bias")[0], translate_timm("pos_embed1") is None
    ('backbone/stages/1/patch_embed/bias', True)
    """
    return _translate(name, TIMM_V2)


def _translate(name: str, table: Table) -> tuple[str, Callable[[Array], Array]] | None:
    found = table.ours_of(name)
    return None if found is None else (found[0], found[2].turn.to_ours)
