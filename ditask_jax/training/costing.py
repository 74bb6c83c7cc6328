"""What a configuration costs: work and memory as the compiler counts them, and the supplement's formulas."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ditask_jax.adapters.options import pick, plain
from ditask_jax.adapters.plan import Plan
from ditask_jax.adapters.wrap import wrap
from ditask_jax.backbones.geometry import as_size
from ditask_jax.nn.state import split_state
from ditask_jax.training.build import DTYPES, build_method, build_model, build_tasks
from ditask_jax.training.mesh import make_mesh
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

    Weights are random here: costs do not depend on them. Compiling takes as long as the first step of a training.
    A loop counts once, however often it runs: with `optimizer.surgery` that is one backward pass of several.

    Returns:
      Per program ("step", "forward"): `flops`, `bytes_accessed` (None where the compiler does not tell), `images`, both
      per image, and the memory in bytes of arguments, results and temporaries on one device; `platform`, `devices`.
    """
    model, tasks, dtype = build_model(config), build_tasks(config), DTYPES[config.compute_dtype]
    wrap(model, build_method(config), examples=config.batch_size, seed=config.seed)
    mesh, parts = make_mesh(config.mesh.data), split_state(model)
    optimizer = make_optimizer(config.optimizer, lambda step: 1e-3, parts.trainable)
    step = make_train_step(parts, tasks, optimizer, mesh, config.seed, dtype, config.optimizer.surgery)
    batch = _batch(config, tasks)
    shaped = lambda tree: jax.tree.map(lambda x: jax.ShapeDtypeStruct(jnp.shape(x), jnp.result_type(x)), tree)
    trainable, frozen, stats = map(shaped, (parts.trainable, parts.frozen, parts.stats))
    opt_state = jax.eval_shape(optimizer.init, trainable)
    number = jax.ShapeDtypeStruct((), np.int32)
    training = step.lower(trainable, opt_state, stats, frozen, batch, number).compile()
    forward = jax.jit(make_predict(parts, dtype)).lower(trainable, frozen, stats, batch["image"]).compile()
    devices = mesh.devices.size
    return {
        "platform": jax.devices()[0].platform,
        "devices": devices,
        "step": _costs(training, config.batch_size // devices),
        "forward": _costs(forward, config.batch_size),
    }


def _batch(config: ConfigDict, tasks) -> dict:
    size, count = as_size(config.image_size), config.batch_size
    specs = [task.label_spec for task in tasks]
    labels = {spec.name: jax.ShapeDtypeStruct((count, *spec.shape(size)), spec.dtype) for spec in specs}
    image = jax.ShapeDtypeStruct((count, *size, 3), np.uint8)
    return {"image": image, "labels": labels, "valid": jax.ShapeDtypeStruct((count,), np.bool_)}


def _costs(compiled, images: int) -> dict[str, Any]:
    analysis = compiled.cost_analysis() or {}
    analysis = analysis[0] if isinstance(analysis, list) else analysis
    flops, traffic = analysis.get("flops"), analysis.get("bytes accessed")
    memory = compiled.memory_analysis()
    kinds = {
        "arguments": "argument_size_in_bytes",
        "results": "output_size_in_bytes",
        "temporary": "temp_size_in_bytes",
    }
    return {
        "images": images,
        "flops": flops,
        "flops_per_image": None if flops is None else flops / images,
        "bytes_accessed": traffic,
        "bytes_accessed_per_image": None if traffic is None else traffic / images,
        "memory": {name: getattr(memory, f"{kind}_size_in_bytes", None) for name, kind in kinds.items()},
    }
