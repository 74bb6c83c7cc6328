"""Groups of parameters: what a recipe leaves open, the groups that train, and how far they move."""

import copy
import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np
from ml_collections import ConfigDict

from ditask_jax.adapters.method_registry import PHOTOGRAPHS, SCENES, SETTINGS, Tuned, method_class
from ditask_jax.errors import ConfigError
from ditask_jax.nn.state import flatten
from ditask_jax.options import GROUPS, options_of
from ditask_jax.training.optim.optimizer import Treatment, treatments
from ditask_jax.training.optim.schedules import Schedule, make_schedule

# What a recipe leaves open: fields at none, filled in where a configuration becomes a model, a run or a description.


def setting_of(config: ConfigDict) -> str:
    """Where the factors of a configuration were measured: the nearer of two settings."""
    return SCENES if config.data.name == "scenes" else PHOTOGRAPHS


def tuned_of(config: ConfigDict) -> Tuned | None:
    """What was measured for a configuration's method; None where it keeps the published recipe."""
    return None if config.recipe == "published" else method_class(config.method.name).tuned_for(setting_of(config))


def settled(config: ConfigDict) -> ConfigDict:
    """The configuration with what its recipe says of `optimizer.rates` and `method.unfrozen`, where these are None.

    A run's `config.json` holds it, so that a run keeps its rates when the package has measured better ones.

    >>> from ditask_jax.config import base_config
    >>> config = settled(base_config())
    >>> config.method.unfrozen, dict(config.optimizer.rates)["adapters"]
    ((), 30.0)
    """
    tuned = tuned_of(config)
    # Factors of 1 stay none, so that runs from before there were recipes go on where nothing has changed for them.
    moves = tuned is not None and any(rate != 1 for rate in tuned.rates.values())
    opens_rates = moves and config.optimizer.get("rates", None) is None
    has_unfrozen = "unfrozen" in options_of(method_class(config.method.name))
    opens_unfrozen = has_unfrozen and config.method.get("unfrozen", None) is None
    if not (opens_rates or opens_unfrozen):
        return config
    found = copy.deepcopy(config)
    with found.unlocked():
        if opens_rates:
            found.optimizer.rates = {group: tuned.rates.get(group, 1.0) for group in sorted(GROUPS)}
        if opens_unfrozen:
            found.method.unfrozen = _unfrozen(config, tuned)
    return found


def _unfrozen(config: ConfigDict, tuned: Tuned | None) -> tuple[str, ...]:
    """What trains beside the adapters of a method that has this option, where a configuration leaves it open."""
    published = method_class(config.method.name).published
    return published if tuned is None or tuned.unfrozen is None else tuned.unfrozen


def recipe_words(config: ConfigDict) -> list[str]:
    """What a recipe says of rates and of what trains, and where that comes from, for people."""
    tuned = tuned_of(config)
    if tuned is None:
        return ["published: one learning rate; beside adapters every group of method.unfrozen trains, unless it is set"]
    setting = setting_of(config)
    lines = [f"measured on {setting}: {SETTINGS[setting]}", f"{config.method.name}: {tuned.source}"]
    if config.optimizer.get("rates", None) is not None:
        lines.append("rates: as optimizer.rates sets them, not as measured")
    if config.method.get("unfrozen", None) is not None:
        lines.append("what trains beside adapters: as method.unfrozen sets it, not as measured")
    elif "unfrozen" in config.method:
        lines.append(f"trains beside adapters: {', '.join(_unfrozen(config, tuned)) or 'nothing of the backbone'}")
    return lines


# The groups that train: their sizes, and how the optimiser treats them.


@dataclasses.dataclass(frozen=True)
class Group:
    """Parameters that the optimiser treats alike, but for which of them decay.

    Attributes:
      name: group, or the pattern that splits a part off.
      arrays, size: how many, and how many numbers.
      decayed: numbers among them that weight decay applies to.
      rate: factor on the learning rate.
      weight_decay: of those that decay.
      warmup_steps: a warm-up of its own; None: that of all.
    """

    name: str
    arrays: int
    size: int
    decayed: int
    rate: float
    weight_decay: float
    warmup_steps: int | None


def groups_of(declared: Mapping, shapes: Mapping[str, tuple[int, ...]], optimizer: Mapping[str, Any]) -> list[Group]:
    """The groups of a model's trainable parameters: adapters, pretrained, decoders, each before its parts.

    Args:
      declared: see `ModelState.declared`.
      shapes: of the same parameters, by `/`-joined path.
      optimizer: `config.optimizer`.
    """
    members: dict[str, list[tuple[Treatment, int]]] = {}
    for path, found in flatten(treatments(declared, optimizer)).items():
        members.setdefault(found.group, []).append((found, math.prod(shapes[path])))
    order = lambda name: (GROUPS.index(name.partition(":")[0]) if name.partition(":")[0] in GROUPS else 9, name)
    rows = []
    for name in sorted(members, key=order):
        entries = members[name]
        first = entries[0][0]
        rows.append(
            Group(
                name,
                len(entries),
                sum(size for _, size in entries),
                sum(size for found, size in entries if found.weight_decay),
                first.rate,
                max(found.weight_decay for found, _ in entries),
                first.warmup_steps,
            )
        )
    return rows


# Schedules of groups, and how far a step moves them.


def schedules_of(
    optimizer: Mapping[str, Any], steps_per_epoch: int, total_steps: int, batch_size: int
) -> Callable[[int | None], Schedule]:
    """Gives the schedule with a warm-up of so many steps; of None, that of the configuration."""

    def schedule(warmup_steps: int | None = None) -> Schedule:
        own = {} if warmup_steps is None else {"warmup_steps": warmup_steps}
        if own and warmup_steps >= total_steps:
            raise ConfigError(
                f"config: optimizer.warmups: {warmup_steps} warm-up steps leave nothing of {total_steps} total steps; "
                "lower them, or train longer"
            )
        return make_schedule({**dict(optimizer.items()), **own}, steps_per_epoch, total_steps, batch_size)

    return schedule


class Movement:
    """How fast groups learn and how far steps move them: `norm(new - old) / norm(new)` over a group.

    Computed on the host, from copies of what trains: no program grows for it, and none is compiled.

    Args:
      declared: see `ModelState.declared`.
      optimizer: `config.optimizer`.
      warmed: see `schedules_of`.
    """

    def __init__(self, declared: Mapping, optimizer: Mapping[str, Any], warmed: Callable[[int | None], Schedule]):
        treated = flatten(treatments(declared, optimizer))
        self._rates = {found.group: (found.rate, warmed(found.warmup_steps)) for found in treated.values()}
        self._groups = {path: found.group for path, found in treated.items()}

    @staticmethod
    def copy(tree: Any) -> Any:
        """A copy on the devices: a step takes over the memory of what it is given."""
        return jax.tree.map(lambda x: jax.device_put(x, x.sharding, may_alias=False), tree)

    def ratios(self, before: Mapping, after: Mapping) -> dict[str, float]:
        """How far a step moved each group, by the name that it is logged under.

        Args:
          before, after: what trains, nested dicts of NumPy arrays.
        """
        old, new = flatten(before), flatten(after)
        moved, lengths = dict.fromkeys(self._rates, 0.0), dict.fromkeys(self._rates, 0.0)
        for path, group in self._groups.items():
            moved[group] += float(np.sum(np.square(new[path] - old[path], dtype=np.float64)))
            # Of what is there behind the step: thetas, gains and half of low-rank matrices are zero before the first.
            lengths[group] += float(np.sum(np.square(new[path], dtype=np.float64)))
        ratio = lambda group: math.sqrt(moved[group] / lengths[group]) if lengths[group] else 0.0
        return {f"train/update_ratio/{group}": ratio(group) for group in moved}

    def rates(self, step: int) -> dict[str, float]:
        """The learning rate of every group at an optimiser step, by the name that it is logged under."""
        return {f"train/rate/{group}": float(schedule(step)) * rate for group, (rate, schedule) in self._rates.items()}
