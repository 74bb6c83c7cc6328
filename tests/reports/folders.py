"""Run folders with made-up scores: what a training leaves behind, without the training."""

import json
import pathlib

from ditask_jax.config import load_config, to_json
from ditask_jax.tasks import load_references
from ditask_jax.training.experiment import build_tasks
from ditask_jax.training.optim.group_rates import settled


def write_run(
    folder: pathlib.Path,
    gain: float | dict[str, float] = 0.0,
    overrides: tuple[str, ...] = (),
    source: str = "configs/scenes.py",
    *,
    backbone: int = 1000,
    total: int = 1500,
    step: int | None = None,
    examples: int = 500,
    seconds: tuple[float, ...] = (30.0, 0.5, 0.7, 0.6),
    memory: int = 2_000_000_000,
    scores: dict[str, float] | None = None,
) -> pathlib.Path:
    """Writes a run whose scores gain so many per cent on the data set's references.

    Args:
      folder: of the run.
      gain: of every task, or by task.
      overrides: of the configuration.
      source: the configuration.
      backbone, total: trainable parameters.
      step: when it was scored; None: at its end.
      examples: how many it was scored on.
      seconds: of every step; the first one compiles.
      memory: largest peak.
      scores: by task, in place of gains.
    """
    config = load_config(source, overrides)
    references = load_references(config.data.name)
    found = {}
    for task in build_tasks(config):
        percent = gain[task.name] if isinstance(gain, dict) else gain
        sign = 1 if task.higher_is_better else -1
        value = scores[task.name] if scores else references[task.name] * (1 + sign * percent / 100)
        found[task.name] = {task.primary_metric: value, "another": 0.25}
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(settled(config)))
    evaluation = {
        "step": config.total_steps if step is None else step,
        "protocol": f"network resolution {config.image_size}, all examples",
        "method": config.method.name,
        "trainable_backbone": backbone,
        "trainable_total": total,
        "examples": examples,
        "scores": found,
        "delta_m": None,
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    rows = [
        {
            "step": k + 1,
            "time/process_memory": memory - 1000 + k,
            "time/read": 0.1 * k,
            "time/step": t,
            "train/loss": 1 / t,
        }
        for k, t in enumerate(seconds)
    ]
    rows[-1]["time/process_memory"] = memory
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder
