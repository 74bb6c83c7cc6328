"""The registry of methods. A new method is one file: a class that names itself and says what it attaches."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from flax import nnx

from ditask_jax.adapters.plan import LayerPlan
from ditask_jax.adapters.site import Site
from ditask_jax.errors import ConfigError, check_known, defined_in
from ditask_jax.nn.linear import Linear

_METHODS: dict[str, type["Method"]] = {}


class Method:
    """How to adapt a backbone. Subclasses are frozen dataclasses of options; `name` registers them.

    A method never touches a backbone's code: it plans one `LayerPlan` per dense layer, says which other parameters
    train, and builds an adapter for a layer's slot.
    """

    name: ClassVar[str] = ""
    # Fields of the `method` section of a configuration, by option, where they are called otherwise.
    config_names: ClassVar[Mapping[str, str]] = {}

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if not cls.name:
            return
        there, same = _METHODS.get(cls.name), lambda other: (other.__module__, other.__qualname__)
        # A decorator such as `dataclass(slots=True)` and a notebook's cell that runs again make the class anew.
        if there is not None and same(there) != same(cls):
            raise ConfigError(
                f"method '{cls.name}' is registered already, {defined_in(there)}; give {cls.__qualname__} another name"
            )
        _METHODS[cls.name] = cls

    @classmethod
    def from_config(cls, config) -> "Method":
        """Builds the method from the `method` section of a configuration: its fields, by name, that stand there."""
        if not dataclasses.is_dataclass(cls):
            return cls()
        asked = dict(config.items()) if config is not None else {}
        there = {
            field.name: cls.config_names.get(field.name, field.name) for field in dataclasses.fields(cls) if field.init
        }
        return cls(**{option: _plain(asked[name]) for option, name in there.items() if name in asked})

    def describe(self) -> str:
        """The options in words, for a model card; "" for none."""
        if not dataclasses.is_dataclass(self):
            return ""
        return ", ".join(f"{f.name} {words(getattr(self, f.name))}" for f in dataclasses.fields(self))

    @property
    def identity_at_start(self) -> bool:
        """Whether a freshly wrapped model computes what the model did before."""
        return True

    def check(self, tasks: Sequence[str], stages: int | None = None) -> None:
        """Raises ConfigError if the options fit neither the tasks nor the number of stages (None: not known yet)."""

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

    def upstream_extra(self, sites: Sequence[Site]) -> dict[str, int]:
        """Parameters that the originals count as trainable though they never receive a gradient, by group."""
        return {}


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(map(_plain, value))
    return {name: _plain(entry) for name, entry in value.items()} if hasattr(value, "items") else value


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
