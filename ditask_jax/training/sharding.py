"""The device mesh, and one function on every device of it, each with its own rows."""

import dataclasses
import math
import os
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ditask_jax.errors import ConfigError
from ditask_jax.nn.state import ModelState

# The device mesh, the same code for one device and for eight.
#
# Batches are spread over all devices. What trains is on every device; so are the frozen weights, unless they are spread
# over the axis `fsdp`: the devices of a group then hold a part each, and gather them once a step.


DATA = "data"
FSDP = "fsdp"
_SMALLEST_SPREAD = 2**8  # numbers; below, gathering a weight costs more than keeping it


def make_mesh(devices: int | None = None, fsdp: int = 1) -> Mesh:
    """A mesh over the first `devices` devices (None: all of them); of several processes, over all they have.

    Args:
      devices: how many.
      fsdp: devices that share one copy of the frozen weights; divides `devices`.

    Raises:
      ConfigError: more devices asked for than there are, or not all of those of several processes.
    """
    # Process by process: a process's devices then hold a block of a batch's rows.
    available = sorted(jax.devices(), key=lambda device: (device.process_index, device.id))
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise ConfigError(
            f"config: mesh.data: got {count} devices, expected 1 to {len(available)} ({available[0].platform}); "
            "leave it unset to use every device"
        )
    if jax.process_count() > 1 and count != len(available):
        raise ConfigError(
            f"config: mesh.data: got {count}, but {jax.process_count()} processes have {len(available)} devices; "
            "leave it unset, or show each process fewer devices (CUDA_VISIBLE_DEVICES)"
        )
    if count % fsdp:
        raise ConfigError(
            f"config: mesh.fsdp: got {fsdp}, expected a divisor of the {count} devices; use 1 to keep the frozen "
            "weights whole on every device"
        )
    chosen = np.array(available[:count])
    if fsdp == 1:
        return Mesh(chosen, (DATA,), axis_types=(AxisType.Auto,))
    return Mesh(chosen.reshape(-1, fsdp), (DATA, FSDP), axis_types=(AxisType.Auto,) * 2)


def batch_axes(mesh: Mesh) -> tuple[str, ...]:
    """The axes that a batch's rows are spread over: all of them."""
    return mesh.axis_names


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis is spread over the mesh."""
    return NamedSharding(mesh, PartitionSpec(batch_axes(mesh)))


def frozen_shardings(mesh: Mesh, frozen: Any) -> Any:
    """Where each frozen weight is: whole on every device, or spread over `fsdp` along its longest axis that divides."""
    if FSDP not in mesh.axis_names:
        return replicated(mesh)
    parts = mesh.shape[FSDP]

    def place(leaf) -> NamedSharding:
        lengths = [length if length % parts == 0 else 0 for length in np.shape(leaf)]
        if np.size(leaf) < _SMALLEST_SPREAD or not max(lengths, default=0):
            return replicated(mesh)
        axis = lengths.index(max(lengths))
        return NamedSharding(mesh, PartitionSpec(*[None] * axis, FSDP))

    return jax.tree.map(place, frozen)


def check_batch_size(field: str, batch_size: int, mesh: Mesh, pieces: int = 1) -> None:
    """Raises ConfigError unless a global batch splits evenly over the devices and, on each, into pieces.

    >>> check_batch_size("config: batch_size", 8, make_mesh(1))
    """
    devices = mesh.devices.size
    if pieces > 1 and batch_size % devices == 0 and batch_size // devices % pieces:
        raise ConfigError(
            f"config: optimizer.accumulate: got {pieces}, expected a divisor of the {batch_size // devices} images "
            f"that each of {devices} devices gets of {field.removeprefix('config: ')} {batch_size}"
        )
    if batch_size % devices:
        low, high = batch_size // devices * devices, (batch_size // devices + 1) * devices
        near = " or ".join(str(n) for n in (low, high) if n)
        told = ", or lower JAX_NUM_CPU_DEVICES" if "JAX_NUM_CPU_DEVICES" in os.environ else ""
        raise ConfigError(
            f"{field}: got {batch_size}, expected a multiple of the {devices} devices; use {near}, or set "
            f"mesh.data{told}"
        )


def place_whole(tree: Any, sharding: Any) -> Any:
    """Arrays that every process holds alike, put wherever a sharding (or a pytree of them) says."""
    if jax.process_count() == 1:
        return jax.device_put(tree, sharding)
    # `device_put` would compare each array between the processes, at a collective and a compilation apiece.
    place = lambda array, where: jax.make_array_from_callback(np.shape(array), where, np.asarray(array).__getitem__)
    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda array: place(array, sharding), tree)
    return jax.tree.map(place, tree, sharding)


def place_batch(batch: Mapping, mesh: Mesh) -> dict:
    """A host batch as device arrays spread over the mesh; each process gives its own rows."""
    place = lambda array: jax.make_array_from_process_local_data(sharded(mesh), np.asarray(array))
    return jax.tree.map(place, dict(batch))


def spread_flag(flag: bool, mesh: Mesh) -> jax.Array:
    """A boolean of this process's own, once for each of its devices: `[devices]`, spread over the mesh."""
    return place_batch({"flag": np.full(len(mesh.local_devices), flag)}, mesh)["flag"]


# One function on every device of a mesh, each with its own rows; what crosses between devices is written out here.


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
