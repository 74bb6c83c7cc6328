"""Planning, freezing, decomposing and filling the adapter slots of a model."""

import itertools
import json
import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from ditask_jax.adapters.merging import checked_kernel
from ditask_jax.adapters.method_registry import Method, check_layers
from ditask_jax.adapters.plan import GROUPS, FanOut, LayerPlan, Plan, Site, parameter_group, sites
from ditask_jax.adapters.storage import Adapted, backbone_weights, method_options
from ditask_jax.errors import ConfigError, defined_in, did_you_mean
from ditask_jax.factors import Factors, factorize_each
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.linear import LayerAdapter, linears
from ditask_jax.nn.state import FrozenParam, declarations, flatten
from ditask_jax.options import names, option
from ditask_jax.weight_files import checksum

# Backbone weights that train beside the adapters: the reference implementations' rule, and parts of it for ablations.


# DiTASK's, LoRA's and MTLoRA's trainable set without adapters, by the groups of the plan.
PUBLISHED = ("patch_embed", "norms", "relative_position_bias_table", "reduction")


def is_unfrozen(path: str, groups: Sequence[str]) -> bool:
    """Whether a backbone parameter (its `/`-joined path) is in one of these groups.

    >>> is_unfrozen("backbone/stages/0/blocks/1/norm2/bias", PUBLISHED)
    True
    >>> is_unfrozen("backbone/stages/0/blocks/1/mlp/fc1/bias", PUBLISHED)
    False
    """
    return parameter_group(path) in groups


def unfrozen_option() -> tuple[str, ...] | None:
    """The field `unfrozen` of a method's options."""
    words = "Groups of backbone weights that train too; none: as `recipe` says (published, and in Python: all of them)."
    return option(None, words, names("groups of weights such as norms,reduction, or nothing", "group", PUBLISHED))


class UnfrozenMethod(Method):
    """A method that trains groups of backbone weights, its field `unfrozen`, beside its adapters.

    A method itself always says which: None becomes its published set when it is made.

    Attributes:
      published: groups that train as the method was published.
      unfrozen: groups that train.
    """

    published: ClassVar[tuple[str, ...]] = PUBLISHED
    unfrozen: tuple[str, ...] | None

    def __post_init__(self):
        if self.unfrozen is None:
            object.__setattr__(self, "unfrozen", self.published)

    def trains(self, path: str) -> bool:
        return is_unfrozen(path, self.unfrozen)


class StreamMethod(UnfrozenMethod):
    """A method with parameters for the shared stream and, in the last blocks of a stage, for every task's.

    Attributes:
      reads_shared: whether a task's layer looks at the shared stream too.
      shared_layers: roles of layers with shared parameters, in every block.
      task_layers: roles of layers with parameters per task.
      task_blocks: how many of a stage's last blocks the task streams run through.
    """

    reads_shared: ClassVar[bool] = False
    shared_layers: tuple[str, ...]
    task_layers: tuple[str, ...]
    task_blocks: int

    @property
    def fan(self) -> FanOut:
        """Where task streams split off."""
        return FanOut(self.task_layers, self.task_blocks, self.reads_shared)

    @property
    def layer_roles(self) -> tuple[str, ...]:
        return (*self.shared_layers, *self.task_layers)

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        super().check(tasks if self.task_layers else (), stages)
        check_layers("shared_layers", self.shared_layers)
        check_layers("task_layers", self.task_layers, "task")

    def owners(self, site: Site) -> tuple[str, ...]:
        """Streams with parameters of their own in a layer, the shared one first."""
        return self.fan.owners(site, site.info.role in self.shared_layers)

    def unread_shared(self, sites: Sequence[Site]) -> list[Site]:
        """Layers whose shared parameters no head reads: those behind the last split, where the shared stream ends."""
        ends = lambda site: self.fan.applies(site) and self.fan.ends_shared(site)
        return [site for site in sites if site.info.role in self.shared_layers and ends(site)]


# Attaching a method to a model: plan first, then freeze, factor and fill the adapter slots.


def _parameters(model: MultiTaskModel) -> dict[str, tuple[int, ...]]:
    return {name: value.shape for name, value in flatten(nnx.to_pure_dict(nnx.state(model, nnx.Param))).items()}


def make_plan(model: MultiTaskModel, method: Method, examples: int = 1) -> Plan:
    """What `wrap` would do, without doing it; works on an abstract model too.

    Args:
      model: a model without adapters.
      method: what to attach.
      examples: images per step, for the execution rule.

    Raises:
      ConfigError: options that fit neither the tasks nor any layer.
    """
    roles = model.backbone.roles
    places = sites(list(linears(model.backbone)), model.tasks_of_stage, examples, roles)
    method.check(model.task_names, places[0].stages if places else None)
    plans = [plan for plan in map(method.plan_layer, places) if plan is not None]
    if method.layer_roles and not set(method.layer_roles) & set(roles.order):
        raise ConfigError(
            f"config: method: '{method.name}' is for layers {' '.join(dict.fromkeys(method.layer_roles))}, of which "
            f"{defined_in(model.backbone)} has none: its blocks have {' '.join(roles.order)}; name these in its "
            "options of layers"
        )
    for layer_plan in plans:
        _check_plan(method, layer_plan)
    groups = dict.fromkeys(GROUPS, 0)
    shapes = _parameters(model)
    for path, shape in shapes.items():
        if not path.startswith("backbone/") or method.trains(path):
            groups[parameter_group(path)] += math.prod(shape)
    for plan in plans:
        for name, shape in plan.parameters.items():
            groups[parameter_group(f"{plan.info.path}/adapter/{name}")] += math.prod(shape)
    total = sum(math.prod(shape) for shape in shapes.values()) + sum(plan.trainable for plan in plans)
    extra = method.upstream_extra(places)
    return Plan(method.name, tuple(plans), {k: v for k, v in groups.items() if v}, extra, total)


def declared_by(model: MultiTaskModel, method: Method, plan: Plan) -> tuple[dict, dict[str, tuple[int, ...]]]:
    """What the makers of all that would train declare to the optimiser, and shapes by path, from shapes alone.

    Args:
      model: an abstract model without adapters; it stays as it is.
      method: what would be attached.
      plan: of both.

    Raises:
      Exception: whatever an `attach` raises that cannot do without numbers.
    """
    graph, state = nnx.split(model)
    found = []

    def attach(state):
        full = nnx.merge(graph, state)
        layers = {layer.info.path: layer for layer in linears(full.backbone)}
        _freeze(full, method)
        for each in plan.layers:
            (inputs, outputs), parts = each.shape, each.info.parts
            rank = min(inputs, outputs // parts)
            shapes = (parts, inputs, rank), (parts, rank), (parts, rank, outputs // parts)
            factors = Factors(*(jnp.zeros(shape) for shape in shapes)) if method.needs_factors() else None
            layers[each.info.path].adapter = method.attach(layers[each.info.path], each, factors, 0)
        found.extend((declarations(full), _parameters(full)))

    jax.eval_shape(attach, state)
    return tuple(found)


def _check_plan(method: Method, plan: object) -> None:
    if not isinstance(plan, LayerPlan):
        raise ConfigError(
            f"method '{method.name}' ({defined_in(method)}): plan_layer returned a {type(plan).__name__}, expected a "
            "LayerPlan, or None where nothing is attached"
        )
    for name, shape in plan.parameters.items():
        if not isinstance(shape, tuple) or not all(isinstance(n, int | np.integer) for n in shape):
            raise ConfigError(
                f"method '{method.name}' ({defined_in(method)}): plan_layer gives '{name}' the shape {shape!r}, "
                "expected a tuple of whole numbers"
            )


def wrap(
    model: MultiTaskModel,
    method: Method,
    *,
    examples: int = 1,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> Plan:
    """Attaches a method to a model in place and returns the plan.

    Load pretrained weights first: singular values are taken from the weights as they are now.

    Args:
      model: a model without adapters.
      method: what to attach.
      examples: images per training step, for `execution="auto"`.
      seed: of the adapters' initial values.
      cache_dir: folder of cached decompositions, None for no cache.

    Raises:
      ConfigError: the model is wrapped already, or the method's options fit nothing.
      WeightsError: weights to decompose that are not finite; layers before them have adapters by then.
    """
    layers = {layer.info.path: layer for layer in linears(model.backbone)}
    if any(layer.adapter is not None for layer in layers.values()):
        raise ConfigError("wrap: the model has adapters already; create and load a fresh model for another method")
    plan = make_plan(model, method, examples)
    options = json.dumps(method_options(method), sort_keys=True, allow_nan=False)
    # The hash of a whole backbone is one chain: it keeps one core busy beside those that decompose or read.
    with ThreadPoolExecutor(max_workers=1) as beside:
        digest = beside.submit(checksum, backbone_weights(model))
        _freeze(model, method)
        if method.needs_factors():
            # NumPy's decomposition runs on the host. A kernel goes there when its turn comes, and is let go once its
            # layer has the factors: at no time does the model exist twice.
            kernels = ((p.info.path, np.asarray(layers[p.info.path].kernel[...]), p.info.parts) for p in plan.layers)
            factors = (found for _, found in factorize_each(kernels, cache_dir))
        else:
            factors = itertools.repeat(None, len(plan.layers))
        for layer_plan, found in zip(plan.layers, factors, strict=True):
            _attach(layers, layer_plan, method, found, seed)
        method.connect(layers, {p.info.path: layers[p.info.path].adapter for p in plan.layers})
        model.adapted = Adapted(method.name, options, digest.result(), examples)
    return plan


def _attach(layers, plan: LayerPlan, method: Method, factors, seed: int) -> None:
    if plan.info.path not in layers:
        raise ConfigError(f"wrap: no layer '{plan.info.path}'. {did_you_mean(plan.info.path, layers)}")
    linear = layers[plan.info.path]
    adapter = method.attach(linear, plan, factors, seed)
    if not isinstance(adapter, LayerAdapter):
        raise ConfigError(
            f"method '{method.name}' ({defined_in(method)}): attach returned a {type(adapter).__name__}, expected an "
            "object of a subclass of ditask_jax.nn.linear.LayerAdapter"
        )
    if adapter.mergeable and type(adapter).merged_kernel is LayerAdapter.merged_kernel:
        raise ConfigError(
            f"method '{method.name}' ({defined_in(method)}): {defined_in(adapter)} has no merged_kernel, by which a "
            "model is evaluated and exported; define it, or set mergeable = False where no kernel can stand for it"
        )
    found = {name: array.shape for name, array in flatten(nnx.to_pure_dict(nnx.state(adapter, nnx.Param))).items()}
    if found != dict(plan.parameters):
        raise ConfigError(
            f"method '{method.name}' ({defined_in(method)}): plan_layer says that {_shapes(plan.parameters)} train in "
            f"'{plan.info.path}', the adapter of attach has {_shapes(found)}"
        )
    if adapter.mergeable and not type(adapter).__module__.startswith("ditask_jax."):
        # A user's mistake must not wait for the evaluation behind a training; ours are tested, and take a while.
        jax.eval_shape(lambda: checked_kernel(linear, adapter, type(adapter).prepare([adapter])[0]))
    linear.adapter = adapter
    if plan.execution == "factored":
        # The factors hold the weight already; keeping the kernel too would be a third copy of the frozen model.
        del linear.kernel


def _shapes(arrays: Mapping[str, tuple[int, ...]]) -> str:
    return " ".join(f"{name} {list(shape)}" for name, shape in sorted(arrays.items())) or "no arrays"


def _freeze(model: MultiTaskModel, method: Method) -> None:
    """Turns every backbone parameter that does not train into a `Frozen` variable."""
    for path, module in nnx.iter_modules(model.backbone):
        for name, value in list(vars(module).items()):
            full = "/".join(["backbone", *map(str, path), name])
            if isinstance(value, nnx.Param) and not method.trains(full):
                setattr(module, name, FrozenParam(value.get_value()))
