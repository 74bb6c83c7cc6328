"""The device mesh: one `data` axis, the same code for one device and for eight."""

from collections.abc import Mapping

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from ditask_jax.errors import ConfigError

DATA = "data"


def make_mesh(devices: int | None = None) -> Mesh:
    """A mesh over the first `devices` devices (None: all of them).

    Raises:
      ConfigError: more devices asked for than there are.
    """
    available = jax.devices()
    count = len(available) if devices is None else devices
    if not 1 <= count <= len(available):
        raise ConfigError(
            f"config: mesh.data: got {count} devices, expected 1 to {len(available)} ({available[0].platform}); "
            "leave it unset to use every device"
        )
    return Mesh(np.array(available[:count]), (DATA,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """Every device holds the whole array."""
    return NamedSharding(mesh, PartitionSpec())


def sharded(mesh: Mesh) -> NamedSharding:
    """The leading axis is spread over the mesh."""
    return NamedSharding(mesh, PartitionSpec(DATA))


def check_batch_size(field: str, batch_size: int, mesh: Mesh) -> None:
    """Raises ConfigError unless a global batch splits evenly over the devices.

    >>> check_batch_size("config: batch_size", 8, make_mesh(1))
    """
    devices = mesh.devices.size
    if batch_size % devices:
        low, high = batch_size // devices * devices, (batch_size // devices + 1) * devices
        near = " or ".join(str(n) for n in (low, high) if n)
        raise ConfigError(
            f"{field}: got {batch_size}, expected a multiple of the {devices} devices; use {near}, or set mesh.data"
        )


def place_batch(batch: Mapping, mesh: Mesh) -> dict:
    """A host batch as device arrays spread over the mesh; each process gives its own rows."""
    place = lambda array: jax.make_array_from_process_local_data(sharded(mesh), np.asarray(array))
    return jax.tree.map(place, dict(batch))
