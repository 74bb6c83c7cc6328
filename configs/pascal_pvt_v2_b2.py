"""PASCAL-Context, four tasks, PVT v2 b2 at 448 pixels: the published recipe on another kind of backbone.

python -m ditask_jax.train --config=configs/pascal_pvt_v2_b2.py --workdir=runs/pascal_pvt \
    --config.data.root=PASCAL_MT

Published as "PVT": delta_m +3.01 with 1.96 M trainable parameters in the backbone. PVT v2 b2 with 64 shared and 4 task
cells has that many (1,958,912 as the reference implementations count); PVT v1 small would have 0.89 M.

Weights: hf://timm/pvt_v2_b2.in1k, 101 MB, Apache-2.0 (ImageNet-1k behind it: non-commercial research), fetched when
training begins; without a network, give the path of its model.safetensors as --config.backbone.weights.

Variants: those of `pascal_swin_tiny`.
"""

from ditask_jax.config import recipe

pascal_swin_tiny = recipe(__file__, "pascal_swin_tiny.py")


def get_config(variant: str = "ditask"):
    """Returns the configuration of one fine-tuning method."""
    config = pascal_swin_tiny.get_config(variant)
    config.backbone.name = "pvt_v2_b2"
    config.backbone.weights = "hf://timm/pvt_v2_b2.in1k"
    if config.method.name == "ditask":
        config.method.task_cells = 4
    # The decoder's channels per stage that the reference implementations have for this backbone.
    config.head.widths = (36, 72, 144, 288)
    return config
