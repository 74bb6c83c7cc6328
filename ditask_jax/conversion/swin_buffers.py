"""What Microsoft's Swin stores besides weights: index tables and attention masks, which follow from the sizes."""

import numpy as np

from ditask_jax.backbones.geometry import check_size
from ditask_jax.backbones.swin import SwinConfig
from ditask_jax.nn.windows import relative_position_index, shift_mask


def swin_buffers(config: SwinConfig, size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The buffers of Microsoft's model of an image size, by their names.

    >>> buffers = swin_buffers(SwinConfig(8, (2,), (1,), window=2), (16, 16))
    >>> {name: array.shape for name, array in buffers.items()}  # doctest: +NORMALIZE_WHITESPACE
    {'layers.0.blocks.0.attn.relative_position_index': (4, 4),
     'layers.0.blocks.1.attn.relative_position_index': (4, 4), 'layers.0.blocks.1.attn_mask': (4, 4, 4)}
    """
    found: dict[str, np.ndarray] = {}
    for stage, geometry in enumerate(check_size(size, config.patch, config.window, len(config.depths))):
        for block in range(config.depths[stage]):
            here = f"layers.{stage}.blocks.{block}"
            found[f"{here}.attn.relative_position_index"] = relative_position_index(geometry.window).astype(np.int64)
            if block % 2 and geometry.shift:
                mask = shift_mask(geometry.grid, geometry.window, geometry.shift)
                found[f"{here}.attn_mask"] = mask.astype(np.float32)
    return found
