"""A configuration spelled out: plan, parameters, schedule."""

import json

from ml_collections import ConfigDict

from ditask_jax.config import to_json
from ditask_jax.training.build import describe_plan, known_examples, training_length
from ditask_jax.training.schedules import describe_schedule


def _schedule(config: ConfigDict) -> dict | None:
    examples = known_examples(config)
    if examples is None:
        return None
    per_epoch, total = training_length(config, examples)
    return describe_schedule(config.optimizer, per_epoch, total, config.batch_size)


def describe(config: ConfigDict) -> dict:
    """The plan, the counts by group, the effective schedule and the configuration as plain data.

    `upstream` holds the first two counts as the originals make them: they include thetas that never get a gradient.
    """
    return {
        **describe_plan(config).to_json(),
        "schedule": _schedule(config),
        "config": json.loads(to_json(config)),
    }


def describe_text(config: ConfigDict) -> str:
    """The same for a person."""
    lines = ["configuration", to_json(config), "adapter plan", str(describe_plan(config)), ""]
    schedule = _schedule(config)
    if schedule is None:
        lines.append("schedule: known once the files of the data set are there")
    else:
        lines.append("schedule (effective numbers)")
        lines += [f"  {name}: {value}" for name, value in schedule.items()]
    return "\n".join(lines)
