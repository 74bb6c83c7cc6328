"""DiTASK on Swin in plain PyTorch: what a careful user of PyTorch would write, as a like-for-like peer.

The decomposition is done once, only thetas that something reads exist, nothing is computed that no output needs, and
all spectra of one length go through the flow together. Streams are a list: the shared one, then one per task, from the
last block of a stage to the patch merging behind it. Layers for which that is less work multiply by the factors, one
after another, with the product on the first one shared by streams that split there; the others form the deformed weight
`W + (U * change) V`, as the released code does everywhere (`factored=False`). Without adapters the same class is plain
Swin, every weight trained.
"""

from collections import defaultdict

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.torch_cpab import Spectra
from ditask_jax.adapters.execution import choose_execution
from ditask_jax.backbones.swin import SwinConfig
from ditask_jax.nn.attention import relative_position_index, shift_mask

Streams = list[torch.Tensor]


class Adapted(nn.Module):
    """A linear layer of one stream, or of several with a theta each.

    Args:
      streams: how many leave it; 0 for one, which all that enters passes.
      cells: of the transforms of each of them; empty: a plain layer.
      parts: matrices side by side (3 for q, k, v).
      drops: whether the shared stream leads what enters; dropout falls on that one alone.
      splits: whether one stream enters and several leave.
    """

    def __init__(
        self, inputs: int, outputs: int, streams: int = 0, cells=(), parts: int = 1, drops: bool = True, splits=False
    ):
        super().__init__()
        self.drops, self.splits = drops, splits
        self.weight = nn.Parameter(torch.randn(outputs, inputs) * inputs**-0.5)
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.streams, self.parts = streams, parts
        self.thetas = nn.ParameterList([torch.zeros(count - 1) for count in cells])
        self.factored = False
        self.changes: list[torch.Tensor] = []

    def factor(self, rows: int | None) -> None:
        """Decomposes the weight and freezes it; `rows` tokens per stream decide how the product is formed."""
        outputs, inputs = self.weight.shape
        if rows:
            kept = self.streams if self.streams and not self.splits else 1
            shape = (inputs, outputs), self.parts, min(inputs, outputs // self.parts), kept
            self.factored = choose_execution("auto", *shape, self.streams or 1, rows) == "factored"
        self.weight.requires_grad_(False)
        self.bias.requires_grad_(False)
        blocks = self.weight.detach().double().chunk(self.parts)
        left, values, right = zip(*(torch.linalg.svd(block, full_matrices=False) for block in blocks), strict=True)
        self.register_buffer("left", torch.stack(left).float().contiguous())
        self.register_buffer("values", torch.stack(values).float())
        self.register_buffer("right", torch.stack(right).float().contiguous())

    def weights(self) -> Streams:
        """The weight of every stream."""
        if not self.thetas:
            return [self.weight]
        deformed = lambda change: ((self.left * change[:, None]) @ self.right).flatten(0, 1)
        return [self.weight + deformed(change) for change in self.changes]

    def by_factors(self, streams: Streams) -> Streams:
        """The product factor by factor, behind one shared product on the input where streams split."""
        weights = self.right.flatten(0, 1)
        inner = [F.linear(x, weights) for x in streams]
        inner = inner * len(self.changes) if len(inner) == 1 else inner
        changes = self.changes * len(inner) if len(self.changes) == 1 else self.changes
        found = []
        for x, change in zip(inner, changes, strict=True):
            x = (x * (self.values + change).flatten()).unflatten(-1, self.values.shape)
            parts = [F.linear(x[..., part, :], left) for part, left in enumerate(self.left)]
            found.append(torch.cat(parts, -1) + self.bias)
        return found

    def forward(self, streams: Streams, dropout: float) -> Streams:
        if self.drops and self.training and dropout:
            streams = [F.dropout(streams[0], dropout), *streams[1:]]
        if self.factored:
            return self.by_factors(streams)
        weights = self.weights()
        if self.streams and len(streams) == 1:
            streams = streams * self.streams
        if self.streams:
            # In the very last block the shared stream is unused and is not computed.
            streams = streams[len(streams) - self.streams :]
            return [F.linear(x, w, self.bias) for x, w in zip(streams, weights, strict=True)]
        return [F.linear(x, weights[0], self.bias) for x in streams]


def drop_path(x: torch.Tensor, rate: float, training: bool) -> torch.Tensor:
    """Drops the branch of whole examples."""
    if not training or rate == 0:
        return x
    keep = torch.empty(x.shape[0], *[1] * (x.ndim - 1)).bernoulli_(1 - rate)
    return x * (keep / (1 - rate))


class SwinBlock(nn.Module):
    """Window attention and MLP; with `tasks`, the block that ends a stage and splits the streams."""

    def __init__(self, channels, heads, grid, window, shift, rate, tasks, cells, dropout, shared_ends):
        super().__init__()
        self.heads, self.grid, self.window, self.shift, self.rate, self.dropout = (
            heads,
            grid,
            window,
            shift,
            rate,
            dropout,
        )
        shared = cells[:1]
        split = (() if shared_ends else shared) + cells[1:] * tasks if cells else ()
        count, cells_of = (len(split), split) if tasks else (0, shared)
        own = lambda inputs, outputs, drops, splits=False: Adapted(inputs, outputs, count, cells_of, 1, drops, splits)
        self.norm1, self.norm2 = nn.LayerNorm(channels), nn.LayerNorm(channels)
        self.qkv = Adapted(channels, 3 * channels, 0, shared, 3)
        self.proj = own(channels, channels, True, bool(tasks))
        self.fc1, self.fc2 = own(channels, 4 * channels, not shared_ends), own(4 * channels, channels, not shared_ends)
        self.table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads) * 0.02)
        self.register_buffer("index", torch.from_numpy(relative_position_index(window).reshape(-1)), persistent=False)
        mask = torch.from_numpy(shift_mask(grid, window, shift)) if shift else None
        self.register_buffer("mask", mask, persistent=False)

    def attention(self, x: torch.Tensor) -> torch.Tensor:
        """Mixed tokens `[B, H, W, C]`, before the projection."""
        (batch, height, width, channels), w = x.shape, self.window
        if self.shift:
            x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.view(batch, height // w, w, width // w, w, channels).transpose(2, 3).reshape(-1, w * w, channels)
        (qkv,) = self.qkv([x], self.dropout)
        q, k, v = qkv.view(-1, w * w, 3, self.heads, channels // self.heads).permute(2, 0, 3, 1, 4)
        logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-2, -1)
        logits = logits + self.table[self.index].T.reshape(1, self.heads, w * w, w * w)
        if self.shift:
            logits = logits.view(batch, -1, *logits.shape[1:]) + self.mask[None, :, None]
            logits = logits.view(-1, *logits.shape[2:])
        x = (logits.softmax(-1) @ v).transpose(1, 2).reshape(-1, w, w, channels)
        x = x.view(batch, height // w, width // w, w, w, channels).transpose(2, 3).reshape(batch, height, width, -1)
        return torch.roll(x, (self.shift, self.shift), (1, 2)) if self.shift else x

    def forward(self, x: torch.Tensor) -> Streams:
        add = lambda trunk, branch: trunk + drop_path(branch, self.rate, self.training)
        streams = [add(x, branch) for branch in self.proj([self.attention(self.norm1(x))], self.dropout)]
        hidden = self.fc1([self.norm2(stream) for stream in streams], self.dropout)
        branches = self.fc2([F.gelu(h) for h in hidden], self.dropout)
        return [add(stream, branch) for stream, branch in zip(streams, branches, strict=True)]


class Merging(nn.Module):
    """Patch merging."""

    def __init__(self, channels: int):
        super().__init__()
        self.norm = nn.LayerNorm(4 * channels)
        self.reduction = nn.Linear(4 * channels, 2 * channels, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch, height, width, channels = x.shape
        x = x.view(batch, height // 2, 2, width // 2, 2, channels).permute(0, 1, 3, 4, 2, 5)
        return self.reduction(self.norm(x.reshape(batch, height // 2, width // 2, 4 * channels)))


class TorchSwin(nn.Module):
    """Swin with streams: images `[B, 3, H, W]` to a list of four stages, each a list of maps `[B, h, w, C]` by task.

    Args:
      config: sizes.
      side: of the image, in pixels.
      tasks: how many tasks; they share one map where nothing splits.
      cells: (shared, per task) of the transforms; None: every weight trains, one stream.
      drop_path_rate, dropout: as in the configuration.
    """

    def __init__(self, config: SwinConfig, side: int, tasks: int, cells, drop_path_rate: float, dropout: float):
        super().__init__()
        self.tasks, self.split = tasks, cells is not None
        self.patch = nn.Conv2d(3, config.embed_dim, config.patch, config.patch)
        self.norm = nn.LayerNorm(config.embed_dim)
        self.stages, self.mergings = nn.ModuleList(), nn.ModuleList()
        total, number = sum(config.depths), 0
        for stage, depth in enumerate(config.depths):
            grid, channels = side // config.patch // 2**stage, config.embed_dim * 2**stage
            window, last_stage = min(config.window, grid), stage == len(config.depths) - 1
            blocks = nn.ModuleList()
            for block in range(depth):
                shift = window // 2 if block % 2 and window < grid else 0
                ends = self.split and block == depth - 1
                rate = drop_path_rate * number / max(total - 1, 1)
                blocks.append(
                    SwinBlock(
                        channels, config.heads[stage], (grid, grid), window, shift, rate, tasks if ends else 0,
                        tuple(cells or ()), dropout if self.split else 0.0, ends and last_stage,
                    )
                )  # fmt: skip
                number += 1
            self.stages.append(blocks)
            if not last_stage:
                self.mergings.append(Merging(channels))

    def adapt(self, examples: int, factored: bool = True) -> None:
        """Decomposes and freezes the weights of adapted layers, and lays their spectra together.

        Args:
          examples: images per step, for the choice between the ways to form a product.
          factored: whether there is a choice.
        """
        groups = defaultdict(list)
        self.layers = []
        for block in (block for blocks in self.stages for block in blocks):
            for layer in (block.qkv, block.proj, block.fc1, block.fc2):
                layer.factor(examples * block.grid[0] * block.grid[1] if factored else None)
                self.layers.append(layer)
        for layer in self.layers:
            for number, theta in enumerate(layer.thetas):
                groups[layer.values.shape[1], len(theta) + 1].append((layer, number))
        self.groups = [
            (Spectra(torch.cat([layer.values for layer, _ in members]), cells), members)
            for (_, cells), members in groups.items()
        ]

    def deform(self) -> None:
        """The changes of all spectra, for the products of this forward pass."""
        for layer in self.layers:
            layer.changes = [None] * len(layer.thetas)
        for spectra, members in self.groups:
            rows = torch.cat([layer.thetas[number].expand(layer.parts, -1) for layer, number in members])
            changes = spectra.changes(rows).split([layer.parts for layer, _ in members])
            for (layer, number), change in zip(members, changes, strict=True):
                layer.changes[number] = change

    def forward(self, images: torch.Tensor) -> list[Streams]:
        if self.split:
            self.deform()
        x = self.norm(self.patch(images).permute(0, 2, 3, 1))
        taps = []
        for stage, blocks in enumerate(self.stages):
            streams = [x]
            for block in blocks:
                streams = block(streams[0])
            if stage < len(self.mergings):
                streams = [self.mergings[stage](stream) for stream in streams]
            # The shared stream goes on; the tasks' are read here and end.
            taps.append(streams[-self.tasks :] if self.split else streams[:1] * self.tasks)
            x = streams[0]
        return taps
