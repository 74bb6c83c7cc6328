"""The preflight: tries a training before it is paid for."""
