"""A sweep as the file that `wandb sweep` reads; plain text, the package itself is not needed."""

import shlex
from collections.abc import Sequence

from ditask_jax.files import json_text
from ditask_jax.sweeps.points import Sweep
from ditask_jax.sweeps.space import Space


def wandb_file(sweep: Sweep, space: Space, arguments: Sequence[str]) -> str:
    """YAML text: every axis a parameter, every run a point that `ditask_jax.sweep` trains in its folder.

    Args:
        sweep: The sweep.
        space: Its axes.
        arguments: Of `ditask_jax.sweep`: the file, `--workdir` and overrides.

    Returns:
        The text. Everything in it is quoted as JSON is, which YAML understands.
    """
    metric = "val/delta_m" if sweep.metric == "delta_m" else f"val/tasks/{sweep.metric}"
    lines = [
        "# wandb sweep THIS_FILE prints the command that starts an agent; start it in this folder, one per GPU.",
        "# method: grid takes every point once; random and bayes choose among the same values.",
        "program: ditask_jax.sweep",
        "method: grid",
        f"metric: {{name: {json_text(metric)}, goal: {sweep.goal}imize}}",
        "parameters:",
    ]
    for axis, values in space.values.items():
        name = f"config.{axis}" if space.is_grid else "only"
        lines.append(f"  {json_text(name)}: {{values: [{', '.join(map(json_text, values))}]}}")
    command = ["python", "-m", "ditask_jax.sweep", *arguments, *(["--pick"] if space.is_grid else [])]
    lines += ["command:", "  - ${env}", *(f"  - {json_text(part)}" for part in command), "  - ${args}"]
    return "\n".join(lines) + f"\n# The same points without W&B: {shlex.join(command[: 3 + len(arguments)])}\n"
