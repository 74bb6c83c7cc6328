"""Running the checks of the preflight one after another, a line each."""

from collections.abc import Callable, Sequence

import numpy as np

from ditask_jax.errors import DitaskError
from ditask_jax.training.preflight_checks import (
    Setting,
    check_data,
    check_devices,
    check_versions,
    check_weights,
    check_workdir,
)
from ditask_jax.training.preflight_trial import check_checkpoint, check_memory, check_model, check_step
from ditask_jax.training.processes import gather

Check = Callable[[Setting], str]

CHECKS: tuple[tuple[Check, tuple[str, ...]], ...] = (
    (check_versions, ()),
    (check_devices, ()),
    (check_workdir, ("devices",)),
    (check_weights, ("devices",)),
    (check_data, ("devices",)),
    (check_model, ("versions", "weights", "data")),
    (check_memory, ("model",)),
    (check_step, ("memory",)),
    (check_checkpoint, ("step", "workdir")),
)
"""Every check with the names of those that must have passed before it."""

_REMEDY = "check the path, its permissions and the free space"


def name_of(check: Check) -> str:
    """What a check is called in the report.

    >>> name_of(check_weights)
    'weights'
    """
    return check.__name__.removeprefix("check_")


def preflight(setting: Setting, say: Callable[[str], None], checks: Sequence = CHECKS) -> list[str]:
    """Runs the checks; one that builds on a failed one is not tried.

    Of several processes all run every check, and one that fails in any has failed. Only what they find themselves is
    said: the first process says what passed, every process what failed in it.

    Args:
      setting: what to check.
      say: gets one line per check.
      checks: pairs as in `CHECKS`.

    Returns:
      Names of the checks that failed.
    """
    first = setting.cluster is None or setting.cluster.index == 0
    failed: list[str] = []
    left_out: list[str] = []
    for check, needs in checks:
        name = name_of(check)
        missing = [need for need in needs if need in failed or need in left_out]
        if missing:
            left_out.append(name)
            if first:
                say(f"-     {name:<10} not tried, {' and '.join(missing)} must pass first")
            continue
        problem = text = ""
        try:
            text = check(setting)
        except DitaskError as error:
            problem = str(error)
        except OSError as error:
            problem = f"{name}: {error.filename or 'file system'}: {error.strerror or error}; {_REMEDY}"
        elsewhere = [] if check is check_versions else _failed_in(bool(problem))
        if problem:
            say(f"FAIL  {name:<10} {' '.join(problem.split())}")
        elif elsewhere and first:
            say(f"FAIL  {name:<10} in process {' '.join(map(str, elsewhere))}, which says why")
        elif first:
            say(f"ok    {name:<10} {text}")
        if problem or elsewhere:
            failed.append(name)
    return failed


def _failed_in(here: bool) -> list[int]:
    """The processes in which a check failed; versions are looked at before processes can ask each other."""
    try:
        return np.flatnonzero(gather(np.array(here))).tolist()
    except RuntimeError:
        if not here:
            raise
        return []  # JAX does not start here: that is what failed
