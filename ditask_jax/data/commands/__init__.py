"""The commands of `python -m ditask_jax.data`: one module each, with `add_arguments(parser)` and `run(args)`."""
