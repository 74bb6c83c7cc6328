"""The many small arrays of adapters laid together: a name, an offset and a hash for each would outweigh the numbers.

Arrays inside adapters that have name, type and shape in common make one tensor with a row for each layer,
`adapter/NAME/TYPE_SHAPE`; a text beside the tensors says which layers those are. Everything else stays as it is.
"""

import json
from collections.abc import Mapping

import numpy as np

from ditask_jax.errors import WeightsError

_INSIDE, _STACK = "/adapter/", "adapter/"


def stacked(arrays: Mapping[str, np.ndarray]) -> tuple[dict[str, np.ndarray], str]:
    """Tensors of an adapter file, and which layers the rows of its stacks belong to.

    Args:
      arrays: by `/`-joined path.

    >>> thetas = {f"backbone/{layer}/adapter/theta_shared": np.zeros(3, np.float32) for layer in ("fc1", "fc2")}
    >>> tensors, rows = stacked(thetas | {"heads/bias": np.zeros(1)})
    >>> {name: tensor.shape for name, tensor in tensors.items()}
    {'heads/bias': (1,), 'adapter/theta_shared/float32_3': (2, 3)}
    >>> rows
    '{"adapter/theta_shared/float32_3":"backbone/fc1 backbone/fc2"}'
    """
    tensors, stacks = {}, {}
    for path, array in sorted(arrays.items()):
        layer, inside, name = path.rpartition(_INSIDE)
        if inside:
            kind = f"{array.dtype}_{'x'.join(map(str, array.shape))}"
            stacks.setdefault(f"{_STACK}{name}/{kind}", {})[layer] = array
        else:
            tensors[path] = array
    tensors |= {name: np.stack(list(layers.values())) for name, layers in stacks.items()}
    members = {name: " ".join(layers) for name, layers in stacks.items()}
    return tensors, json.dumps(members, separators=(",", ":"), allow_nan=False)


def unstacked(tensors: Mapping[str, np.ndarray], rows: str, where: str) -> dict[str, np.ndarray]:
    """The arrays behind the tensors of an adapter file; nothing is left over, twice or invented.

    Args:
      tensors: by name.
      rows: what `stacked` gave beside them.
      where: the file, for errors.

    Raises:
      WeightsError: stacks and rows do not belong together.

    >>> arrays = {"backbone/fc1/adapter/theta_shared": np.arange(3.0), "heads/bias": np.zeros(1)}
    >>> sorted(unstacked(*stacked(arrays), "it")) == sorted(arrays)
    True
    """
    try:
        layers = {name: text.split() for name, text in json.loads(rows).items()}
    except (ValueError, AttributeError, RecursionError):
        raise WeightsError(f"{where} does not say which layers its tensors belong to") from None
    arrays = {name: tensor for name, tensor in tensors.items() if name not in layers}
    for stack, names in layers.items():
        count = len(tensors[stack]) if stack in tensors and tensors[stack].ndim else 0
        paths = [f"{layer}{_INSIDE}{stack.removeprefix(_STACK).rpartition('/')[0]}" for layer in names]
        if count != len(paths) or len({*paths} - arrays.keys()) != count:
            raise WeightsError(f"{where}: tensor '{stack}' has {count} rows for {len(paths)} layers, or some are twice")
        arrays |= dict(zip(paths, tensors[stack], strict=True))
    return arrays
