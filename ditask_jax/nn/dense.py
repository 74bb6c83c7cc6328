"""A plain trainable dense layer, for heads; layers that methods adapt are `Linear`."""

import jax
from flax import nnx

from ditask_jax.nn.scope import Scope


class Dense(nnx.Module):
    """`x @ kernel + bias` on the last axis."""

    def __init__(self, inputs: int, outputs: int, scope: Scope):
        self.kernel = nnx.Param(scope.normal("kernel", (inputs, outputs), 0.02))
        self.bias = nnx.Param(scope.zeros((outputs,)))

    def __call__(self, x: jax.Array) -> jax.Array:
        y = x @ self.kernel[...]
        return y + self.bias[...].reshape((1,) * (y.ndim - 1) + (-1,))
