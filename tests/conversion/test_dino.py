"""DINOv2's and DINOv3's layouts: what they cannot hold, what they leave out, and LayerScale folded for an export."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ditask_jax.adapters import Frozen, merge, wrap
from ditask_jax.adapters.merging import fold_layer_scale
from ditask_jax.adapters.method_registry import method_class
from ditask_jax.backbones import backbone_entry
from ditask_jax.conversion import dino_names, vit_names
from ditask_jax.conversion.exporting import export_weights
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.model import create_model
from ditask_jax.nn import Context, flatten, linears, split_state
from ditask_jax.training.experiment import load_backbone
from ditask_jax.weight_files import read_tensors
from tests.adapters.cases import IMAGES, SIZE, task_list
from tests.conversion.cases import foreign, model_of, our_arrays, write

DINOV2 = [
    dino_names.DINOV2_OFFICIAL,
    dino_names.DINOV2_TIMM,
    dino_names.DINOV2_HUGGINGFACE,
    dino_names.DINOV2_REGISTERS_HUGGINGFACE,
]
DINOV3 = [
    dino_names.DINOV3_OFFICIAL,
    dino_names.DINOV3_TIMM,
    dino_names.DINOV3_TIMM_QKVB,
    dino_names.DINOV3_HUGGINGFACE,
]
BIAS = "backbone/blocks/1/attn/qkv/bias"
# What a file may lack: training alone reads it, or it follows from the sizes.
OPTIONAL = ("mask_token", "embeddings.mask_token", "rope_embed.periods")


@pytest.mark.parametrize("layout", [*DINOV2, *DINOV3], ids=lambda layout: layout.title)
def test_every_tensor_is_needed(layout):
    """Taken away, each leaves a gap among our arrays, or is told."""
    tensors, ours = foreign(layout), {path: array.shape for path, array in our_arrays(layout).items()}
    for name in tensors:
        found, _, _ = layout.read({other: array for other, array in tensors.items() if other != name})
        shapes = {path: array.shape for path, array in found.arrays.items()}
        short = name.removeprefix(layout.prefix)
        if short in OPTIONAL or short.endswith(".bias_mask"):
            assert shapes.items() >= {(path, shape) for path, shape in ours.items() if path.startswith("backbone/")}
        else:
            assert found.problems or not shapes.items() >= ours.items(), name


def converted(folder, layout, change=lambda tensors: tensors):
    source = write(folder / "source.safetensors", change(foreign(layout)))
    return convert_weights(source)


@pytest.mark.parametrize("layout", [dino_names.DINOV3_OFFICIAL, dino_names.DINOV3_HUGGINGFACE], ids=lambda l: l.title)
def test_a_bias_of_keys_is_refused_unless_it_is_zero(layout, tmp_path):
    official = layout is dino_names.DINOV3_OFFICIAL
    name = "blocks.1.attn.qkv.bias" if official else "layer.1.attention.k_proj.bias"

    def with_keys(value, masked):
        def change(tensors):
            if official:
                tensors[name][16:32] = value
                tensors[f"{name}_mask"][16:32] = not masked
                return tensors
            return tensors | {name: np.full(16, value, np.float32)}

        return change

    expected = our_arrays(layout)[BIAS]
    fine = [(0, True), (0, False), (3, True)] if official else [(0, False)]
    for value, masked in fine:
        conversion = converted(tmp_path, layout, with_keys(value, masked))
        np.testing.assert_array_equal(conversion.arrays[BIAS], expected)
    with pytest.raises(WeightsError, match=r"the bias of the keys is not zero in backbone/blocks/1, and DINOv3"):
        converted(tmp_path, layout, with_keys(3, False))


def test_rotary_positions_of_another_base_are_refused(tmp_path):
    """The file's own periods, rounded or not, tell the heads too."""

    def change(factor):
        return lambda tensors: tensors | {"rope_embed.periods": tensors["rope_embed.periods"] * factor}

    assert converted(tmp_path, dino_names.DINOV3_OFFICIAL, change(np.float32(1.004))).architecture == "dinov3_test"
    with pytest.raises(WeightsError, match=r"rotary positions have other periods than those of base 100"):
        converted(tmp_path, dino_names.DINOV3_OFFICIAL, change(np.float32(1.1)))
    half = lambda tensors: tensors | {"rope_embed.periods": np.ones(1, np.float32)}
    with pytest.raises(WeightsError, match=r"'dinov3_test' is the nearest known architecture; the file has heads 4"):
        converted(tmp_path, dino_names.DINOV3_OFFICIAL, half)


def model_from(folder, layout):
    converted(folder, layout).write(folder / "ours.safetensors")
    model = create_model(model_of(layout), task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4))
    load_backbone(model, folder / "ours.safetensors")
    wrap(model, Frozen())
    return model


@pytest.mark.parametrize("source", DINOV3, ids=lambda layout: layout.title)
def test_between_the_layouts_of_dinov3(source, tmp_path):
    """What one code base has of a model, another can have of it too; a bias is refused where it would be lost."""
    model = model_from(tmp_path, source)
    first = {p: a for p, a in our_arrays(source).items() if p.startswith("backbone/")}
    for target in DINOV3:
        path = tmp_path / f"{target.name}.safetensors"
        if target is dino_names.DINOV3_TIMM and source is not target:
            with pytest.raises(WeightsError, match=r"without a bias of queries.* is not zero; use --layout timm_qkvb"):
                export_weights(path, model, target.name)
            continue
        export_weights(path, model, target.name)
        again = convert_weights(path)
        assert again.layout is target
        for name, array in first.items():
            np.testing.assert_array_equal(again.arrays[name], array, err_msg=name)


def test_registers_of_dinov2_between_code_bases(tmp_path):
    """timm has the class token's position inside the token: there and back the sum stays the same."""
    model = model_from(tmp_path, dino_names.DINOV2_REGISTERS_HUGGINGFACE)
    export_weights(tmp_path / "timm.safetensors", model, "timm")
    first, second = our_arrays(dino_names.DINOV2_REGISTERS_HUGGINGFACE), convert_weights(tmp_path / "timm.safetensors")
    token, rows = "backbone/class_token", "backbone/position_embedding"
    np.testing.assert_array_equal(second.arrays[token], first[token] + first[rows][0])
    assert not np.any(second.arrays[rows][0])
    np.testing.assert_array_equal(second.arrays[rows][1:], first[rows][1:])
    export_weights(tmp_path / "official.safetensors", model, "official")
    official = convert_weights(tmp_path / "official.safetensors")
    assert official.layout is dino_names.DINOV2_OFFICIAL
    assert all(official.arrays[path].tobytes() == array.tobytes() for path, array in first.items())


def features(model):
    images = model.normalise(jnp.asarray(IMAGES[:1]))
    taps = jax.jit(lambda x: [x for x, _ in model.backbone(x, Context(train=False))])(images)
    return [np.asarray(tap) for tap in taps]


def test_layer_scale_is_folded_where_it_is_asked_for(tmp_path):
    """A merged model keeps it; folded it computes the same without, and a DINOv2 is then a plain ViT."""
    model = model_from(tmp_path, dino_names.DINOV2_HUGGINGFACE)
    merged = merge(model)
    scales = [path for path in flatten(split_state(merged).frozen) if "layer_scale" in path]
    assert len(scales) == 2 * 4
    folded = fold_layer_scale(merged)
    assert not any("layer_scale" in path for path in flatten(split_state(folded).frozen))
    for whole, short in zip(features(merged), features(folded), strict=True):
        assert np.abs(whole - short).max() < 1e-5 * np.abs(whole).max()
    for name, layout in (("timm", vit_names.VIT_TIMM), ("huggingface", vit_names.VIT_HUGGINGFACE)):
        path = tmp_path / f"{name}.safetensors"
        report = export_weights(path, model, name, fold_layer_scale=True)
        tensors, _ = read_tensors(path, "it")
        assert layout.resembles(list(tensors))
        assert not layout.strange(list(tensors))
        assert "left out: mask_token: the layout has no place for it" in report.notes
        kernel = layout.read(tensors)[0].arrays["backbone/blocks/2/mlp/fc2/kernel"]
        np.testing.assert_array_equal(kernel, folded.backbone.blocks[2].mlp.fc2.kernel[...])
    plain = create_model("vit_test", task_list("semseg"), SIZE, widths=(4, 4, 4, 4), abstract=True)
    for other, layout, message in (
        (plain, "timm", "'vit_test' has no LayerScale to fold"),
        (model_from(tmp_path, dino_names.DINOV3_TIMM), "huggingface", "has 'dinov3_test' without LayerScale"),
    ):
        with pytest.raises(WeightsError, match=message):
            export_weights(tmp_path / "x.safetensors", other, layout, fold_layer_scale=True)


def test_an_adapter_that_stays_cannot_be_scaled():
    model = create_model("dinov3_test", task_list("semseg"), SIZE, widths=(4, 4, 4, 4))
    wrap(model, method_class("adapter")())
    with pytest.raises(ConfigError, match="stays as it is, so that LayerScale cannot be folded"):
        fold_layer_scale(model)


def test_configurations_of_one_family_have_their_own_layout():
    plain = backbone_entry("vit_small_patch14_dinov2").config
    registers = dataclasses.replace(plain, registers=4)
    assert [layout.fits(config) for layout in DINOV2[2:] for config in (plain, registers)] == [True, False, False, True]
    assert (plain.antialias, registers.antialias) == (False, True)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["svf", "mtlora"])
def test_layer_scale_is_folded_into_the_kernels_of_all_streams(name):
    """Also into a second kernel, by which tasks look at the shared stream."""
    model = create_model("dinov3_test", task_list("semseg", "depth"), SIZE, widths=(4, 4, 4, 4))
    wrap(model, method_class(name)())
    parts = split_state(model)
    rng = np.random.default_rng(0)
    moved = jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), parts.trainable)
    merged = merge(model, (moved, parts.stats))
    assert any(layer.merged_streams for layer in linears(merged.backbone))
    folded = fold_layer_scale(merged)
    for whole, short in zip(features(merged), features(folded), strict=True):
        assert whole.shape[0] == 2
        assert np.abs(whole - short).max() < 1e-5 * np.abs(whole).max()
