"""What a configuration costs: work and memory as the compiler counts them, and the supplement's formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ditask_jax.adapters.merging import merge
from ditask_jax.adapters.options import pick, plain
from ditask_jax.adapters.plan import Plan
from ditask_jax.adapters.wrap import wrap
from ditask_jax.backbones.geometry import as_size
from ditask_jax.nn.state import split_state
from ditask_jax.training.build import DTYPES, build_method, build_model, build_tasks
from ditask_jax.training.compiled import program_memory, program_work
from ditask_jax.training.forward import passage_of
from ditask_jax.training.mesh import check_batch_size, make_mesh
from ditask_jax.training.optimizer import make_optimizer
from ditask_jax.training.step import make_predict, make_train_step


def gradient_storage(plan: Plan, config: ConfigDict) -> dict[str, Any]:
    """Numbers that a backward pass keeps per adapted layer, by the formulas of the paper's supplement.

    DiTASK: `N_P + p + c1 c2`; LoRA: `r c2 (c2 + c1) + c1 c2`, for a layer of c1 inputs, c2 outputs and p singular
    values, with the shared cells N_P and the shared rank r of the configuration. They count what the formulas say, not
    what this implementation keeps; see the compiled program's memory for that.

    Returns:
      `layers`: per path both numbers; `ditask`, `lora`: the sums.
    """
    cells, rank = plain(config.method.shared_cells), plain(config.method.shared_rank)
    layers = {}
    for layer in plan.layers:
        (inputs, outputs), stage = layer.shape, layer.info.stage
        values = layer.info.parts * min(inputs, outputs // layer.info.parts)
        layers[layer.info.path] = {
            "ditask": pick(cells, stage) + values + inputs * outputs,
            "lora": pick(rank, stage) * outputs * (outputs + inputs) + inputs * outputs,
        }
    return {"layers": layers} | {way: sum(entry[way] for entry in layers.values()) for way in ("ditask", "lora")}


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
    model, tasks, dtype = build_model(config), build_tasks(config), DTYPES[config.compute_dtype]
    plan = wrap(model, build_method(config), examples=config.batch_size, seed=config.seed)
    mesh, parts = make_mesh(config.mesh.data, config.mesh.fsdp), split_state(model)
    check_batch_size("config: batch_size", config.batch_size, mesh, config.optimizer.accumulate)
    optimizer = make_optimizer(config.optimizer, lambda step: 1e-3, parts.trainable)
    options = config.seed, dtype, config.optimizer.surgery, passage_of(config)
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
