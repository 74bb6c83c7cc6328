"""float32 against bfloat16 on scenes, three seeds each: do they differ by more than seeds do?

python -m ditask_jax.sweep configs/sweeps/precision.py --workdir=runs/precision
python -m ditask_jax.compare runs/precision --out=runs/precision_compared
python -m ditask_jax.figures runs/precision --kinds=curves --out=runs/precision_figures
"""

from ditask_jax.sweeps import Sweep, grid


def get_sweep() -> Sweep:
    """The quickstart's method for 100 steps."""
    values = {"compute_dtype": ["float32", "bfloat16"], "seed": [0, 1, 2]}
    values |= {"total_steps": [100], "log_every_steps": [10]}
    return Sweep(grid("configs/scenes.py", values))
