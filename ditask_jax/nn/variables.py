"""Variable types: what trains (`flax.nnx.Param`), what is frozen, and what is a running statistic."""

from flax import nnx


class Frozen(nnx.Variable):
    """A weight that never trains. Not a `Param`, so no gradient, optimiser slot or mask for it can exist."""


class Statistic(nnx.Variable):
    """A running statistic (BatchNorm mean and variance): written by a training step, never differentiated."""
