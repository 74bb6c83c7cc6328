"""Pyramid Vision Transformer, first generation: position embeddings per stage, and a class token in the last one.

References: Wang et al., "Pyramid Vision Transformer: A Versatile Backbone for Dense Prediction without Convolutions",
ICCV 2021.
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.backbones.geometry import Size, pyramid_grids
from ditask_jax.backbones.pyramid import Pyramid, PyramidConfig, PyramidStage
from ditask_jax.nn.grid_rows import GridRows
from ditask_jax.nn.scope import Scope
from ditask_jax.nn.variables import Frozen


@dataclasses.dataclass(frozen=True)
class PvtConfig(PyramidConfig):
    """Sizes of a first-generation Pyramid Vision Transformer."""

    @property
    def readouts(self) -> tuple[str, ...]:
        """What can be read (see `Backbone`)."""
        return ("map", "last", "token")


class PvtStage(PyramidStage):
    """A stage with position embeddings, and with a class token where it is read.

    The last stage's embeddings start with the class token's. Where no token is read both stay out of the computation,
    as in dense uses of the released weights; they are kept all the same, the token frozen, so that weights come and go
    whole.
    """

    def __init__(self, config: PvtConfig, stage: int, grid: Size, readout: str, drop_rates, scope: Scope):
        super().__init__(config, stage, grid, readout, drop_rates, scope)
        last, channels = stage == len(config.depths) - 1, config.channels[stage]
        self.leading = int(last)
        self.reads_token = last and readout == "token"
        rows = self.leading + grid[0] * grid[1]
        self.position_embedding = nnx.Param(scope.normal("position_embedding", (rows, channels)))
        if last:
            kind = nnx.Param if self.reads_token else Frozen
            self.class_token = kind(scope.normal("class_token", (channels,)))

    def before(self, x: jax.Array) -> jax.Array:
        positions = self.position_embedding[...].astype(x.dtype)
        if self.reads_token:
            token = self.class_token[...].astype(x.dtype)
            x = jnp.concatenate([jnp.broadcast_to(token, (*x.shape[:2], 1, x.shape[-1])), x], axis=2)
        else:
            positions = positions[self.leading :]
        return x + positions.reshape(1, 1, *positions.shape)


class Pvt(Pyramid):
    """PVT without its final norm and classifier.

    Shapes: images `[B, H, W, 3]`, normalised, to taps `[S', B, h, w, C]` and the names of their streams, as `readout`
    says.
    """

    stage = PvtStage

    def grid_rows(self, image_size: Size | None = None) -> dict[str, GridRows]:
        """Position embeddings: bilinear, as the originals resize them for an image of another size."""
        grids = pyramid_grids(image_size or self.image_size, self.config)
        return {
            f"stages/{stage}/position_embedding": GridRows(grid, self.stages[stage].leading, "bilinear")
            for stage, grid in enumerate(grids)
        }
