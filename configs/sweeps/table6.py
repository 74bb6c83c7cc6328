"""Every row of docs/results.md, three seeds each: methods side by side on small scenes.

python -m ditask_jax.pretrain --backbone=pvt_nano --out=runs/pvt_nano.safetensors
python -m ditask_jax.sweep configs/sweeps/table6.py --workdir=runs/table6

About two hours on two cores. Seeds change images' order, dropout and the necks' and heads' start; the images
themselves and the backbone's start are the same.
"""

from ditask_jax.config import recipe
from ditask_jax.sweeps import Point, Sweep, seeds

CONFIG = "configs/table6.py"
TASKS = ("semseg", "sal", "normals", "depth")


def get_sweep() -> Sweep:
    """The rows in the order of the table; those for one task once per task."""
    points = []
    for variant in recipe(__file__, "../table6.py").VARIANTS:
        config = f"{CONFIG}:{variant}"
        if variant.endswith("single"):
            points += [Point(f"{variant}_{task}", config, {"tasks": task}) for task in TASKS]
        else:
            points.append(Point(variant, config))
    return Sweep(seeds(points, range(3)))
