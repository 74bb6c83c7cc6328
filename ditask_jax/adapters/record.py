"""What `wrap` did to a model, as plain texts: enough to describe an adapter file and to recognise its backbone."""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from ditask_jax.adapters.registry import Method, method_class
from ditask_jax.errors import ConfigError, WeightsError, defined_in
from ditask_jax.model import MultiTaskModel
from ditask_jax.nn.state import flatten


@dataclasses.dataclass(frozen=True)
class Adapted:
    """The record of a wrapped model.

    Attributes:
      method: name of the method.
      options: its options, as JSON text (a record must be hashable, and options may hold a mapping).
      backbone_hash: `checksum` of the backbone's weights as they were before; see `backbone_weights`.
      examples: images per step that the plan was made for.
    """

    method: str
    options: str
    backbone_hash: str
    examples: int = 1


def method_options(method: Method) -> dict[str, Any]:
    """A method's options as plain data.

    >>> from ditask_jax.adapters.whole import Full
    >>> method_options(Full())
    {}
    """
    if not dataclasses.is_dataclass(method):
        raise ConfigError(
            f"method '{method.name}' ({defined_in(method)}): write @dataclasses.dataclass(frozen=True) above the "
            "class: its fields are the options that checkpoints and adapter files record"
        )
    try:
        return json.loads(json.dumps(dataclasses.asdict(method), default=list, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(
            f"method '{method.name}' ({defined_in(method)}): an option is no plain data ({error}); use numbers, texts, "
            "tuples and dicts"
        ) from None


def method_from(record: Adapted) -> Method:
    """The method that a model was wrapped with."""
    return build_method(record.method, json.loads(record.options))


def build_method(name: str, options: Mapping[str, Any]) -> Method:
    """A method from plain data.

    Raises:
      WeightsError: it has no such options.
    """
    cls = method_class(name)
    known = {field.name for field in dataclasses.fields(cls)}
    if strange := sorted(set(options) - known):
        raise WeightsError(f"method '{name}' has no option {' '.join(strange)}. Known: {' '.join(sorted(known))}")
    as_tuples = {key: tuple(value) if isinstance(value, list) else value for key, value in options.items()}
    return cls(**as_tuples)


def backbone_weights(model: MultiTaskModel) -> dict[str, jax.Array]:
    """The weights by whose `checksum` an adapter knows its backbone: all but those that depend on the image size.

    Call it on a model without adapters: these replace some weights by their factors, whose last bits depend on the
    machine.
    """
    sized = set(model.backbone.grid_rows())
    weights = flatten(nnx.to_pure_dict(nnx.state(model.backbone, nnx.Param)))
    return {path: value for path, value in weights.items() if path not in sized}
