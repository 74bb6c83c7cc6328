"""The grid of the paper's supplement: cells, dropout, learning rate, warm-up and weight decay.

python -m ditask_jax.sweep configs/sweeps/paper_grid.py --workdir=runs/grid --config.data.root=prepared
python -m ditask_jax.sweep configs/sweeps/paper_grid.py:nyud --workdir=runs/grid_nyud --config.data.root=prepared

432 points of PASCAL-Context (288 of NYUDv2, the variant `nyud`), each a whole training: meant for a cluster (`--slurm`)
or for a search that tries some of them (`--optuna=60`). The supplement gives the values, and says that they were chosen
on the validation set; which were chosen is not published. Cells are those of the shared transforms and of the tasks'
alike, as the supplement has one number for both. Lengths are the published ones, 300 and 100 epochs.
"""

from ditask_jax.errors import check_known
from ditask_jax.sweeps import Sweep, grid

CONFIGS = {"pascal": "configs/pascal_swin_tiny.py", "nyud": "configs/nyud_swin_tiny.py"}


def get_sweep(variant: str = "pascal") -> Sweep:
    """Returns the grid of one data set."""
    check_known("sweep: paper_grid variant", variant, CONFIGS)
    pascal = variant == "pascal"
    axes = {
        ("method.shared_cells", "method.task_cells"): [16, 32, 64, 128],
        "method.dropout": [0.0, 0.05, 0.5],
        "optimizer.learning_rate": [5e-3, 5e-4, 5e-5] if pascal else [5e-3, 5e-4],
        "optimizer.warmup_epochs": [20.0, 30.0, 40.0] if pascal else [10.0, 20.0, 30.0],
        "optimizer.weight_decay": [0.05, 5e-3, 5e-4, 5e-5],
    }
    return Sweep(grid(CONFIGS[variant], axes))
