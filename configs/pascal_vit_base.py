"""PASCAL-Context, four tasks, ViT-B/16 at 448 pixels: the published recipe on a plain transformer, never published.

python -m ditask_jax.train --config=configs/pascal_vit_base.py --workdir=runs/pascal_vit \
    --config.data.root=PASCAL_MT

Features are read behind four of the twelve blocks (`backbone.taps`), and task streams split off in each of those. All
four maps have the resolution of a patch, 28x28. Position embeddings of a 224-pixel file are resized to that grid when
loaded.

Weights: hf://timm/vit_base_patch16_224.augreg_in21k, 410 MB, Apache-2.0 (ImageNet-21k behind it: non-commercial
research), fetched when training begins; without a network, give the path of its model.safetensors as
--config.backbone.weights.

Variants: those of `pascal_swin_tiny`.
"""

from ditask_jax.config import recipe

pascal_swin_tiny = recipe(__file__, "pascal_swin_tiny.py")


def get_config(variant: str = "ditask"):
    """Returns the configuration of one fine-tuning method."""
    config = pascal_swin_tiny.get_config(variant)
    config.backbone.name = "vit_base_patch16"
    config.backbone.weights = "hf://timm/vit_base_patch16_224.augreg_in21k"
    # Equal maps get equal widths; together as wide as the published head.
    config.head.widths = (68, 68, 67, 67)
    return config
