"""PASCAL-Context, four tasks, Swin-Tiny at 448 pixels: the published recipe.

python -m ditask_jax.train --config=configs/pascal_swin_tiny.py --workdir=runs/pascal
python -m ditask_jax.train --config=configs/pascal_swin_tiny.py:full --workdir=runs/pascal_full
"""

from configs import base
from ditask_jax.errors import check_known

VARIANTS = ("ditask", "frozen", "full")


def get_config(variant: str = "ditask"):
    """Returns the configuration of one fine-tuning method."""
    check_known("config: pascal_swin_tiny variant", variant, VARIANTS)
    config = base.get_config()
    config.method.name = variant
    config.total_epochs = 300.0
    config.eval_every_epochs = 5.0
    return config
