"""The launch scripts, with stand-ins for a cluster."""
