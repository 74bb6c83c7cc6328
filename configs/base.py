"""The defaults: PASCAL-Context as published, with DiTASK, but with rates that were measured (`recipe`).

python -m ditask_jax.describe --options                             every field, with its default and meaning
python -m ditask_jax.describe --options --config=configs/base.py    those of this file's method and head

A configuration file is short: it takes the defaults and changes a few fields. Fields and rules are declared in
`ditask_jax/config_sections.py`, options of a method beside its code in `ditask_jax/adapters/methods/`, those of a head
in `ditask_jax/heads/`; `method.name` and `head.name` decide which of them there are.
"""

from ditask_jax.config import base_config


def get_config():
    """Returns the defaults, locked: a field that does not exist cannot be set by mistake."""
    return base_config()
