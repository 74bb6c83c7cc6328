"""Which learning rate each kind of method of configs/table6.py gets: two, on a seed that no row of the table uses.

python -m ditask_jax.sweep configs/sweeps/table6_rates.py --workdir=runs/table6_rates
"""

from ditask_jax.sweeps import Sweep, grid

METHODS = ("full", "frozen", "lora_r4", "mtlora_r32", "ditask", "no_transform")


def get_sweep() -> Sweep:
    """Every method with every rate."""
    rates = {"optimizer.learning_rate": [0.032, 0.16], "seed": [100]}
    return Sweep([point for method in METHODS for point in grid(f"configs/table6.py:{method}", rates, name=method)])
