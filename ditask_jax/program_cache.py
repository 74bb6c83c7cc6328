"""Compiled programs kept from one command to the next, by JAX's own cache in a folder of the user's."""

import contextlib
import glob
import hashlib
import os
import pathlib
import platform
import re
import sys
import warnings
from collections.abc import Callable, Iterable

from ditask_jax.errors import OutputWarning

OFF = "JAX_ENABLE_COMPILATION_CACHE"
"""JAX's own variable: "false" keeps nothing."""
DIR = "JAX_COMPILATION_CACHE_DIR"
"""JAX's own variable: where programs are kept instead; that folder is then left to JAX, its size too."""
MOST_BYTES = 2 << 30
# JAX keeps what took a second. Starting a training compiles dozens of programs in less than that each.
_LEAST_SECONDS = "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"
# What JAX warns of where an entry cannot be used; it names the program, not the file.
_PROBLEM = re.compile(r"(?s)Error (reading|writing) persistent compilation cache entry for '(.+?)': (.*)")
# Lines of /proc/cpuinfo on what a compiler may use, on x86 and on ARM.
_CPU = ("vendor_id", "cpu family", "model", "model name", "flags", "CPU implementer", "CPU part", "Features")


def kind_of_processor(cpuinfo: str | None = None) -> str:
    """A short hash of what decides which instructions programs for the CPU are made of.

    Args:
        cpuinfo: Text of `/proc/cpuinfo`; default: this machine's.

    >>> kind_of_processor("flags : avx2 avx512f") == kind_of_processor("flags : avx2")
    False
    >>> kind_of_processor("flags : avx2\\ncpu MHz : 2000") == kind_of_processor("flags : avx2\\ncpu MHz : 3000")
    True
    """
    if cpuinfo is None:
        try:
            cpuinfo = pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            cpuinfo = f"model name : {platform.processor()}"
    first = cpuinfo.strip().partition("\n\n")[0]
    told = dict(re.findall(r"^([^\t:\n]+?)\s*: *(.*)$", first, re.MULTILINE))
    words = [f"{name}={' '.join(sorted(told[name].split()))}" for name in _CPU if name in told]
    return hashlib.sha256("\n".join([platform.machine(), *words]).encode()).hexdigest()[:12]


def folder_here(base: pathlib.Path) -> pathlib.Path:
    """The folder of what this machine compiles with the installed jaxlib.

    JAX tells programs apart by themselves, the compiler's options and version, and the kind of device. It reads what
    another CPU has compiled, in a home folder that machines share, without checking that this one has the
    instructions; so that is part of the folder's name, and the version too, for whoever looks at it.
    """
    from jaxlib.version import __version__  # loads nothing else

    return base / f"jaxlib{__version__}-{platform.machine()}-{kind_of_processor()}"


def keep_programs() -> pathlib.Path | None:
    """Lets JAX keep what this process compiles, and find it again in the next one; before JAX is loaded.

    Says so once, where the folder is new. Entries that cannot be read or written are reported in one line, removed and
    compiled anew. Of all that is there, what has not been used for longest is removed beyond `MOST_BYTES`.

    Returns:
        The folder; None where the user has chosen another (`DIR`) or none (`OFF`), or there is none to write to.
    """
    chosen = os.environ.get(DIR)
    if "jax" in sys.modules or os.environ.get(OFF, "").lower() in ("0", "false", "f", "no", "n", "off"):
        return None
    from ditask_jax.factors import default_cache_dir  # here: it brings NumPy, and every command imports this file

    base = default_cache_dir()
    if base is None:
        return None
    base = base.absolute() / "compiled"
    folder = folder_here(base)
    if chosen and chosen != str(folder):  # a command that this one was started by has set the same
        return None
    try:
        new = not base.exists()
        folder.mkdir(parents=True, exist_ok=True)
        if not os.access(folder, os.W_OK | os.X_OK):
            raise PermissionError(13, "Permission denied")
        make_space(base)
    except OSError as error:
        text = f"cannot use {folder} ({error.strerror or error}); compiling anew. DITASK_CACHE_DIR names another folder"
        warnings.warn(OutputWarning(f"compiled programs: {text}"), stacklevel=2)
        return None
    os.environ[DIR] = str(folder)
    os.environ.setdefault(_LEAST_SECONDS, "0")
    warnings.showwarning = _in_one_line(folder, warnings.showwarning)
    if new:
        size = f"{MOST_BYTES >> 30} GiB"
        line = f"compiled programs are kept in {base}, at most {size}; {OFF}=false turns that off"
        print(line, file=sys.stderr, flush=True)
    return folder


def make_space(base: pathlib.Path, most: int = MOST_BYTES) -> None:
    """Removes files below a folder, least recently used first, until they have no more than so many bytes together.

    JAX's own limit (`JAX_COMPILATION_CACHE_MAX_SIZE`) needs one more package, and a lock on the folder for every read.
    """
    found = []
    for path in _files(base):
        try:
            status = path.stat()
        except OSError:
            continue  # removed by another process
        # Reading moves the first at least once a day, unless the disk is mounted so that nothing does.
        found.append((max(status.st_atime, status.st_mtime), status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        with contextlib.suppress(OSError):  # gone already, or another user's
            path.unlink()
            total -= size


def _files(base: pathlib.Path) -> Iterable[pathlib.Path]:
    for folder, _, names in os.walk(base):
        for name in names:
            yield pathlib.Path(folder, name)


def _in_one_line(folder: pathlib.Path, before: Callable[..., None]) -> Callable[..., None]:
    """`warnings.showwarning` that makes a line of JAX's first warning of the cache, and removes what each is about."""
    said = []

    def show(message, category, filename, lineno, file=None, line=None):
        match = _PROBLEM.match(str(message))
        if match is None:
            before(message, category, filename, lineno, file, line)
            return
        doing, program, reason = match.groups()
        # JAX writes no entry over another, so a damaged one would be met at every start.
        for path in folder.glob(f"{glob.escape(program)}-*-cache"):
            with contextlib.suppress(OSError):
                path.unlink()
        if not said:
            said.append(program)
            problem = " ".join(reason.split())[:200]
            text = f"one in {folder} is passed over, {doing} it failed ({problem}); compiled anew. More go unsaid"
            before(OutputWarning(f"compiled programs: {text}"), OutputWarning, filename, lineno)

    return show
