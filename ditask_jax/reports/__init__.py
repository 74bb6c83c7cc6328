"""What finished runs have to say: reading run folders, tables over seeds, delta_m against trainable parameters."""

from ditask_jax.reports.runs import Run, find_runs, read_run

__all__ = ["Run", "find_runs", "read_run"]
