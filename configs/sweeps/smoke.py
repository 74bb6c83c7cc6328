"""Four points in about a minute on two cores: two learning rates, two seeds.

python -m ditask_jax.sweep configs/sweeps/smoke.py --workdir=runs/sweep_smoke --jobs=2
"""

from ditask_jax.sweeps import Sweep, grid


def get_sweep():
    """Returns the points."""
    return Sweep(grid("configs/smoke.py", {"optimizer.learning_rate": [0.1, 0.05], "seed": [0, 1]}))
