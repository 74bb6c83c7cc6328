"""Scenes, six tasks, from the embedded weights: a complete multi-task run in minutes on two cores, nothing to download.

python -m ditask_jax.train --config=configs/scenes.py --workdir=runs/scenes
python -m ditask_jax.train --config=configs/scenes.py:frozen --workdir=runs/scenes_frozen

Variants: `ditask`; `frozen` (decoders only); `full`; `no_transform`, DiTASK's trainable set without thetas (norms,
patch merging, patch embedding and bias tables train, no singular value moves), which tells what the thetas add; and
`single`, the full fine-tuning whose single-task scores are the references of delta_m.
"""

from ditask_jax.config import base_config
from ditask_jax.errors import check_known

VARIANTS = ("ditask", "frozen", "full", "no_transform", "single")


def get_config(variant: str = "ditask"):
    """Returns the configuration of one fine-tuning method."""
    check_known("config: scenes variant", variant, VARIANTS)
    config = base_config()
    config.tasks = "semseg+human_parts+sal+normals+depth+edge"
    config.data.name = "scenes"
    config.data.threads = 1
    # Images cost next to nothing to draw: every one is seen once, and there is nothing for a warp to add.
    config.data.train_examples = 7200
    config.data.rotation = 0.0
    config.data.scale = (1.0, 1.0)
    config.image_size = 96
    config.batch_size = 16
    config.total_steps = 450
    config.log_every_steps = 25
    config.checkpoint_every_steps = 100

    config.backbone.name = "swin_nano_patch2_window6"
    config.backbone.weights = "embedded"
    config.backbone.drop_path_rate = 0.0
    # Narrow necks: at this size the published head would cost more than the backbone.
    config.head.widths = (16, 16, 16, 16)

    config.method.name = {"no_transform": "ditask", "single": "full"}.get(variant, variant)
    if "dropout" in config.method:
        config.method.dropout = 0.0
    if variant == "no_transform":
        config.method.shared_layers = ()
        config.method.task_layers = ()
        config.method.unfrozen = ("patch_embed", "norms", "relative_position_bias_table", "reduction")

    # Per 512 images, as everywhere: the effective peak is this times batch_size / 512.
    # Where every backbone weight moves, far less: 2e-3 is what the start was made with from scratch.
    config.optimizer.learning_rate = 0.032 if config.method.name == "full" else 0.16
    config.optimizer.warmup_learning_rate = 6.4e-5
    config.optimizer.min_learning_rate = 6.4e-5
    config.optimizer.weight_decay = 0.01
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup_steps = 30
    return config
