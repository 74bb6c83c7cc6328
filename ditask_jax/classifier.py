"""An image classifier on a backbone: final norm, mean over positions, one dense layer."""

import jax
import jax.numpy as jnp
from flax import nnx

from ditask_jax.nn.context import Context
from ditask_jax.nn.dense import Dense
from ditask_jax.nn.norm import LayerNorm
from ditask_jax.nn.scope import Scope


class Classifier(nnx.Module):
    """Normalised images `[B, H, W, 3]` to class logits `[B, classes]`, as the pre-trained checkpoints are scored."""

    def __init__(self, backbone, classes: int, scope: Scope | None = None):
        scope = scope or Scope()
        self.backbone = backbone
        channels = backbone.config.feature_channels[-1]
        self.norm = LayerNorm(channels, scope / "norm")
        self.head = Dense(channels, classes, scope / "head")

    def pooled(self, images: jax.Array, context: Context) -> jax.Array:
        """The mean of the normalised last features of the first stream, `[B, C]`, float32."""
        features, _ = self.backbone(images, context)[-1]
        return self.norm(features[0]).astype(jnp.float32).mean((1, 2))

    def __call__(self, images: jax.Array, context: Context) -> jax.Array:
        return self.head(self.pooled(images, context))


class RegionClassifier(Classifier):
    """The same without the mean: class logits `[B, h, w, classes]` for every position of the last stage."""

    def __call__(self, images: jax.Array, context: Context) -> jax.Array:
        features, _ = self.backbone(images, context)[-1]
        return self.head(self.norm(features[0]).astype(jnp.float32))
