"""Cityscapes (19 classes and depth), Swin-Tiny at 448x896 pixels.

python -m ditask_jax.train --config=configs/cityscapes_swin_tiny.py --workdir=runs/cityscapes \
    --config.data.root=cityscapes

Weights: hf://timm/swin_tiny_patch4_window7_224.ms_in1k, 114 MB, MIT (ImageNet-1k behind it: non-commercial research),
fetched when training begins; without a network, give the path of its model.safetensors as --config.backbone.weights.

Published, on the 500 validation images (mIoU, rmse of depth):

    DiTASK 56.08 / 6.35    TADFormer 62.76 / 5.39    MTLoRA 60.88 / not given    Free Sinewich 62.62 / 5.14

These come from the Free Sinewich paper, which ran all four; DiTASK's own paper and code have no Cityscapes.

Unknown, so that the numbers above can only be aimed at:

* The unit of depth. Errors of 5 to 6.4 are no inverse depth; they are disparities in pixels, the default here (and what
  the table of scores prints), or metres.
* The size of the images, the augmentation, the schedule and the length of training. Here: 448x896, which keeps the
  shape of the images (1024x2048), flips and zooms, and PASCAL-Context's recipe for the rest, over 100 epochs.
* Whether 19 classes were used: 7-class numbers belong to images of 128x256 and to inverse depth.
"""

from ditask_jax.config import base_config


def get_config():
    """Returns the configuration; methods are chosen by `method.name`."""
    config = base_config()
    config.recipe = "published"
    config.tasks = "semseg+depth"
    config.data.name = "cityscapes"
    config.backbone.weights = "hf://timm/swin_tiny_patch4_window7_224.ms_in1k"
    config.image_size = (448, 896)
    # A driving camera is level; zooming in is what the multi-task benchmark on this data set does.
    config.data.rotation = 0.0
    config.data.scale = (1.0, 1.2, 1.5)
    config.data.scales_are_choices = True
    config.batch_size = 16
    config.total_epochs = 100.0
    config.eval_every_epochs = 5.0
    return config
