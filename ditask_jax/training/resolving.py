"""What an address of weights on a hub led to: the same for all processes of a run, and recorded with it.

A branch moves. A run takes what it stands for when it begins, writes commit, file and SHA-256 into its configuration
(`backbone.weights_resolved`, `backbone.weights_sha256`), and goes on with these.
"""

from pathlib import Path

import jax
from ml_collections import ConfigDict

from ditask_jax.conversion.obtaining import Obtained
from ditask_jax.errors import DitaskError, WeightsError
from ditask_jax.hub.addresses import HubAddress, is_hub, sha256_of
from ditask_jax.hub.transfers import resolve
from ditask_jax.model import Pretrained
from ditask_jax.training.distributed import is_first, tell_all

RECORDED = ("weights_resolved", "weights_sha256")
"""Fields of the section `backbone` that training fills in, where they are none."""


def agreed(place: Path | HubAddress) -> Path | HubAddress:
    """The same commit and file for every process: the first one asks the hub, and tells the others.

    Raises:
      WeightsError: the first could not find out; raised by every process.
    """
    if not isinstance(place, HubAddress) or place.is_pinned or jax.process_count() == 1:
        return place
    text, problem = "", None
    if is_first():
        try:
            text = str(resolve(place))
        except (DitaskError, OSError) as error:
            problem, text = error, str(error)
    text = tell_all(text)
    if problem is not None:
        raise problem
    if not is_hub(text):
        raise WeightsError(text)
    return HubAddress.parse(text)


def recorded(config: ConfigDict, pretrained: Pretrained) -> ConfigDict:
    """The configuration with what its address led to; the very same one where the weights are from no hub."""
    if not is_hub(config.backbone.weights):
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        config.backbone.weights_resolved = pretrained.path
        config.backbone.weights_sha256 = pretrained.sha256
    return config.lock()


def as_recorded(config: ConfigDict, before: ConfigDict) -> ConfigDict:
    """A configuration with what a run of the same address has recorded, where it says nothing itself."""
    if not is_hub(config.backbone.weights) or before.backbone.get("weights") != config.backbone.weights:
        return config
    config = config.copy_and_resolve_references()
    with config.unlocked(), config.ignore_type():
        for name in RECORDED:
            if config.backbone.get(name) is None:
                config.backbone[name] = before.backbone.get(name)
    return config.lock()


def check_hash(found: Obtained, sha256: str, where: str) -> None:
    """Raises WeightsError unless the file that weights came from has this SHA-256."""
    given = found.sha256 or sha256_of(found.source)  # a file of ours on this machine, where it has none
    if given != sha256:
        raise WeightsError(
            f"{where}: got a file with SHA-256 {given}, expected {sha256} (backbone.weights_sha256); bring the file "
            "that the run began with, or unset the field for a new run"
        )
