"""The comparison of methods in miniature: scenes at 48 pixels, four tasks, 200 steps, minutes a run on one core.

python -m ditask_jax.sweep configs/sweeps/table6.py --workdir=runs/table6

runs every row with three seeds, and the single-task runs that delta_m is measured against; docs/results.md has what
came out. One row alone: python -m ditask_jax.train --config=configs/table6.py:lora_r4 --workdir=DIR

Variants, in the order of the table: `single` (full tuning, for one task; choose it with --config.tasks=depth), `full`,
`frozen` (decoders only), `lora_r4`, `lora_r8`, `mtlora_r16`, `mtlora_r32`, `mtlora_r64`, `ditask_single` (for one
task), `ditask`, `ditask_index`, `ditask_cells_16`, `ditask_cells_32`, `ditask_cells_128`, `ditask_shared`,
`ditask_task`, `ditask_headroom`, `no_transform`, and on PVT `ditask_pvt`, `frozen_pvt`, `full_pvt`.

What is smaller than in the paper, and why:

* Tasks: semseg, sal, normals, depth. At 48 pixels people are a few pixels wide: human_parts stays background for every
  method.
* MTLoRA's ranks are scaled to the width, 16 channels in place of 96: 16, 32, 64 become 3, 5, 11, and its tasks' 4
  becomes 1. LoRA's 4 and 8 are the paper's. The scale of both is 4, as their code sets it.
* The start saw 4,800 images (`python -m ditask_jax.pretrain`). PVT's is made by
  python -m ditask_jax.pretrain --backbone=pvt_nano --out=runs/pvt_nano.safetensors
"""

from ditask_jax.config import recipe
from ditask_jax.errors import check_known

scenes = recipe(__file__, "scenes.py")

PVT = {"backbone.name": "pvt_nano", "backbone.weights": "runs/pvt_nano.safetensors"}
LORA = {"method.name": "lora", "method.scale": 4.0}
MTLORA = {"method.name": "mtlora", "method.shared_scale": 4.0, "method.task_scale": 4.0, "method.task_rank": 1}

# What each variant changes in DiTASK's configuration.
VARIANTS = {
    "single": {"method.name": "full", "tasks": "semseg"},
    "full": {"method.name": "full"},
    "frozen": {"method.name": "frozen"},
    "lora_r4": LORA | {"method.rank": 4},
    "lora_r8": LORA | {"method.rank": 8},
    "mtlora_r16": MTLORA | {"method.shared_rank": 3},
    "mtlora_r32": MTLORA | {"method.shared_rank": 5},
    "mtlora_r64": MTLORA | {"method.shared_rank": 11},
    "ditask_single": {"tasks": "semseg"},
    "ditask": {},
    "ditask_index": {"method.domain": "index"},
    "ditask_cells_16": {"method.shared_cells": 16, "method.task_cells": 16},
    "ditask_cells_32": {"method.shared_cells": 32, "method.task_cells": 32},
    "ditask_cells_128": {"method.shared_cells": 128, "method.task_cells": 128},
    "ditask_shared": {"method.task_layers": ()},
    "ditask_task": {"method.shared_layers": ()},
    "ditask_headroom": {"method.headroom": 1.25},
    "no_transform": {"method.shared_layers": (), "method.task_layers": ()},
    "ditask_pvt": PVT,
    "frozen_pvt": PVT | {"method.name": "frozen"},
    "full_pvt": PVT | {"method.name": "full"},
}


def get_config(variant: str = "ditask"):
    """Returns the configuration of one row."""
    check_known("config: table6 variant", variant, VARIANTS)
    config = scenes.get_config()
    config.recipe = "published"
    config.tasks = "semseg+sal+normals+depth"
    config.image_size = 48
    config.total_steps = 200
    config.data.train_examples = 3200
    config.data.eval_examples = 400
    config.log_every_steps = 20
    config.checkpoint_every_steps = 200
    config.optimizer.warmup_steps = 20
    config.mesh.data = 1
    config.update_from_flattened_dict(VARIANTS[variant])
    # One rate for every row: the better of two for each method (configs/sweeps/table6_rates.py).
    config.optimizer.learning_rate = 0.16
    return config
