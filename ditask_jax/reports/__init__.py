"""Reading runs, comparing them, and drawing and writing what there is to say of them."""

from ditask_jax.reports.runs import Run, find_runs, read_run

__all__ = ["Run", "find_runs", "read_run"]
