"""One function on every device of a mesh, each with its own rows; what crosses between devices is written out here."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec

from ditask_jax.nn.state import ModelState
from ditask_jax.training.mesh import batch_axes, frozen_shardings

_SMALL = 2**16  # numbers; larger arrays are exchanged on their own, so that no copy of them has to be made


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a device's rows stand in the whole batch.

    Attributes:
      rows: their places, int32 `[B / devices]`; None: they are the whole batch.
      axes: names of the mesh's axes that the batch is spread over; none for a device on its own.
    """

    rows: jax.Array | None = None
    axes: tuple[str, ...] = ()

    def rows_of(self, batch: Any) -> jax.Array:
        """The places written out."""
        return _places(batch) if self.rows is None else self.rows

    def mean(self, tree: Any) -> Any:
        """Means of arrays over the devices."""
        return jax.tree.map(lambda x: jax.lax.pmean(x, self.axes), tree) if self.axes else tree


def on_each_device(parts: ModelState, mesh: Mesh | None, body: Callable) -> Callable:
    """`run(trainable, frozen, stats, key, batch)`: every device's rows through `body`.

    Differentiable in `trainable`: every device carries the gradient of its rows back to what trains, and these are
    summed over the devices in the parameters' own dtype, small arrays side by side as one.

    Args:
      parts: the model taken apart; the shapes of its frozen weights tell which are spread.
      mesh: over which the leading axis of every array of a batch is spread; None: everything is on one device.
      body: maps `(trainable, frozen, stats, key, batch, place)` to two trees: arrays whose leading axis is that of the
        device's rows (or one entry for the device), and arrays that are equal on all devices. What it is given is
        whole, but for the batch.

    Returns:
      A function that gives those two trees, the first with the rows of all devices.
    """
    if mesh is None or mesh.size == 1:
        return lambda *arguments: body(*arguments, Place())
    axes = batch_axes(mesh)
    whole, spread = PartitionSpec(), PartitionSpec(axes)
    specs = jax.tree.map(lambda sharding: sharding.spec, frozen_shardings(mesh, parts.frozen))

    def run(trainable, frozen, stats, key, batch):
        packed, unpack = pack(trainable)

        def local(packed, frozen, stats, key, batch, rows):
            return body(unpack(packed), gather_spread(frozen, specs), stats, key, batch, Place(rows, axes))

        # Unchecked: a plug-in's loop that starts from constants would be refused by the check of what varies.
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(whole, specs, whole, whole, spread, spread),
            out_specs=(spread, whole),
            check_vma=False,
        )(packed, frozen, stats, key, batch, _places(batch))

    return run


def _places(batch) -> jax.Array:
    return jnp.arange(jax.tree.leaves(batch)[0].shape[0], dtype=jnp.int32)


def gather_spread(frozen: Any, specs: Any) -> Any:
    """Frozen weights whole again, on a device that holds a part of those with an axis in their partition."""

    def gather(spec, leaf):
        for axis, name in enumerate(spec):
            if name is not None:
                leaf = jax.lax.all_gather(leaf, name, axis=axis, tiled=True)
        return leaf

    if isinstance(specs, PartitionSpec):
        return jax.tree.map(lambda leaf: gather(specs, leaf), frozen)
    return jax.tree.map(gather, specs, frozen, is_leaf=lambda x: isinstance(x, PartitionSpec))


def pack(tree: Any) -> tuple[list[jax.Array], Callable[[list[jax.Array]], Any]]:
    """Small arrays of one dtype end to end in one vector, larger ones as they are; and the way back.

    A sum over devices has a price of its own, however little it adds up, and a model has hundreds of small arrays.

    >>> packed, unpack = pack({"a": jnp.ones((2, 3)), "b": jnp.zeros(4)})
    >>> [x.shape for x in packed], unpack(packed)["a"].shape
    ([(10,)], (2, 3))
    """
    leaves, structure = jax.tree.flatten(tree)
    large = [index for index, leaf in enumerate(leaves) if np.size(leaf) >= _SMALL]
    small: dict[Any, list[int]] = {}
    for index, leaf in enumerate(leaves):
        if np.size(leaf) < _SMALL:
            small.setdefault(jnp.result_type(leaf), []).append(index)
    packed = [jnp.concatenate([jnp.ravel(leaves[index]) for index in group]) for group in small.values()]
    packed += [leaves[index] for index in large]
    shapes = [np.shape(leaf) for leaf in leaves]

    def unpack(packed: list[jax.Array]) -> Any:
        found: list[Any] = [None] * len(shapes)
        for vector, group in zip(packed, small.values(), strict=False):
            # The gradient of one split is one concatenation, that of slices a sum of padded vectors.
            parts = jax.lax.split(vector, [math.prod(shapes[index]) for index in group])
            for index, part in zip(group, parts, strict=True):
                found[index] = part.reshape(shapes[index])
        for index, leaf in zip(large, packed[len(small) :], strict=True):
            found[index] = leaf
        return jax.tree.unflatten(structure, found)

    return packed, unpack
