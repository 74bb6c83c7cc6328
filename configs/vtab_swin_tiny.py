"""VTAB-1k, one of 19 classification tasks with 1,000 training images, Swin-Tiny at 224 pixels.

python -m ditask_jax.train --config=configs/vtab_swin_tiny.py:cifar100 --workdir=runs/vtab/cifar100 \
    --config.data.root=vtab-1k
python -m ditask_jax.data doctor vtab --root vtab-1k

Weights: hf://timm/swin_tiny_patch4_window7_224.ms_in22k, 178 MB, MIT, fetched when training begins; see
`pascal_swin_tiny`. On the plot's kind of backbone: --config.backbone.name=vit_base_patch16
--config.backbone.weights=hf://timm/vit_base_patch16_224.augreg_in21k.

The variant is the task: cifar100, caltech101, dtd, oxford_flowers102, oxford_iiit_pet, svhn, sun397 (natural),
patch_camelyon, eurosat, resisc45, diabetic_retinopathy (specialized), clevr_count, clevr_dist, dmlab, kitti_dist,
dsprites_loc, dsprites_ori, smallnorb_azi, smallnorb_ele (structured). The benchmark's score is the mean of the 19
accuracies on the full test sets; fine-tuning papers also give the mean of the three groups' means. Hyper-parameters are
chosen on 800 + 200 of the 1,000 images: --config.data.vtab_tuning=True.

Images are resized straight to 224x224 (bicubic, anti-aliased), without a crop and without augmentation.

Published: DiTASK's paper compares itself with LoRA in a plot (its figure 9): about ten times fewer trainable
parameters at competitive accuracy, on a ViT. There is no table and no code.

Unknown: everything else. Which ViT and which pre-training, the accuracies, the number of cells, the optimiser and its
schedule. What stands below (AdamW, cosine, 100 epochs of 64 images, 10 of them warm-up) is what fine-tuning papers on
this benchmark mostly use.
"""

from ditask_jax.config import base_config


def get_config(task: str = "cifar100"):
    """Returns the configuration of one task; methods are chosen by `method.name`."""
    config = base_config()
    config.tasks = "classification"
    config.data.name = "vtab"
    config.data.vtab_task = task
    config.backbone.weights = "hf://timm/swin_tiny_patch4_window7_224.ms_in22k"
    config.data.resize = "pillow"
    config.data.hflip = 0.0
    config.data.rotation = 0.0
    config.data.scale = (1.0, 1.0)
    config.image_size = 224
    config.batch_size = 64
    config.total_epochs = 100.0
    config.head.name = "linear"
    config.backbone.drop_path_rate = 0.1

    # Per 512 images: the effective peak is 1e-3.
    config.optimizer.learning_rate = 8e-3
    config.optimizer.warmup_learning_rate = 8e-6
    config.optimizer.min_learning_rate = 8e-6
    config.optimizer.weight_decay = 1e-4
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_epochs = 10.0
    return config
