"""The registry of methods, and the options that methods share. A new method is one file: a class that names itself and
says what it attaches.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flax import nnx

from ditask_jax.adapters.plan import LayerPlan, Site
from ditask_jax.backbones import known_roles
from ditask_jax.errors import ConfigError, check_known, defined_in, same_definition
from ditask_jax.nn.linear import LayerAdapter, Linear
from ditask_jax.options import names, options_of, plain

# Options that may differ by stage and by task: one value, a tuple with one per stage, or a mapping from task name.
Number = int | float
PerStage = Number | Sequence[Number]
PerTask = PerStage | Mapping[str, PerStage]


def pick(value: PerTask, stage: int, task: str | None = None) -> Number:
    """The value of one stage and task.

    >>> pick(4, 2), pick((1, 2, 3), 2), pick({"depth": (1, 2, 3), "sal": 7}, 1, "depth")
    (4, 3, 2)
    """
    if isinstance(value, Mapping):
        value = value[task]
    return value[stage] if isinstance(value, tuple | list) else value


def check_entries(where: str, value: PerTask, tasks: Sequence[str], stages: int | None) -> None:
    """Checks that an option has a value for every task and stage.

    Args:
      where: its name, for the message.
      value: what was given.
      tasks: that need a value; empty where the option has none per task.
      stages: of the backbone, None where it is not known yet.

    Raises:
      ConfigError: a task without an entry, or a tuple of another length.

    >>> check_entries("config: method.task_cells", {"sal": 4}, ["sal", "depth"], 4)
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: config: method.task_cells: no entry for depth; give every task a value
    """
    if isinstance(value, Mapping):
        missing = [task for task in tasks if task not in value]
        if missing:
            raise ConfigError(f"{where}: no entry for {' '.join(missing)}; give every task a value")
    for entry in [value[task] for task in tasks] if isinstance(value, Mapping) else [value]:
        if isinstance(entry, tuple | list) and stages is not None and len(entry) != stages:
            raise ConfigError(f"{where}: got {len(entry)} values, expected one, or one per stage ({stages})")


def check_layers(field: str, layers: Sequence[str], kind: str = "order") -> None:
    """Checks the roles of layers that an option names.

    Args:
      field: name of the option, for the message.
      layers: the roles.
      kind: "order" for those of any layer, "task" for those that task streams may split off at: queries, keys and
        values are shared, a task's stream starts behind the attention.

    Raises:
      ConfigError: an unknown role.
    """
    known = list(dict.fromkeys(role for roles in known_roles() for role in getattr(roles, kind)))
    for role in layers:
        check_known(f"config: method.{field}", role, known)


# Rules and options that several methods have.


LAYERS = names("names of layers such as qkv,proj,fc1,fc2, or nothing", "layer")
TASK_LAYERS = ("proj", "fc1", "fc2")
TASK_LAYERS_HELP = (
    "Roles of layers with parameters per task, in the last blocks of every stage; nothing: shared ones only."
)
TASK_BLOCKS_HELP = "How many of a stage's last blocks the task streams run through."


# What a method trains with where a configuration leaves it open (`recipe` "measured").


@dataclasses.dataclass(frozen=True)
class Tuned:
    """What was best for a method in one setting.

    Attributes:
      rates: factor on the learning rate by group ("adapters", "pretrained", "decoders"); 1 where a group is missing.
      source: what was measured and found; or by analogy with which method.
      unfrozen: groups of backbone weights that train beside the adapters, of methods with this option; None: all, as
        published.
    """

    rates: Mapping[str, float]
    source: str
    unfrozen: tuple[str, ...] | None = None


PHOTOGRAPHS, SCENES = "photographs", "scenes"
SETTINGS = {
    PHOTOGRAPHS: "DINOv2 ViT-S/14 on Clothing Co-Parsing, 112 pixels, 150 steps of 8, decoders' rate 3e-3",
    SCENES: "Swin, embedded weights, on generated scenes: 96 pixels and 450 steps of 16, or 48 pixels and 200 steps",
}
"""Where factors were measured. Features that fit already want small changes learnt fast and pretrained weights left
alone; the embedded weights, made in minutes, want to change."""


# The registry: a class with a `name` is in it by being defined.


_METHODS: dict[str, type["Method"]] = {}


class Method:
    """How to adapt a backbone. Subclasses are frozen dataclasses of options; `name` registers them.

    An option is declared once, in its field (`ditask_jax.options.option`): configurations, checks, listings and pages
    have it from there.

    A method never touches a backbone's code: it plans one `LayerPlan` per dense layer, says which other parameters
    train, and builds an adapter for a layer's slot.
    """

    name: ClassVar[str] = ""
    # Options by what configurations of version 0.1 called them, where that was something else.
    former_names: ClassVar[Mapping[str, str]] = {}
    # By setting. A method states here what was measured for it; without that it has, by analogy, what its base class
    # has, and in the end this: what suits low-rank matrices.
    tuned: ClassVar[Mapping[str, Tuned]] = {
        PHOTOGRAPHS: Tuned({"adapters": 0.3, "pretrained": 0.03}, "by analogy with 'lora'", unfrozen=()),
        SCENES: Tuned({}, "by analogy with 'lora'"),
    }

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not cls.name:
            return
        there = _METHODS.get(cls.name)
        if there is not None and not same_definition(there, cls):
            raise ConfigError(
                f"method '{cls.name}' is registered already, {defined_in(there)}; give {cls.__qualname__} another name"
            )
        _METHODS[cls.name] = cls

    @classmethod
    def from_config(cls, config) -> "Method":
        """Builds the method from the `method` section of a configuration: its options, by name, that are there."""
        asked = dict(config.items()) if config is not None else {}
        return cls(**{name: plain(asked[name]) for name in options_of(cls) if name in asked})

    def describe(self) -> str:
        """The options in words, for a model card; "" for none."""
        if not dataclasses.is_dataclass(self):
            return ""
        return ", ".join(f"{f.name} {words(getattr(self, f.name))}" for f in dataclasses.fields(self))

    @classmethod
    def tuned_for(cls, setting: str) -> Tuned:
        """What to train with in a setting; its `source` says so where that is another method's.

        >>> method_class("ditask").tuned_for("photographs").rates["adapters"]
        30.0
        """
        owner = next(base for base in cls.__mro__ if setting in vars(base).get("tuned", ()))
        found = owner.tuned[setting]
        same = owner is cls or not getattr(owner, "name", "")
        return found if same else dataclasses.replace(found, source=f"by analogy with '{owner.name}'")

    @classmethod
    def analogy(cls) -> Mapping[str, Tuned]:
        """For `tuned` of another method: what this one has, marked as by analogy with it."""
        words = f"by analogy with '{cls.name}'"
        return {setting: dataclasses.replace(cls.tuned_for(setting), source=words) for setting in SETTINGS}

    @property
    def identity_at_start(self) -> bool:
        """Whether a freshly wrapped model computes what the model did before."""
        return True

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        """Raises ConfigError if the options fit neither the tasks nor the number of stages (None: not known yet).

        Checked here is each option by its rule. A method whose options depend on each other adds to it.
        """
        for name, declared in options_of(type(self)).items():
            declared.check(f"config: method.{name}", getattr(self, name))
            if declared.rule is not None and declared.rule.by_stage:
                check_entries(f"config: method.{name}", getattr(self, name), tasks, stages)

    @property
    def layer_roles(self) -> tuple[str, ...]:
        """Roles of dense layers that the options name; () where they name none."""
        return ()

    def plan_layer(self, site: Site) -> LayerPlan | None:
        """The plan of one dense layer, or None where nothing is attached."""
        return None

    def trains(self, path: str) -> bool:
        """Whether a backbone parameter (its `/`-joined path, adapters aside) trains."""
        raise TypeError(f"method '{self.name}' does not say what trains")

    def needs_factors(self) -> bool:
        """Whether `attach` wants the singular value decomposition of each layer."""
        return False

    def attach(self, linear: Linear, plan: LayerPlan, factors, seed: int) -> nnx.Module:
        """The adapter for a planned layer."""
        raise TypeError(f"method '{self.name}' attaches no adapters")

    def connect(self, layers: Mapping[str, Linear], adapters: Mapping[str, LayerAdapter]) -> None:
        """Called when all adapters are attached, with the dense layers and the adapters by path.

        What adapters have in common, a frozen matrix of all layers say, is given to them here: one variable that
        several adapters hold is stored once.
        """

    def upstream_extra(self, sites: Sequence[Site]) -> dict[str, int]:
        """Parameters that reference implementations count as trainable though they never get a gradient, by group."""
        return {}


def words(value: Any) -> str:
    """An option as people read it.

    >>> words((16, 32)), words({"depth": 4}), words(())
    ('16/32', 'depth 4', 'none')
    """
    if isinstance(value, tuple | list):
        return "/".join(map(words, value)) or "none"
    if hasattr(value, "items"):
        return ", ".join(f"{name} {words(entry)}" for name, entry in value.items())
    return f"{value:g}" if isinstance(value, float) else str(value)


def method_names() -> list[str]:
    """Names of every registered method."""
    return sorted(_METHODS)


def method_class(name: str) -> type[Method]:
    """The method of a name; an unknown one raises ConfigError with the nearest."""
    check_known("config: method.name", name, method_names())
    return _METHODS[name]
