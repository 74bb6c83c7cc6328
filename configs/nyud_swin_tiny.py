"""NYUDv2 (semantic segmentation, depth, normals), Swin-Tiny at 448 pixels.

python -m ditask_jax.train --config=configs/nyud_swin_tiny.py --workdir=runs/nyud \
    --config.data.root=NYUD_MT
python -m ditask_jax.train --config=configs/nyud_swin_tiny.py:semseg_depth --workdir=runs/nyud_semseg_depth ...

Weights: hf://timm/swin_tiny_patch4_window7_224.ms_in22k, 178 MB, MIT, fetched when training begins; see
`pascal_swin_tiny`.

Variants: `semseg_depth_normals`; `semseg_depth`, the two tasks of DiTASK's own table as far as it is known.

Published, on the 654 validation images (mIoU over 40 classes, rmse in metres, mean angle in degrees, delta_m):

    method                                    semseg  depth  normals  delta_m
    single-task full fine-tuning (the zero)    42.65   0.60    22.83     0.00
    full, three tasks                          38.85   0.66    24.33    -8.49
    TADFormer r64                              40.85   0.64    27.48   -10.42
    FAAR                                       41.27   0.63    26.35    -7.88
    DiTASK (listed beside these rows)          41.13   0.65    27.25   -10.42

Unknown:

* What DiTASK scores here: 37.36, 41.13 and 44.01 mIoU are all in print, under protocols that are not told apart. Its
  own table (44.01, against 37.18 of MTLoRA) lists semseg and depth only; its references are not published.
* Pre-training: the rows above started from ImageNet-1k, DiTASK's own table probably from the larger ImageNet.
* Which schedule, warm-up (10, 20 or 30 epochs were searched) and learning rate were chosen.
* Steps per epoch: 8 processes of 64 images, with the remainder dropped, make one optimiser step an epoch, 100 in all;
  1 process of 32, as here, makes 24.

Files: three packages of this data set are in use, and they differ; `python -m ditask_jax.data doctor nyud` says which
one a folder holds and in which unit its depth is.
"""

from ditask_jax.config import base_config
from ditask_jax.errors import check_known

VARIANTS = {"semseg_depth_normals": "semseg+depth+normals", "semseg_depth": "semseg+depth"}


def get_config(variant: str = "semseg_depth_normals"):
    """Returns the configuration of one choice of tasks; methods are chosen by `method.name`."""
    check_known("config: nyud_swin_tiny variant", variant, VARIANTS)
    config = base_config()
    config.recipe = "published"
    config.tasks = VARIANTS[variant]
    config.data.name = "nyud"
    config.backbone.weights = "hf://timm/swin_tiny_patch4_window7_224.ms_in22k"
    # Zoom by one of three factors, no rotation.
    config.data.rotation = 0.0
    config.data.scale = (1.0, 1.2, 1.5)
    config.data.scales_are_choices = True
    config.total_epochs = 100.0
    config.eval_every_epochs = 5.0
    config.optimizer.warmup_epochs = 10.0
    return config
