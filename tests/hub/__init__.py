"""Addresses on a model hub, its cache, and transfers from and to a small hub of our own."""
