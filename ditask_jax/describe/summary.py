"""What a configuration means: the plan, parameters by group, schedule, and the cost as the compiler counts it."""

import dataclasses
import json
import textwrap
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ditask_jax.adapters.merging import merge
from ditask_jax.adapters.method_registry import PerStage, method_class, pick
from ditask_jax.adapters.plan import Plan
from ditask_jax.adapters.wrap import declared_by, wrap
from ditask_jax.backbones import backbone_entry
from ditask_jax.backbones.geometry import as_size
from ditask_jax.config import config_diff, to_json
from ditask_jax.config_fields import CHOSEN, choices, chosen_options
from ditask_jax.config_sections import SECTIONS
from ditask_jax.config_tasks import SECTION, said, task_options
from ditask_jax.heads import HEADS
from ditask_jax.hub.addresses import HubAddress, snapshot_of
from ditask_jax.nn.state import split_state
from ditask_jax.options import Option, options_of, plain
from ditask_jax.training.experiment import (
    DTYPES,
    build_method,
    build_model,
    build_tasks,
    describe_plan,
    known_examples,
    training_length,
    weights_path,
)
from ditask_jax.training.optim.group_rates import groups_of, recipe_words, settled
from ditask_jax.training.optim.method_hooks import method_hooks
from ditask_jax.training.optim.optimizer import make_clip, make_optimizer
from ditask_jax.training.optim.schedules import REFERENCE_BATCH, describe_schedule
from ditask_jax.training.profiling import program_memory, program_work
from ditask_jax.training.sharding import check_batch_size, make_mesh
from ditask_jax.training.step import make_predict, make_train_step, passage_of

# A configuration spelled out: plan, parameters, schedule, costs, and how it differs from another one.


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


def optimizer_groups(config: ConfigDict, plan: Plan) -> list[dict[str, Any]]:
    """The groups of what trains: size, effective peak rate and weight decay; of a method that needs numbers, none.

    `decayed` are the numbers that weight decay applies to; a step takes off the rate times `weight_decay`.
    """
    try:
        declared, shapes = declared_by(build_model(config, abstract=True), build_method(config), plan)
    except (jax.errors.JAXTypeError, TypeError):  # a method of a user's own that computes with weights in NumPy
        return []
    optimizer = settled(config).optimizer
    peak = optimizer.learning_rate * config.batch_size / REFERENCE_BATCH
    rows = [dataclasses.asdict(group) for group in groups_of(declared, shapes, optimizer)]
    return [row | {"peak_learning_rate": peak * row["rate"]} for row in rows]


def _group_lines(config: ConfigDict, plan: Plan) -> list[str]:
    lines = ["learning rates by group of parameters", *(f"  {line}" for line in recipe_words(config))]
    rows = optimizer_groups(config, plan)
    width = max([len(row["name"]) for row in rows], default=0)
    for row in rows:
        decay = f"{row['weight_decay']:g} on {row['decayed']:,}" if row["decayed"] else "none"
        warmup = "" if row["warmup_steps"] is None else f", warm-up of {row['warmup_steps']} steps"
        lines.append(
            f"  {row['name']:<{width}}  {row['size']:,} numbers, peak rate {row['peak_learning_rate']:.3g} (factor "
            f"{row['rate']:g}), weight decay {decay}{warmup}"
        )
    return lines if rows else [*lines, "  groups: this method attaches with numbers alone; the log of a run has them"]


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


def task_facts(config: ConfigDict) -> dict[str, dict[str, Any]]:
    """By task: what its label is where the configuration declares it, outputs, primary score, factor of its loss."""
    known = said(config.get("task", None))
    return {
        task.name: {
            "kind": known.get(task.name, {}).get("kind"),
            "outputs": task.num_outputs,
            "metric": task.primary_metric,
            "loss_weight": task.loss_weight,
        }
        for task in build_tasks(config)
    }


def _task_rows(config: ConfigDict) -> list[str]:
    rows = ["tasks (task.NAME.loss_weight sets the factor of a loss)"]
    for name, facts in task_facts(config).items():
        kind = f"{facts['kind']} of your own, " if facts["kind"] else ""
        outputs = f"{facts['outputs']} output{'s' * (facts['outputs'] > 1)}"
        rows.append(f"  {name}: {kind}{outputs}, scored by {facts['metric']}, loss weight {facts['loss_weight']:g}")
    return rows


def describe(config: ConfigDict, cost: bool = False) -> dict[str, Any]:
    """The plan, the tasks, the counts by group and role, the effective schedule and the configuration as plain data.

    `upstream` holds the first two counts as the reference implementations make them: they include parameters that never
    get a gradient (`upstream_extra`, with the reason), which are not created here. With `cost`, what compiled programs
    cost.
    """
    plan = describe_plan(config)
    storage = gradient_storage(plan, config)
    return {
        **plan.to_json(),
        "tasks": task_facts(config),
        "roles": by_role(plan),
        "gradient_storage": storage,
        "recipe": recipe_words(config),
        "optimizer_groups": optimizer_groups(config, plan),
        "schedule": _schedule(config),
        **({"cost": compiled_costs(config)} if cost else {}),
        "config": json.loads(to_json(settled(config))),
    }


def describe_text(config: ConfigDict, cost: bool = False) -> str:
    """The same for a person."""
    plan = describe_plan(config)
    lines = ["configuration", to_json(settled(config)), *_task_rows(config), "", "adapter plan", str(plan), ""]
    if plan.layers:
        lines.append("adapter parameters by role")
        for role, entry in by_role(plan).items():
            lines.append(f"  {role}: {entry['layers']} layers, shared {entry['shared']:,}, task {entry['task']:,}")
        storage = gradient_storage(plan, config)
        lines.append("numbers kept for the backward pass, by the formulas of the paper's supplement")
        cells, rank = _cells_and_rank(config)
        lines.append(f"  DiTASK, N_P + p + c1 c2, N_P = {cells}: {storage['ditask']:,}")
        lines += [f"  LoRA, r c2 (c2 + c1) + c1 c2, r = {rank}: {storage['lora']:,}", ""]
    lines += [*_group_lines(config, plan), ""]
    lines += [weights_text(config), ""]
    schedule = _schedule(config)
    if schedule is None:
        lines.append("schedule: known once the files of the data set are there")
    else:
        lines.append("schedule (effective numbers)")
        lines += [f"  {name}: {value}" for name, value in schedule.items()]
    if cost:
        lines += ["", *_cost_rows(compiled_costs(config))]
    return "\n".join(lines)


def weights_text(config: ConfigDict) -> str:
    """Where the backbone's weights come from, under which licence, and whether they are here; asks nobody."""
    place, entry = weights_path(config), backbone_entry(config.backbone.name)
    if not isinstance(place, HubAddress):
        return f"weights: {'random' if place is None else config.backbone.weights}"
    known = f", {entry.licence}" if place.name in entry.weight_files else ""
    here = "in the cache" if snapshot_of(place) else "not in the cache: training fetches them"
    return f"weights: {place}{known}, {here}"


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
    config, other = settled(config), settled(other)
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


# What a configuration costs: work and memory as the compiler counts them, and the supplement's formulas.


def gradient_storage(plan: Plan, config: ConfigDict) -> dict[str, Any]:
    """Numbers that a backward pass keeps per adapted layer, by the formulas of the paper's supplement.

    DiTASK: `N_P + p + c1 c2`; LoRA: `r c2 (c2 + c1) + c1 c2`, for a layer of c1 inputs, c2 outputs and p singular
    values, with the shared cells N_P and the shared rank r of the configuration, or their defaults. They count what the
    formulas say, not what this implementation keeps; see the compiled program's memory for that.

    Returns:
      `layers`: per path both numbers; `ditask`, `lora`: the sums.
    """
    cells, rank = _cells_and_rank(config)
    layers = {}
    for layer in plan.layers:
        (inputs, outputs), stage = layer.shape, layer.info.stage
        values = layer.info.parts * min(inputs, outputs // layer.info.parts)
        layers[layer.info.path] = {
            "ditask": pick(cells, stage) + values + inputs * outputs,
            "lora": pick(rank, stage) * outputs * (outputs + inputs) + inputs * outputs,
        }
    return {"layers": layers} | {way: sum(entry[way] for entry in layers.values()) for way in ("ditask", "lora")}


def _cells_and_rank(config: ConfigDict) -> tuple[PerStage, PerStage]:
    """Shared cells and rank of the configured method; of the one that it does not have, the default of its owner."""
    own = config.method
    cells = own.get("shared_cells", method_class("ditask")().shared_cells)
    rank = own.get("shared_rank", own.get("rank", method_class("lora")().rank))
    return plain(cells), plain(rank)


def compiled_costs(config: ConfigDict) -> dict[str, Any]:
    """Work, traffic and memory of one training step and of one forward pass, of programs compiled for this machine.

    The forward pass is that of inference: adapters are merged into kernels already. Merging itself is a program of its
    own, needed once per set of weights. Weights are random here: costs do not depend on them. Compiling takes as long
    as the first step of a training.

    Returns:
      Per program ("step", "forward" and, with adapters, "merging"): `flops`, `bytes_accessed` (None where the compiler
      does not tell), of the first two also `images` and both per image, and the memory in bytes of arguments, results
      and temporaries on one device, and of all `together`; `platform`, `devices`; `notes`, what the numbers leave out.
    """
    config = settled(config)
    model, tasks, dtype = build_model(config), build_tasks(config), DTYPES[config.compute_dtype]
    plan = wrap(model, build_method(config), examples=config.batch_size, seed=config.seed)
    mesh, parts = make_mesh(config.mesh.data, config.mesh.fsdp), split_state(model)
    check_batch_size("config: batch_size", config.batch_size, mesh, config.optimizer.accumulate)
    schedule = lambda step: 1e-3
    optimizer = make_optimizer(config.optimizer, schedule, parts.declared, lambda steps: schedule)
    hooks = method_hooks(parts, training_length(config, known_examples(config) or 1)[0], make_clip(config.optimizer))
    options = config.seed, dtype, config.optimizer.surgery, passage_of(config), hooks
    step = make_train_step(parts, tasks, optimizer, mesh, *options)
    batch = _batch(config, tasks)
    shaped = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)
    trainable, frozen, stats = map(shaped, (parts.trainable, parts.frozen, parts.stats))
    opt_state = jax.eval_shape(optimizer.init, trainable)
    number = jax.ShapeDtypeStruct((), np.int32)
    training = step.lower(trainable, opt_state, stats, frozen, batch, number).compile()
    structures = []

    def fold(trainable, frozen, stats):
        folded = split_state(merge(parts.merge(trainable, frozen, stats)))
        structures.append(folded)
        return folded.trainable, folded.frozen, folded.stats

    merged = jax.eval_shape(fold, trainable, frozen, stats)
    forward = jax.jit(make_predict(structures[0], dtype)).lower(*merged, batch["image"]).compile()
    devices = mesh.devices.size
    found = {
        "platform": jax.devices()[0].platform,
        "devices": devices,
        "step": _costs(training, config.batch_size // devices),
        "forward": _costs(forward, config.batch_size),
    }
    if plan.layers:
        found["merging"] = _costs(jax.jit(fold).lower(trainable, frozen, stats).compile())
    return found | {"notes": _notes(config)}


def _notes(config: ConfigDict) -> list[str]:
    loops = {
        "optimizer.surgery": config.optimizer.surgery != "none",
        "optimizer.accumulate": config.optimizer.accumulate > 1,
    }
    return [
        f"the compiler counts a loop once, however often it runs: with {name} a step does more than its count"
        for name, used in loops.items()
        if used
    ]


def _batch(config: ConfigDict, tasks) -> dict:
    size, count = as_size(config.image_size), config.batch_size
    specs = [task.label_spec for task in tasks]
    labels = {spec.name: jax.ShapeDtypeStruct((count, *spec.shape(size)), spec.dtype) for spec in specs}
    image = jax.ShapeDtypeStruct((count, *size, 3), np.uint8)
    return {"image": image, "labels": labels, "valid": jax.ShapeDtypeStruct((count,), np.bool_)}


def _costs(compiled, images: int | None = None) -> dict[str, Any]:
    work = program_work(compiled)
    found = work | {"memory": program_memory(compiled)}
    if images is None:
        return found
    share = lambda total: None if total is None else total / images
    return {"images": images} | found | {f"{name}_per_image": share(total) for name, total in work.items()}


# Every field of a configuration: its value, what it is, and what values are good.


def options_text(config: ConfigDict | None = None) -> str:
    """Every field with its default, its meaning and its good values; what of those a method or head has, by name.

    Args:
      config: a configuration, whose values are shown as well, and of whose method and heads alone the options are
        listed; None: those of all methods and heads.
    """
    blocks = []
    for section, cls in SECTIONS.items():
        named = None
        if config is not None and section in CHOSEN:
            named = {config[section].name, *(plain(config[section].get("per_task")) or {}).values()}
        values = None if config is None else config[section] if section else config
        blocks.append((section or "top level", cls.__doc__, section, options_of(cls), values))
        for chosen, options in choices(section).items() if section in CHOSEN else ():
            if named is None or chosen in named:
                own = chosen_options(section, chosen)
                words = (HEADS[chosen] if section == "head" else options).__doc__ or ""
                blocks.append((f"{section}, with {section}.name={chosen}", words, section, own, values))
        if section == SECTION:
            blocks[-1:] = _task_blocks(cls, values)
    lines = []
    for title, words, section, options, values in blocks:
        lines += ["", f"{title}: {' '.join(words.split(chr(10) * 2)[0].split())}"]
        for option in options.values():
            lines += _option_lines(f"{section}.{option.name}".lstrip("."), option, values)
        if not options:
            lines.append("  (no options)")
    return "\n".join(lines[1:])


def _task_blocks(cls: type, values: Any) -> list[tuple]:
    """What may be said of any task; of a configuration, what it says."""
    if values is None:
        return [(f"{SECTION}.NAME", cls.__doc__, f"{SECTION}.NAME", task_options(), None)]
    found = []
    for name, fields in said(values).items():
        options = {key: task_options()[key] for key in fields}
        found.append((f"{SECTION}.{name}", cls.__doc__, f"{SECTION}.{name}", options, fields))
    return found


def _option_lines(name: str, option: Option, values: Any) -> list[str]:
    default = option.text(option.default)
    shown = default if values is None else option.text(plain(values[option.name]))
    head = f"  {name} = {shown}" + (f" (default {default})" if shown != default else "")
    expected = f"Expected: {option.expected}." if option.expected else ""
    return [
        head,
        *textwrap.wrap(f"{option.help} {expected}".strip(), 110, initial_indent=" " * 6, subsequent_indent=" " * 6),
    ]
