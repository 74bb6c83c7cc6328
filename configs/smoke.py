"""A run of seconds on a test-size model, for tests and first tries.

python -m ditask_jax.train --config=configs/smoke.py --workdir=runs/smoke
"""

from ditask_jax.config import base_config


def get_config():
    """Returns the smallest configuration that goes through every part."""
    config = base_config()
    config.tasks = "semseg+depth"
    config.data.name = "scenes"
    config.data.threads = 1
    config.data.train_examples = 24
    config.data.eval_examples = 6
    config.image_size = 32
    config.batch_size = 8
    config.total_steps = 6
    config.log_every_steps = 1
    config.checkpoint_every_steps = 2

    config.backbone.name = "swin_test"
    config.backbone.drop_path_rate = 0.1
    config.head.widths = (4, 4, 4, 4)
    config.method.shared_cells = 4
    config.method.task_cells = 4

    config.optimizer.learning_rate = 0.1
    config.optimizer.warmup_steps = 1
    config.optimizer.schedule = "cosine"
    return config
