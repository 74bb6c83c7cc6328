"""Our programs for the benchmark: the trainer's own step, merged inference, and pieces of them, compiled once each."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from ml_collections import ConfigDict

from ditask_jax.adapters.merging import merge
from ditask_jax.adapters.plan import Plan
from ditask_jax.adapters.wrap import wrap
from ditask_jax.backbones.geometry import as_size
from ditask_jax.factors import default_cache_dir
from ditask_jax.nn.context import Context
from ditask_jax.nn.linear import linears, prepare_adapters
from ditask_jax.nn.state import FrozenParam, ModelState, split_state
from ditask_jax.training.experiment import DTYPES, build_method, build_model, build_tasks
from ditask_jax.training.optim.optimizer import make_optimizer
from ditask_jax.training.profiling import program_memory, program_work
from ditask_jax.training.sharding import make_mesh
from ditask_jax.training.step import make_forward, make_predict, make_train_step, passage_of


def random_batch(config: ConfigDict, tasks, seed: int = 0) -> dict[str, Any]:
    """A batch with the shapes and types of the loader's, every pixel labelled."""
    rng, size, count = np.random.default_rng(seed), as_size(config.image_size), config.batch_size
    labels = {}
    for spec in (task.label_spec for task in tasks):
        shape = (count, *spec.shape(size))
        if spec.dtype == "uint8":
            labels[spec.name] = rng.integers(0, spec.num_values or 2, shape).astype(np.uint8)
        else:
            labels[spec.name] = rng.standard_normal(shape).astype(spec.dtype)
    image = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return {"image": image, "labels": labels, "valid": np.ones(count, bool)}


@dataclasses.dataclass
class Program:
    """A compiled program and what the compiler says of it.

    Attributes:
      compiled: takes the arguments it was lowered for.
      compile_seconds: how long lowering and compiling took.
      flops, bytes_accessed: by its cost analysis (None where it does not tell).
      temporary: bytes of temporaries; `arguments`, `results`: of the other two.
    """

    compiled: Any
    compile_seconds: float
    flops: float | None
    bytes_accessed: float | None
    temporary: int
    arguments: int
    results: int

    def facts(self) -> dict[str, Any]:
        """All but the program."""
        return {field.name: getattr(self, field.name) for field in dataclasses.fields(self) if field.name != "compiled"}


def compiled(function: Callable, *arguments, **options) -> Program:
    """Compiles a function for these arguments (arrays or shapes)."""
    begin = time.perf_counter()
    jitted = function if hasattr(function, "lower") else jax.jit(function, **options)
    program = jitted.lower(*arguments).compile()
    seconds = time.perf_counter() - begin
    memory = program_memory(program)
    sizes = {name: memory[name] or 0 for name in ("temporary", "arguments", "results")}
    return Program(program, seconds, **program_work(program), **sizes)


class Ours:
    """One configuration, wrapped and ready to be timed.

    Args:
      config: of the run.
      cache: whether decompositions come from the cache on disk.
      unfrozen: whether the kernels under the adapters train too.

    Attributes:
      model, tasks, plan, parts: as training has them.
      batch: on the device.
      wrap_seconds: of attaching the method, decompositions included.
    """

    def __init__(self, config: ConfigDict, cache: bool = True, unfrozen: bool = False):
        self.config, self.tasks, self.dtype = config, build_tasks(config), DTYPES[config.compute_dtype]
        self.model = build_model(config)
        begin = time.perf_counter()
        folder = default_cache_dir() if cache else None
        self.plan: Plan = wrap(self.model, build_method(config), examples=config.batch_size, cache_dir=folder)
        self.wrap_seconds = time.perf_counter() - begin
        for layer in linears(self.model.backbone) if unfrozen else ():
            for name in ("kernel", "bias"):
                if isinstance(getattr(layer, name, None), FrozenParam):
                    setattr(layer, name, nnx.Param(getattr(layer, name)[...]))
        self.parts: ModelState = split_state(self.model)
        self.batch = jax.device_put(random_batch(config, self.tasks))
        self.optimizer = make_optimizer(config.optimizer, lambda step: 1e-4, self.parts.declared)
        self.key = jax.random.key(config.seed)

    @property
    def trainable_bytes(self) -> int:
        """Of what trains."""
        return sum(leaf.nbytes for leaf in jax.tree.leaves(self.parts.trainable))

    @property
    def values(self) -> tuple:
        """Trainable and frozen values and statistics."""
        return self.parts.trainable, self.parts.frozen, self.parts.stats

    def train_step(self) -> tuple[Callable[..., Any], Program]:
        """The trainer's jitted step with its state donated, as a function that returns the loss.

        It takes a batch on the device, by default always the same one.
        """
        config = self.config
        options = config.seed, self.dtype, config.optimizer.surgery, passage_of(config)
        step = make_train_step(self.parts, self.tasks, self.optimizer, make_mesh(1, 1), *options)
        trainable, stats = jax.tree.map(jnp.array, (self.parts.trainable, self.parts.stats))
        state = [trainable, self.optimizer.init(trainable), stats]
        program = compiled(step, *state, self.parts.frozen, self.batch, np.int32(0))
        number = [0]

        def run(batch: dict[str, Any] | None = None) -> float:
            given = self.batch if batch is None else batch
            *state[:], metrics = program.compiled(*state, self.parts.frozen, given, np.int32(number[0]))
            number[0] += 1
            return float(metrics["loss"])

        return run, program

    def loss(self) -> Callable:
        """`loss(trainable, frozen, stats, batch, key)` in training mode, as the step takes its gradient."""
        forward = make_forward(self.parts, self.tasks, self.dtype, None, passage_of(self.config))
        return lambda *arguments: forward(*arguments)[0]

    def pieces(self) -> dict[str, tuple[Callable, tuple]]:
        """Parts of a step, each with its arguments: to be compiled and timed on their own.

        `forward` is the loss in training mode, `forward and backward` its gradient; `CPAB` the spectra of all layers
        and `CPAB, with gradient` the same with the gradient towards every theta (of other methods whatever they prepare
        for all layers at once); `optimiser` the update alone.
        """
        loss = self.loss()
        arguments = (*self.values, self.batch, self.key)
        updated = lambda gradients, state, values: self.optimizer.update(gradients, state, values)
        found = {
            "forward": (loss, arguments),
            "forward and backward": (jax.grad(loss), arguments),
            "optimiser": (updated, (self.parts.trainable, self.optimizer.init(self.parts.trainable), self.values[0])),
        }
        adapted = nnx.List([layer for layer in linears(self.model.backbone) if layer.adapter is not None])
        parts: ModelState = split_state(adapted)

        def prepare(trainable, frozen, stats):
            context = prepare_adapters(parts.merge(trainable, frozen, stats), Context(train=True, key=self.key))
            return [value for value in context.prepared.values() if value is not None]

        def weighted(trainable, frozen, stats):
            return sum(jnp.sum(value * value) for value in jax.tree.leaves(prepare(trainable, frozen, stats)))

        values = (parts.trainable, parts.frozen, parts.stats)
        if jax.tree.leaves(jax.eval_shape(prepare, *values)):
            found["CPAB"] = prepare, values
            found["CPAB, with gradient"] = jax.grad(weighted), values
        return found

    def inference(self, tasks: tuple[str, ...] | None = None) -> tuple[Callable[[], Any], Program]:
        """Merged inference as a function without arguments, of all tasks or of some."""
        folded = split_state(merge(self.model))
        predict = make_predict(folded, self.dtype)
        kept = lambda *arguments: {k: v for k, v in predict(*arguments).items() if tasks is None or k in tasks}
        arguments = folded.trainable, folded.frozen, folded.stats, self.batch["image"]
        program = compiled(kept, *arguments)
        return lambda: jax.block_until_ready(program.compiled(*arguments)), program


def runner(function: Callable, arguments: tuple) -> tuple[Callable[[], Any], Program]:
    """A compiled piece as a function without arguments."""
    program = compiled(function, *arguments)
    return lambda: jax.block_until_ready(program.compiled(*arguments)), program
