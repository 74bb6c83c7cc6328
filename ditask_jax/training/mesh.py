"""The device mesh, the same code for one device and for eight.

Batches are spread over all devices. What trains is on every device; so are the frozen weights, unless they are spread
over the axis `fsdp`: the devices of a group then hold a part each, and gather them once a step.
"""

import os
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ditask_jax.errors import ConfigError

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
