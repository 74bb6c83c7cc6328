"""Many trainings from one file: points of a grid, run in parallel, resumed, searched, compared."""

from ditask_jax.sweeps.points import Point, Sweep, grid, seeds

__all__ = ["Point", "Sweep", "grid", "seeds"]
