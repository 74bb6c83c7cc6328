"""Name maps: every rule works in both directions, and no number is lost on the way."""

import numpy as np
import pytest

from ditask_jax.conversion.layout_registry import LAYOUTS
from ditask_jax.conversion.names import CONVOLUTION, FIRST, FIRST_TWO, POINTWISE, SAME, TRANSPOSE, Rule, Table, linear
from ditask_jax.conversion.pvt_names import TIMM_V2, V1, V2
from ditask_jax.conversion.swin_names import SWIN_OFFICIAL
from ditask_jax.conversion.vit_names import TIMM_RULES

SHAPES = {TRANSPOSE: (2, 3), CONVOLUTION: (2, 3, 4, 5), POINTWISE: (2, 3, 1, 1), FIRST: (1, 4, 2), FIRST_TWO: (1, 1, 6)}
QKV = Table(linear("{stage}.{part}", "s/{stage}/qkv", ("q", "k", "v")))


@pytest.mark.parametrize("turn", [SAME, *SHAPES], ids=["same", "transpose", "convolution", "pointwise", "first", "two"])
def test_turns_have_inverses(turn):
    shape = SHAPES.get(turn, (3, 2))
    array = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    np.testing.assert_array_equal(turn.to_theirs(turn.to_ours(array)), array)


@pytest.mark.parametrize(("turn", "shape"), [(POINTWISE, (2, 3, 3, 3)), (FIRST, (2, 4, 2)), (FIRST_TWO, (1, 2, 3))])
def test_turns_drop_nothing(turn, shape):
    rule = Rule("x", "y", turn)
    found = Table([rule]).read({"x": np.zeros(shape)})
    assert not found.arrays
    assert "wrong rank or shapes" in found.problems[0]


@pytest.mark.parametrize("layout", LAYOUTS, ids=lambda layout: layout.title)
def test_rules_translate_both_ways(layout):
    for rule in layout.table.rules:
        fields = {"stage": 2, "block": 10, "task": "semseg", "index": 1}
        path = rule.ours.format(**fields)
        names = rule.theirs_of(path)
        assert [rule.ours_of(name) for name in names] == [(path, part) for part in range(max(1, len(rule.parts)))]
        # An earlier rule may not take the name away.
        assert [layout.table.ours_of(name)[0] for name in names] == [path] * len(names)


@pytest.mark.parametrize(
    ("table", "name", "path"),
    [
        (SWIN_OFFICIAL.table, "layers.0.blocks.1.attn.qkv.weight", "backbone/stages/0/blocks/1/attn/qkv/kernel"),
        (SWIN_OFFICIAL.table, "layers.0.nothing", None),
        (TIMM_RULES, "blocks.11.mlp.fc1.weight", "backbone/blocks/11/mlp/fc1/kernel"),
        (V1, "block2.0.attn.kv.weight", "backbone/stages/1/blocks/0/attn/kv/kernel"),
        (V1, "norm.bias", "norm/bias"),
        (V2, "norm1.bias", "backbone/stages/0/norm/bias"),
        (TIMM_V2, "stages.1.downsample.proj.bias", "backbone/stages/1/patch_embed/bias"),
        (TIMM_V2, "pos_embed1", None),
    ],
)
def test_names_of_released_checkpoints(table, name, path):
    found = table.ours_of(name)
    assert (None if found is None else found[0]) == path


def test_offsets_stay_in_range():
    rule = Rule("layers.{stage+1}.x", "stages/{stage}/y")
    assert rule.ours_of("layers.1.x") == ("stages/0/y", 0)
    assert rule.ours_of("layers.0.x") is None
    assert rule.ours_of("layers.01.x") is None
    assert rule.ours_of(f"layers.{'9' * 400}.x") is None


def test_parts_are_stacked_in_order():
    arrays = {f"3.{part}.weight": np.full((2, 4), value) for value, part in enumerate("vkq")}
    found = QKV.read(arrays)
    assert not found.problems
    np.testing.assert_array_equal(found.arrays["s/3/qkv/kernel"], np.repeat([2, 1, 0], 2)[None].repeat(4, 0))
    theirs, unknown = QKV.write(found.arrays)
    assert not unknown
    assert theirs.keys() == arrays.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(theirs[name], array)


def test_what_cannot_be_put_together_is_told():
    two = Table([Rule("a", "x"), Rule("b", "x")])
    assert "'b' and 'a' are the same tensor" in two.read({"a": np.zeros(1), "b": np.zeros(1)}).problems[0]
    assert "no counterpart for k" in QKV.read({"0.q.bias": np.zeros(2), "0.v.bias": np.zeros(2)}).problems[0]
    assert QKV.read({"0.x.bias": np.zeros(2)}).unknown == ["0.x.bias"]
    unlike = {"0.q.weight": np.zeros((2, 3)), "0.k.weight": np.zeros((2, 4)), "0.v.weight": np.zeros((2, 3))}
    assert "wrong rank or shapes" in QKV.read(unlike).problems[0]
