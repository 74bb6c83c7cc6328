"""Real-size PyTorch models with random weights, their files, and what every stage of them computes."""

import dataclasses
from collections.abc import Callable

import numpy as np
import timm
import torch
import transformers
from safetensors.torch import save_file


@dataclasses.dataclass(frozen=True)
class Case:
    """One PyTorch model.

    Attributes:
      name: of the test.
      architecture: what it must be recognised as.
      build: makes it, for an image size.
      stages: the modules whose outputs are compared with our taps, from the model.
      layout: of its file.
      sizes: two image sizes.
      run: calls it.
      readout: of our backbone.
      fixed: whether a model takes images of one size only, so that the second one needs a model of its own.
    """

    name: str
    architecture: str
    build: Callable
    stages: Callable
    layout: str
    sizes: tuple[int | tuple[int, int], int | tuple[int, int]] = (224, 448)
    run: Callable = lambda model, x: model(x)
    readout: str = "map"
    fixed: bool = False


def _hf_swin(size, **options):
    return transformers.SwinForImageClassification(transformers.SwinConfig(image_size=size, num_labels=11, **options))


def _hf_pvt(size):
    config = transformers.PvtConfig(image_size=size, depths=[3, 4, 6, 3], num_labels=11)
    model = transformers.PvtForImageClassification(config)
    for name, module in model.named_modules():
        # The authors' models keep PyTorch's epsilon here; transformers gives these norms that of the blocks.
        if name.endswith(".layer_norm") and ("patch_embeddings" in name or "attention.self" in name):
            module.eps = 1e-5
    return model


def _hf_vit(size):
    return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=11, layer_norm_eps=1e-6))


def _hf_dinov2(registers):
    """DINOv2 for images of 224 pixels, so that those of 140 shrink its position embeddings."""
    sizes = {"image_size": 224, "patch_size": 14, "hidden_size": 384, "num_attention_heads": 6}
    if registers:
        return transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(num_register_tokens=registers, **sizes)
        )
    return transformers.Dinov2ForImageClassification(transformers.Dinov2Config(num_labels=11, **sizes))


def _hf_dinov3(gated, **sizes):
    # As the released configurations have it: the class's own default would open the gate by GELU.
    activation = "silu" if gated else "gelu"
    config = transformers.DINOv3ViTConfig(num_register_tokens=4, use_gated_mlp=gated, hidden_act=activation, **sizes)
    return transformers.DINOv3ViTModel(config)


def _of_blocks(blocks, depth=12):
    return [blocks[depth * (tap + 1) // 4 - 1] for tap in range(4)]


def _timm(name, size):
    return timm.create_model(name, img_size=size, num_classes=11)


CASES = [
    Case(
        "swin-tiny-timm",
        "swin_tiny_patch4_window7",
        lambda size: timm.create_model("swin_tiny_patch4_window7_224", img_size=size, num_classes=11),
        lambda model: [layer.blocks for layer in model.layers],
        "timm",
    ),
    Case(
        "swin-tiny-padded-timm",
        "swin_tiny_patch4_window8",
        lambda size: timm.create_model("swin_tiny_patch4_window7_224", img_size=size, window_size=8, num_classes=11),
        lambda model: [layer.blocks for layer in model.layers],
        "timm",
        # Windows leave a rest of every grid, and grids are odd.
        sizes=(200, (232, 296)),
        fixed=True,
    ),
    Case(
        "swin-base-transformers",
        "swin_base_patch4_window7",
        lambda size: _hf_swin(size, embed_dim=128, depths=[2, 2, 18, 2], num_heads=[4, 8, 16, 32]),
        lambda model: [layer.blocks[-1] for layer in model.swin.encoder.layers],
        "huggingface",
    ),
    Case(
        "pvt-small-transformers",
        "pvt_small",
        _hf_pvt,
        lambda model: [blocks[-1] for blocks in model.pvt.encoder.block],
        "huggingface",
        sizes=(224, 256),
        readout="token",
        fixed=True,
    ),
    Case(
        "pvt-v2-b2-timm",
        "pvt_v2_b2",
        lambda size: timm.create_model("pvt_v2_b2", num_classes=11),
        lambda model: list(model.stages),
        "timm",
        sizes=(224, 256),
    ),
    Case(
        "vit-base-transformers",
        "vit_base_patch16",
        _hf_vit,
        lambda model: [model.vit.layers[index] for index in (2, 5, 8, 11)],
        "huggingface",
        sizes=(224, 288),
        run=lambda model, x: model(x, interpolate_pos_encoding=True),
    ),
    Case(
        "vit-tiny-mean-timm",
        "vit_tiny_patch16_gap",
        lambda size: timm.create_model(
            "vit_tiny_patch16_224", img_size=size, class_token=False, global_pool="avg", num_classes=11
        ),
        lambda model: [model.blocks[index] for index in (2, 5, 8, 11)],
        "timm",
        sizes=(224, 160),
        fixed=True,
    ),
    Case(
        "dinov2-small-transformers",
        "vit_small_patch14_dinov2",
        lambda size: _hf_dinov2(registers=0),
        lambda model: _of_blocks(model.dinov2.encoder.layer),
        "huggingface",
        sizes=(224, 140),
    ),
    Case(
        "dinov2-small-registers-transformers",
        "vit_small_patch14_reg4_dinov2",
        lambda size: _hf_dinov2(registers=4),
        lambda model: _of_blocks(model.encoder.layer),
        "huggingface",
        sizes=(224, 140),
    ),
    Case(
        "dinov2-small-timm",
        "vit_small_patch14_dinov2",
        lambda size: _timm("vit_small_patch14_dinov2", size),
        lambda model: _of_blocks(model.blocks),
        "timm",
        sizes=(224, 140),
        fixed=True,
    ),
    Case(
        "dinov2-small-registers-timm",
        "vit_small_patch14_reg4_dinov2",
        lambda size: _timm("vit_small_patch14_reg4_dinov2", size),
        lambda model: _of_blocks(model.blocks),
        "timm",
        sizes=(224, 140),
        fixed=True,
    ),
    Case(
        "dinov3-small-transformers",
        "vit_small_patch16_dinov3",
        lambda size: _hf_dinov3(gated=False),
        lambda model: _of_blocks(model.model.layer),
        "huggingface",
        sizes=(224, 160),
    ),
    Case(
        "dinov3-small-plus-transformers",
        "vit_small_plus_patch16_dinov3",
        lambda size: _hf_dinov3(gated=True),
        lambda model: _of_blocks(model.model.layer),
        "huggingface",
        sizes=(224, 160),
    ),
    Case(
        "dinov3-large-transformers",
        "vit_large_patch16_dinov3",
        lambda size: _hf_dinov3(
            gated=False, hidden_size=1024, num_hidden_layers=24, num_attention_heads=16, intermediate_size=4096
        ),
        lambda model: _of_blocks(model.model.layer, 24),
        "huggingface",
        sizes=(128, 96),
    ),
    Case(
        "dinov3-small-timm",
        "vit_small_patch16_dinov3",
        lambda size: _timm("vit_small_patch16_dinov3", size),
        lambda model: _of_blocks(model.blocks),
        "timm",
        sizes=(224, 160),
    ),
    Case(
        "dinov3-small-plus-bias-timm",
        "vit_small_plus_patch16_dinov3",
        lambda size: _timm("vit_small_plus_patch16_dinov3_qkvb", size),
        lambda model: _of_blocks(model.blocks),
        "timm_qkvb",
        sizes=(224, 160),
    ),
    Case(
        "dinov3-base-bias-timm",
        "vit_base_patch16_dinov3",
        lambda size: _timm("vit_base_patch16_dinov3_qkvb", size),
        lambda model: _of_blocks(model.blocks),
        "timm_qkvb",
        sizes=(224, 160),
    ),
]


@torch.no_grad()
def randomise(model: torch.nn.Module, seed: int = 0) -> torch.nn.Module:
    """Moves every parameter off its start: ones and zeros would hide a swapped name."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model.eval()


def save(model, folder) -> str:
    """The file that a user of the model would have."""
    if hasattr(model, "save_pretrained"):
        model.save_pretrained(folder)
    else:
        save_file(
            {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, folder / "model.safetensors"
        )
    return folder / "model.safetensors"


@torch.no_grad()
def stage_outputs(case: Case, model, images: np.ndarray) -> list[np.ndarray]:
    """What the compared modules give, `[B, ..., C]` with the places in row-major order."""
    found = []

    def keep(module, inputs, output):
        output = output[0] if isinstance(output, tuple) else output
        found.append(output.numpy().copy())

    handles = [module.register_forward_hook(keep) for module in case.stages(model)]
    case.run(model, torch.from_numpy(images.transpose(0, 3, 1, 2).copy()))
    for handle in handles:
        handle.remove()
    return found
