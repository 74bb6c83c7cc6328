"""Training steps and forward passes of the PyTorch peers, on the batches that ours get.

Rows: `full` (transformers' Swin, every weight trains), `lora` (the same with peft's LoRA of rank 64), `ditask` and
`ditask_weights` (our plain PyTorch DiTASK, 1 + T streams, with products formed by the cost rule of this package or by
deformed weights throughout). All have the published heads, losses, clipping and AdamW.
"""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import nn

from benchmarks.torch_heads import MultiTask, total_loss
from benchmarks.torch_swin import Adapted, TorchSwin
from benchmarks.torchvision_operators import declare_operators
from ditask_jax.backbones.swin import SwinConfig

PEERS = {
    "ditask": "DiTASK in plain PyTorch, SVD cached, products as here",
    "ditask_weights": "DiTASK in plain PyTorch, SVD cached, deformed weights",
    "full": "full fine-tuning, transformers Swin",
    "lora": "peft LoRA r=64, transformers Swin",
}
LORA_LAYERS = r".*\.(query|key|value|dense|[qkvo]_proj|fc1|fc2)"


class _Transformers(nn.Module):
    """transformers' Swin as a backbone whose maps all tasks share."""

    def __init__(self, model: nn.Module, tasks: int):
        super().__init__()
        self.model, self.tasks = model, tasks

    def forward(self, images: torch.Tensor) -> list[list[torch.Tensor]]:
        found = self.model(pixel_values=images, output_hidden_states=True).reshaped_hidden_states[1:]
        return [[x.permute(0, 2, 3, 1)] * self.tasks for x in found]


def transformers_swin(config: SwinConfig, side: int, drop_path_rate: float, lora_rank: int | None = None) -> nn.Module:
    """transformers' Swin of these sizes with random weights; with `lora_rank`, wrapped by peft and frozen."""
    declare_operators()
    from transformers import SwinConfig as TheirConfig
    from transformers import SwinModel

    theirs = TheirConfig(
        image_size=side,
        patch_size=config.patch,
        embed_dim=config.embed_dim,
        depths=list(config.depths),
        num_heads=list(config.heads),
        window_size=config.window,
        mlp_ratio=config.mlp_ratio,
        drop_path_rate=drop_path_rate,
    )
    model = SwinModel(theirs, add_pooling_layer=False)
    if lora_rank is None:
        return model
    from peft import LoraConfig, get_peft_model

    return get_peft_model(model, LoraConfig(r=lora_rank, lora_alpha=lora_rank, target_modules=LORA_LAYERS))


def build(
    peer: str, config: SwinConfig, side: int, outputs: Mapping[str, int], widths: Sequence[int], options, ours=None
):
    """A peer's model.

    Args:
      peer: of PEERS.
      config, side: backbone and image.
      outputs: channels by task.
      widths: of the necks.
      options: the configuration's `cells`, `drop_path_rate`, `dropout`, and `examples` per step.
      ours: arrays of our model by path, for a plain PyTorch DiTASK with the same weights; None: random ones.
    """
    make = lambda backbone: MultiTask(backbone, config.feature_channels, widths, dict(outputs))
    rate, tasks = options["drop_path_rate"], len(outputs)
    if not peer.startswith("ditask"):
        return make(_Transformers(transformers_swin(config, side, rate, 64 if peer == "lora" else None), tasks))
    model = make(TorchSwin(config, side, tasks, options["cells"], rate, options["dropout"]))
    if ours is not None:
        fill(model, ours)
    model.backbone.adapt(options["examples"], factored=peer == "ditask")
    return model


def tensors(batch: Mapping, mean: Sequence[float], std: Sequence[float]):
    """Normalised images `[B, 3, H, W]` and labels of one of our batches."""
    scale = lambda values: torch.tensor(values).view(1, 3, 1, 1)
    images = torch.from_numpy(np.array(batch["image"])).permute(0, 3, 1, 2).float() / 255
    labels = {}
    for name, label in batch["labels"].items():
        tensor = torch.from_numpy(np.array(label))
        integer = tensor.dtype == torch.uint8
        labels[name] = tensor.long() if integer else (tensor.permute(0, 3, 1, 2) if tensor.ndim == 4 else tensor)
    return (images - scale(mean)) / scale(std), labels


def make_step(model: nn.Module, images: torch.Tensor, labels: Mapping, weights: Mapping[str, float], optimizer):
    """One optimiser step as a function without arguments; returns the loss."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    adam = torch.optim.AdamW(
        trainable, lr=1e-4, weight_decay=optimizer["weight_decay"], betas=tuple(optimizer["betas"])
    )

    def step() -> float:
        model.train()
        adam.zero_grad(set_to_none=True)
        loss = total_loss(model(images), labels, weights)
        loss.backward()
        nn.utils.clip_grad_norm_(trainable, optimizer["clip_norm"])
        adam.step()
        return float(loss.detach())

    return step


def make_forward(model: nn.Module, images: torch.Tensor) -> Callable[[], None]:
    """Inference as a function without arguments."""

    @torch.inference_mode()
    def forward() -> None:
        model.eval()
        model(images)

    return forward


def trainable_count(model: nn.Module) -> int:
    """Trainable parameters."""
    return sum(p.numel() for p in model.parameters() if p.requires_grad)


def fill(model: MultiTask, arrays: Mapping[str, np.ndarray]) -> None:
    """Gives the plain PyTorch DiTASK our weights, by our paths; call before `adapt`."""

    def put(parameter: torch.Tensor, name: str, transpose: bool = True) -> None:
        array = torch.from_numpy(np.array(arrays[name]))
        if name.endswith("kernel") and transpose:
            array = array.permute(3, 2, 0, 1) if array.ndim == 4 else array.T
        with torch.no_grad():
            parameter.copy_(array.reshape(parameter.shape))

    def norm(module: nn.Module, path: str) -> None:
        put(module.weight, f"{path}/scale")
        put(module.bias, f"{path}/bias")

    def dense(module: nn.Module, path: str) -> None:
        put(module.weight, f"{path}/kernel")
        if module.bias is not None:
            put(module.bias, f"{path}/bias")

    body = model.backbone
    dense(body.patch, "backbone/patch_embed")
    norm(body.norm, "backbone/patch_embed/norm")
    for stage, blocks in enumerate(body.stages):
        for number, block in enumerate(blocks):
            path = f"backbone/stages/{stage}/blocks/{number}"
            norm(block.norm1, f"{path}/norm1")
            norm(block.norm2, f"{path}/norm2")
            put(block.table, f"{path}/attn/relative_position_bias_table")
            for name in ("attn/qkv", "attn/proj", "mlp/fc1", "mlp/fc2"):
                dense(getattr(block, name.rpartition("/")[2]), f"{path}/{name}")
        if stage < len(body.mergings):
            norm(body.mergings[stage].norm, f"backbone/stages/{stage}/merging/norm")
            dense(body.mergings[stage].reduction, f"backbone/stages/{stage}/merging/reduction")
    for name, head in model.heads.items():
        for stage, neck in enumerate(head.necks):
            dense(neck, f"necks/{name}/convs/{stage}")
        dense(head.widen, f"heads/{name}/widen")
        norm(head.norm, f"heads/{name}/norm")
        dense(head.classify, f"heads/{name}/classify")


def thetas(model: MultiTask) -> list[nn.Parameter]:
    """All thetas of the plain PyTorch DiTASK."""
    return [theta for module in model.modules() if isinstance(module, Adapted) for theta in module.thetas]
