"""A pytest plugin that loads one module of the package from another file: `-p tests.mutation.plugin`.

The checkout stays as it is, so several mutants can be tried at once and a killed run leaves nothing behind. The
variables `MUTANT_MODULE` and `MUTANT_FILE` say which module and where.
"""

import importlib.abc
import importlib.util
import os
import sys


class Finder(importlib.abc.MetaPathFinder):
    """Finds one module in a file of its own."""

    def __init__(self, module: str, file: str):
        self._module, self._file = module, file

    def find_spec(self, fullname, path=None, target=None):
        """The mutant, where it is asked for; everything else is left to the usual finders."""
        del path, target
        if fullname != self._module:
            return None
        package = [os.path.dirname(self._file)] if os.path.basename(self._file) == "__init__.py" else None
        return importlib.util.spec_from_file_location(fullname, self._file, submodule_search_locations=package)


if "MUTANT_MODULE" in os.environ:
    sys.meta_path.insert(0, Finder(os.environ["MUTANT_MODULE"], os.environ["MUTANT_FILE"]))
