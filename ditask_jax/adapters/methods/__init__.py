"""The methods, a file each or a family of them; `ditask_jax.adapters.method_registry` knows them by name."""
