"""The published heads and losses in plain PyTorch, for the peers of the benchmark."""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

IGNORE = 255


class Head(nn.Module):
    """Necks and HRNet head of one task: maps `[B, h, w, C]` to logits `[B, outputs, size, size]`."""

    def __init__(self, channels: Sequence[int], widths: Sequence[int], outputs: int):
        super().__init__()
        joined = sum(widths)
        self.necks = nn.ModuleList([nn.Conv2d(c, w, 1, bias=False) for c, w in zip(channels, widths, strict=True)])
        self.widen = nn.Conv2d(joined, 4 * joined, 1)
        self.norm = nn.BatchNorm2d(4 * joined)
        self.classify = nn.Conv2d(4 * joined, outputs, 1)

    def forward(self, maps: Sequence[torch.Tensor], size: tuple[int, int]) -> torch.Tensor:
        maps = [neck(x.permute(0, 3, 1, 2)) for neck, x in zip(self.necks, maps, strict=True)]
        resize = lambda x, to: F.interpolate(x, size=to, mode="bilinear", align_corners=False)
        joined = torch.cat([maps[0], *(resize(x, maps[0].shape[-2:]) for x in maps[1:])], 1)
        return resize(self.classify(F.relu(self.norm(self.widen(joined)))), size)


class MultiTask(nn.Module):
    """A backbone that gives every task its maps, and a head per task.

    Args:
      backbone: images `[B, 3, H, W]` to a list of stages, each a list of maps by task.
      outputs: channels by task name.
    """

    def __init__(self, backbone: nn.Module, channels: Sequence[int], widths: Sequence[int], outputs: dict[str, int]):
        super().__init__()
        self.backbone = backbone
        self.heads = nn.ModuleDict({name: Head(channels, widths, count) for name, count in outputs.items()})

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        taps, size = self.backbone(images), tuple(images.shape[-2:])
        return {n: head([stage[i] for stage in taps], size) for i, (n, head) in enumerate(self.heads.items())}


def _class_map(logits, label):
    return F.cross_entropy(logits, label, ignore_index=IGNORE)


def _sal(logits, label):
    known = label != IGNORE
    positive = (label == 1).float()
    weight = 1 - positive[known].mean()
    loss = F.binary_cross_entropy_with_logits(logits[:, 0], positive, reduction="none")
    return (torch.where(label == 1, weight, 1 - weight) * loss)[known].mean()


def _normals(logits, label):
    known = label != IGNORE
    return (F.normalize(logits, dim=1, eps=1e-12) - label)[known].abs().mean()


def _depth(logits, label):
    known = label != IGNORE
    return (logits[:, 0] - label)[known].abs().mean()


def _edge(logits, label):
    known = label != IGNORE
    loss = F.binary_cross_entropy_with_logits(logits[:, 0], (label == 1).float(), reduction="none")
    return (torch.where(label == 1, 0.95, 0.05) * loss)[known].mean()


LOSSES = {
    "semseg": _class_map,
    "human_parts": _class_map,
    "sal": _sal,
    "normals": _normals,
    "depth": _depth,
    "edge": _edge,
}


def total_loss(logits: dict[str, torch.Tensor], labels: dict[str, torch.Tensor], weights: dict[str, float]):
    """The weighted sum over tasks."""
    return sum(weights[name] * LOSSES[name](logits[name], labels[name]) for name in logits)
