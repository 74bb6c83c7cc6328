"""A configuration spelled out: plan, parameters, schedule, costs, and how it differs from another one."""

import json
from typing import Any

import jax
from ml_collections import ConfigDict

from ditask_jax.adapters.options import plain
from ditask_jax.adapters.plan import Plan
from ditask_jax.config import config_diff, to_json
from ditask_jax.training.build import describe_plan, known_examples, training_length
from ditask_jax.training.costing import compiled_costs, gradient_storage
from ditask_jax.training.schedules import describe_schedule

# Differences between two plans that a reader asks for first.
_COUNTS = ("trainable_backbone", "trainable_total", "total")


def _schedule(config: ConfigDict) -> dict | None:
    examples = known_examples(config)
    if examples is None:
        return None
    per_epoch, total = training_length(config, examples)
    # A batch is spread over the devices: their number changes neither steps nor rates.
    devices = config.mesh.data or jax.device_count()
    share = config.batch_size // devices if config.batch_size % devices == 0 else None
    return {
        **describe_schedule(config.optimizer, per_epoch, total, config.batch_size),
        "devices": devices,
        "images_per_device": share,
    }


def by_role(plan: Plan) -> dict[str, dict[str, int]]:
    """Adapter parameters by the role of their layer: how many layers, and the numbers of shared and task streams."""
    found: dict[str, dict[str, int]] = {}
    for layer in plan.layers:
        entry = found.setdefault(layer.info.role, {"layers": 0, "shared": 0, "task": 0})
        shared = layer.trainable_shared
        entry["layers"] += 1
        entry["shared"] += shared
        entry["task"] += layer.trainable - shared
    return found


def describe(config: ConfigDict, cost: bool = False) -> dict[str, Any]:
    """The plan, the counts by group and role, the effective schedule and the configuration as plain data.

    `upstream` holds the first two counts as the originals make them: they include parameters that never get a gradient
    (`upstream_extra`, with the reason), which are not created here. With `cost`, what compiled programs cost.
    """
    plan = describe_plan(config)
    storage = gradient_storage(plan, config)
    return {
        **plan.to_json(),
        "roles": by_role(plan),
        "gradient_storage": storage,
        "schedule": _schedule(config),
        **({"cost": compiled_costs(config)} if cost else {}),
        "config": json.loads(to_json(config)),
    }


def describe_text(config: ConfigDict, cost: bool = False) -> str:
    """The same for a person."""
    plan = describe_plan(config)
    lines = ["configuration", to_json(config), "adapter plan", str(plan), ""]
    if plan.layers:
        lines.append("adapter parameters by role")
        for role, entry in by_role(plan).items():
            lines.append(f"  {role}: {entry['layers']} layers, shared {entry['shared']:,}, task {entry['task']:,}")
        storage = gradient_storage(plan, config)
        lines.append("numbers kept for the backward pass, by the formulas of the paper's supplement")
        cells, rank = plain(config.method.shared_cells), plain(config.method.shared_rank)
        lines.append(f"  DiTASK, N_P + p + c1 c2, N_P = {cells}: {storage['ditask']:,}")
        lines += [f"  LoRA, r c2 (c2 + c1) + c1 c2, r = {rank}: {storage['lora']:,}", ""]
    schedule = _schedule(config)
    if schedule is None:
        lines.append("schedule: known once the files of the data set are there")
    else:
        lines.append("schedule (effective numbers)")
        lines += [f"  {name}: {value}" for name, value in schedule.items()]
    if cost:
        lines += ["", *_cost_rows(compiled_costs(config))]
    return "\n".join(lines)


def _cost_rows(costs: dict[str, Any]) -> list[str]:
    devices = f"{costs['devices']} device{'s; a step is the share of one' if costs['devices'] > 1 else ''}"
    rows = [f"cost of compiled programs ({costs['platform']}, {devices})"]
    titles = {"step": "training step", "forward": "forward pass, merged", "merging": "merging, once per set of weights"}
    shown = lambda value: "not told" if value is None else f"{value:,.0f}"
    for name, title in titles.items():
        if name not in costs:
            continue
        entry = costs[name]
        images = f" of {entry['images']} images" if "images" in entry else ""
        rows.append(f"  {title}{images}")
        for key, words in (("flops", "floating-point operations"), ("bytes_accessed", "bytes read and written")):
            each = f" ({shown(entry[f'{key}_per_image'])} per image)" if images else ""
            rows.append(f"    {words}: {shown(entry[key])}{each}")
        sizes = ", ".join(f"{kind} {shown(size)}" for kind, size in entry["memory"].items())
        rows.append(f"    bytes of memory: {sizes}")
    return rows + [f"  {note}" for note in costs["notes"]]


def describe_difference(config: ConfigDict, other: ConfigDict) -> dict[str, Any]:
    """How another configuration differs from this one: fields, counts by group, effective schedule.

    Returns:
      `config`: one line per field; `counts`, `groups`, `schedule`: name to [here, there], where they differ.
    """
    plans = [describe_plan(config), describe_plan(other)]
    schedules = [_schedule(config) or {}, _schedule(other) or {}]
    counts = [{name: getattr(plan, name) for name in _COUNTS} for plan in plans]
    upstream = [{f"upstream {name}": count for name, count in plan.upstream.items()} for plan in plans]
    return {
        "config": config_diff(config, other),
        "counts": _pairs(counts[0] | upstream[0], counts[1] | upstream[1]),
        "groups": _pairs(*(dict(plan.groups) for plan in plans)),
        "schedule": _pairs(*schedules),
    }


def _pairs(left: dict, right: dict) -> dict[str, list]:
    names = dict.fromkeys((*left, *right))
    return {name: [left.get(name), right.get(name)] for name in names if left.get(name) != right.get(name)}


def difference_text(found: dict[str, Any]) -> str:
    """The same for a person."""
    if not any(found.values()):
        return "no difference"
    shown = lambda value: f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
    lines = []
    for section, entries in found.items():
        if not entries:
            continue
        lines.append(section)
        if isinstance(entries, list):
            lines += [f"  {line}" for line in entries]
        else:
            lines += [f"  {name}: {shown(here)} -> {shown(there)}" for name, (here, there) in entries.items()]
    return "\n".join(lines)
