"""Weights and adapters on a model hub: addresses and the cache, getting and pushing."""
