"""Trained models leave: strict loading into timm, the plain-PyTorch reader of the documentation, programs."""

import jax
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file

from ditask_jax.adapters import DiTASK, merge, wrap
from ditask_jax.adapters.method_registry import method_class
from ditask_jax.conversion.exporting import export_program, export_weights, load_program
from ditask_jax.conversion.importing import convert_weights
from ditask_jax.errors import WeightsError
from ditask_jax.model import create_model
from ditask_jax.nn import Context
from ditask_jax.training.experiment import load_backbone
from tests.adapters.cases import IMAGES, SIZE, Wrapped, task_list
from tests.interop.models import randomise, save
from tests.interop.test_documented_reader import documented_loader


def moved(case: Wrapped):
    """A state with every trained number and statistic off its start."""
    rng = np.random.default_rng(3)
    stats = jax.tree.map(lambda value: value + rng.uniform(0, 0.5, value.shape).astype(np.float32), case.parts.stats)
    return case.random_trainable(), stats


def test_a_shared_model_loads_strictly_into_timm(tmp_path):
    """Swin-T with one shared transform per layer: the backbone's features in timm are ours."""
    source = randomise(timm.create_model("swin_tiny_patch4_window7_224", num_classes=11))
    convert_weights(save(source, tmp_path)).write(tmp_path / "ours.safetensors")
    model = create_model("swin_tiny_patch4_window7", task_list("semseg"), 224)
    load_backbone(model, tmp_path / "ours.safetensors")
    wrap(model, DiTASK(shared_cells=16, task_layers=(), init="upstream"))
    export_weights(tmp_path / "timm.safetensors", model, "timm")
    tensors = load_file(tmp_path / "timm.safetensors")
    theirs = timm.create_model("swin_tiny_patch4_window7_224", num_classes=11).eval()
    theirs.load_state_dict(tensors, strict=True)
    assert torch.equal(tensors["head.fc.weight"], source.state_dict()["head.fc.weight"])
    changed = tensors["layers.0.blocks.0.attn.qkv.weight"] - source.state_dict()["layers.0.blocks.0.attn.qkv.weight"]
    assert changed.abs().max() > 1e-3
    images = np.random.default_rng(0).integers(0, 256, (1, 224, 224, 3), np.uint8)
    merged = merge(model)
    with jax.default_matmul_precision("highest"):
        taps = jax.jit(lambda x: [f[0] for f, _ in merged.backbone(merged.normalise(x), Context(train=False))])(images)
    x = theirs.patch_embed(torch.from_numpy(np.asarray(merged.normalise(images)).transpose(0, 3, 1, 2).copy()))
    for index, layer in enumerate(theirs.layers):
        x = layer(x)
        mine = np.asarray(taps[index])
        # Our taps stand behind patch merging, which in timm opens the next stage.
        after = theirs.layers[index + 1].downsample(x) if index < 3 else x
        np.testing.assert_allclose(mine, after.numpy(), atol=1e-4 * float(after.abs().max()), rtol=0)


@pytest.mark.parametrize(
    ("name", "backbone"),
    [("ditask", "swin_test"), ("ditask", "swin_test_deep"), ("mtlora", "swin_test"), ("lora", "swin_test")],
)
def test_the_documented_reader_gives_our_outputs(name, backbone, tmp_path):
    method = DiTASK(shared_cells=6, task_cells=4, init="upstream") if name == "ditask" else method_class(name)()
    case = Wrapped(method, "semseg", "depth", "normals", backbone=backbone)
    state = moved(case)
    export_weights(tmp_path / "x.safetensors", case.model, "ditask", state)
    expected = jax.jit(lambda images: merge(case.model, state)(images, Context(train=False)))(IMAGES)
    got = documented_loader()(tmp_path / "x.safetensors")(torch.from_numpy(IMAGES))
    assert got.keys() == expected.keys()
    for task, logits in expected.items():
        logits = np.asarray(logits)
        np.testing.assert_allclose(got[task].numpy(), logits, atol=1e-4 * max(1, np.abs(logits).max()), rtol=0)


@pytest.mark.parametrize("backbone", ["swin_test", "pvt_v2_test", "vit_test"])
def test_programs_give_our_outputs_for_any_batch(backbone, tmp_path):
    case = Wrapped(DiTASK(shared_cells=6, task_cells=4), backbone=backbone)
    state = moved(case)
    export_program(tmp_path / "x.stablehlo", case.model, state)
    program = load_program(tmp_path / "x.stablehlo")
    images = np.random.default_rng(1).integers(0, 256, (3, SIZE, SIZE, 3), np.uint8)
    merged = merge(case.model, state)
    for count in (1, 3):
        expected = jax.jit(lambda x: merged(x, Context(train=False)))(images[:count])
        got = program(images[:count])
        for task, logits in expected.items():
            np.testing.assert_allclose(np.asarray(got[task]), np.asarray(logits), atol=1e-5, rtol=0)
    with pytest.raises(ValueError, match="shape"):
        program(images[:, :32])


def test_damaged_programs_are_refused(tmp_path):
    (tmp_path / "x.stablehlo").write_bytes(b"no program")
    with pytest.raises(WeightsError, match="cannot be read"):
        load_program(tmp_path / "x.stablehlo")


def test_official_files_load_strictly_with_their_buffers(tmp_path):
    """The buffers are those of Microsoft's model: what timm keeps to itself has the same values."""
    source = randomise(timm.create_model("swin_tiny_patch4_window7_224", num_classes=11))
    convert_weights(save(source, tmp_path)).write(tmp_path / "ours.safetensors")
    model = create_model("swin_tiny_patch4_window7", task_list("semseg"), 224)
    load_backbone(model, tmp_path / "ours.safetensors")
    export_weights(tmp_path / "official.safetensors", model, "official")
    tensors = load_file(tmp_path / "official.safetensors")
    buffers = dict(source.named_buffers())
    compared = 0
    for name, tensor in tensors.items():
        if name.endswith(("relative_position_index", "attn_mask")):
            assert torch.equal(tensor, buffers[name].to(tensor.dtype)), name
            compared += 1
    assert compared == len(buffers) > 12


def test_states_can_be_given_in_every_form(tmp_path):
    case = Wrapped(DiTASK(shared_cells=4, task_layers=()))
    trainable, stats = moved(case)
    files = []
    for index, state in enumerate(
        [(trainable, stats), (trainable, None, stats), {"trainable": trainable, "stats": stats}]
    ):
        export_weights(tmp_path / f"{index}.safetensors", case.model, "ditask", state)
        files.append((tmp_path / f"{index}.safetensors").read_bytes())
    assert files[0] == files[1] == files[2]
