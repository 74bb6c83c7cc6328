"""The process of a command: standard streams, encoding, variables that JAX and XLA read, native libraries' settings."""

import codecs
import contextlib
import ctypes
import functools
import io
import os
import pathlib
import re
import select
import subprocess
import sys
import tempfile
import threading
import warnings
from collections.abc import Iterator, Mapping

from ditask_jax.errors import ConfigError, OutputWarning, did_you_mean

_VARIABLES = ("JAX_", "XLA_", "LIBTPU_", "CUDA_", "NVIDIA_", "ROCR_", "HIP_", "TPU_", "LD_LIBRARY_PATH")
_PLATFORMS = ("cpu", "cuda", "rocm", "tpu", "gpu")
# Asking for the defaults makes XLA read XLA_FLAGS, which ends a process whose flags it does not know.
_XLA_PROBE = "from jaxlib import _jax; _jax.CompileOptions().executable_build_options.debug_options; print('taken')"
_REFUSED_NAME = r"""'[^']*\\udc[89a-f][0-9a-f][^']*'|"[^"]*\\udc[89a-f][0-9a-f][^"]*\""""
# Variables that make JAX refuse ordinary programs, and what it says then.
_STRICT = {
    "JAX_NUMPY_DTYPE_PROMOTION": "implicit dtype promotion",
    "JAX_TRANSFER_GUARD": "isallowed",
    "JAX_DISABLE_JIT": "isable jit",
}


def use_utf8() -> None:
    """Starts this process again in Python's UTF-8 mode where names of files would be read as ASCII or Latin-1.

    Only so do paths that stand in files (always UTF-8) name the same files as on the command line. What is printed
    keeps the encoding of the terminal. Returns where nothing needs to be done.
    """
    if codecs.lookup(sys.getfilesystemencoding()).name == "utf-8" or "utf8" in sys._xoptions:
        return
    encoding = sys.stdout.encoding if sys.stdout else "ascii"
    os.environ.setdefault("PYTHONIOENCODING", f"{encoding}:backslashreplace")
    os.environ["PYTHONUTF8"] = "1"  # for the processes that this one starts
    try:
        os.execv(sys.executable, [sys.executable, "-X", "utf8", *sys.orig_argv[1:]])
    except OSError:
        return  # as it was: names within ASCII work all the same


class Output(io.FileIO):
    """A standard stream of this process that fails once at the most; what comes later is dropped.

    Args:
        descriptor: 1 or 2.
        raises: Whether the failure is raised, named after the stream; otherwise nobody hears of it.
    """

    def __init__(self, descriptor: int, *, raises: bool):
        super().__init__(descriptor, "w", closefd=False)
        self._raises = raises
        self._failed = False

    def write(self, data) -> int:
        data = memoryview(data).cast("B")
        try:
            while not self._failed:
                if (written := super().write(data)) is not None:
                    return written
                select.select([], [self], [])  # a terminal that another program has set not to block
        except OSError as error:
            self._failed = True
            if self._raises:
                error.filename = "standard output"
                raise
        return len(data)


def open_streams() -> None:
    """Lets nothing that is printed raise for the characters in it; closed standard streams lead nowhere.

    A descriptor that is closed would be given to the next file that is opened, and a library's message land in it.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != descriptor:
                os.dup2(opened, descriptor)
                os.close(opened)
            os.set_inheritable(descriptor, True)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None or getattr(stream, "closed", False):
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115 (open as long as the process)
        elif isinstance(stream, io.TextIOWrapper) and stream.errors != "backslashreplace":
            stream.reconfigure(errors="backslashreplace")
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115


def hold_streams(*, unheard: bool) -> None:
    """Puts an `Output` under both streams of this process, so that no line that cannot be printed ends what goes on.

    Args:
        unheard: Whether the standard output may fail like the error stream: without a word.
    """
    for name, descriptor in (("stdout", 1), ("stderr", 2)):
        stream = getattr(sys, name)
        if type(stream) is not io.TextIOWrapper or stream is not getattr(sys, f"__{name}__"):
            continue
        stream.flush()
        options = {"line_buffering": stream.line_buffering or name == "stderr", "write_through": stream.write_through}
        buffer = io.BufferedWriter(Output(descriptor, raises=name == "stdout" and not unheard))
        setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, stream.errors, **options))


def show_warnings() -> None:
    """Prints an `OutputWarning` as one line, every time, and other warnings as ever; for the process of a command."""
    before = warnings.showwarning

    def show(message, category, filename, lineno, file=None, line=None):
        if issubclass(category, OutputWarning):
            print(f"warning: {message}", file=sys.stderr, flush=True)
        else:
            before(message, category, filename, lineno, file, line)

    warnings.showwarning = show
    warnings.simplefilter("always", OutputWarning)


def settle_environment() -> None:
    """Variables that would end a command and that it has no use for, put right for it and the processes it starts."""
    # The backend of a notebook's own process is handed to what is started in it, where it may not even exist.
    os.environ["MPLBACKEND"] = "agg"
    if os.path.expanduser("~") == "~":
        # No home and no such user: libraries that ask for it raise. One that cannot be made turns their caches off.
        os.environ["HOME"] = os.path.join(os.devnull, "home")
    chosen = [name for name in ("TMPDIR", "TEMP", "TMP") if os.environ.get(name)]
    if chosen and not _usable(os.environ[chosen[0]]):
        # Python looks elsewhere by itself; compilers and readers written in C++ do not.
        with contextlib.suppress(FileNotFoundError):  # nor is there another: most commands need none
            os.environ[chosen[0]] = tempfile.gettempdir()


def _usable(folder: str) -> bool:
    return os.path.isdir(folder) and os.access(folder, os.W_OK | os.X_OK)


# What native libraries keep for a whole process. All of it is set here, for commands and for the loader's worker
# processes; in a user's own process nothing is changed but by `one_blas_thread`, which puts back what it found.


# Of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST, _KEPT = 32 << 20, 256 << 20


def process_settings() -> None:
    """Sets up a process that reads data: one OpenCV thread, and freed memory that is kept (`keep_freed_memory`).

    The commands and the loader's worker processes call it; a script that reads with threads may. Examples are prepared
    side by side already, and OpenCV's own threads on top of that only fight for the cores. A number in the variable
    `OPENCV_FOR_THREADS_NUM` is left as it is.
    """
    if "OPENCV_FOR_THREADS_NUM" not in os.environ:
        # OpenCV reads it at its first use, and so do processes that this one starts.
        os.environ["OPENCV_FOR_THREADS_NUM"] = "1"
        if "cv2" in sys.modules:
            sys.modules["cv2"].setNumThreads(1)
    keep_freed_memory()


@functools.cache
def keep_freed_memory() -> bool:
    """Tells the C library to keep up to 256 MB of freed memory; returns whether it could be told (glibc on Linux).

    By default the pages of every array of a few megabytes are given back when it is freed and asked for again with the
    next one: for a float image of 448x448, 600 page faults, which take as long as interpolating it. Peak memory stays
    what it is.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # The first call alone would also switch off the library's own adaptation, so both are needed.
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST)) and bool(mallopt(_M_TRIM_THRESHOLD, _KEPT))


_blas_lock = threading.Lock()
# How many are inside `one_blas_thread`, and the number of threads that the first of them found.
_blas = {"inside": 0, "found": 0}


@contextlib.contextmanager
def one_blas_thread() -> Iterator[bool]:
    """Holds NumPy's OpenBLAS to one thread per call while entered, yielding whether that worked.

    The number of threads belongs to the process, and NumPy has no call for it. The last one to leave puts back what the
    first one found.
    """
    import numpy as np

    package = pathlib.Path(np.__file__).parent
    for path in [*package.parent.glob("numpy.libs/*openblas*"), *package.glob(".dylibs/*openblas*")]:
        try:
            library = ctypes.CDLL(str(path))
            get, put = library.scipy_openblas_get_num_threads64_, library.scipy_openblas_set_num_threads64_
        except (OSError, AttributeError):
            continue
        with _blas_lock:
            if not _blas["inside"]:
                _blas["found"] = get()
                put(1)
            _blas["inside"] += 1
        try:
            yield True
        finally:
            with _blas_lock:
                _blas["inside"] -= 1
                if not _blas["inside"]:
                    put(_blas["found"])
        return
    yield False


def check_environment(environment: Mapping[str, str] | None = None) -> None:
    """Refuses what JAX and XLA would not survive, before they are loaded.

    Raises:
        ConfigError: it names the variable.

    >>> check_environment({"JAX_NUM_CPU_DEVICES": "0"})
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: environment: JAX_NUM_CPU_DEVICES: got '0', expected a number from 1 on; or unset it
    """
    environment = os.environ if environment is None else environment
    count = environment.get("JAX_NUM_CPU_DEVICES")
    if count is not None and count.strip() != "-1" and not (count.strip().isdecimal() and int(count) > 0):
        raise ConfigError(f"environment: JAX_NUM_CPU_DEVICES: got {count!r}, expected a number from 1 on; or unset it")
    _check_platforms(environment)
    flags = environment.get("XLA_FLAGS", "")
    if flags.strip() and "jax" not in sys.modules and (reason := _refused_flags(flags)):
        raise ConfigError(f"environment: XLA_FLAGS: got {flags!r}, which XLA refuses ({reason}); fix or unset it")


def _check_platforms(environment: Mapping[str, str]) -> None:
    """Names in another case or between blanks, which JAX takes for platforms that it lacks."""
    text = environment.get("JAX_PLATFORMS", "")
    for name in text.split(",") if text else ():
        if name not in _PLATFORMS and name.strip().lower() in _PLATFORMS:
            raise ConfigError(
                f"environment: JAX_PLATFORMS: got {text!r}. {did_you_mean(name.strip().lower(), _PLATFORMS)}; "
                "or unset it, and JAX takes what there is"
            )


@functools.cache
def _refused_flags(flags: str) -> str:
    """Why XLA would end the process; empty where it would not. Found out in another process, as it cannot be caught."""
    command = [sys.executable, "-c", _XLA_PROBE]
    done = subprocess.run(command, env=dict(os.environ, XLA_FLAGS=flags), capture_output=True, check=False)
    said = done.stderr.decode(errors="replace")
    if b"taken" in done.stdout or "Traceback" in said:
        return ""  # or this jaxlib has other names for it: the training will tell
    lines = [line.partition("] ")[2] for line in said.splitlines() if "] " in line]
    return (lines or ["it ends the process"])[0].strip()[:200]


def explain(error: BaseException, environment: Mapping[str, str] | None = None) -> ConfigError | None:
    """What a shell has to do with an error: variables that JAX cannot load or start with, names that are no UTF-8.

    Returns:
        An error of one line that names the variables or the folder; None where the error is of another kind.
    """
    environment = os.environ if environment is None else environment
    chain = list(_chain(error))
    if name := _no_utf8(error):
        return ConfigError(
            f"file system: {name} is no UTF-8, and a library that is needed for it takes no other "
            "name; rename the folder, or give a link to it that has a plain name"
        )
    places = {place for link in chain for place in _places(link)}
    given = {name: value for name, value in environment.items() if name.startswith(_VARIABLES)}
    known = {name: value for name, value in given.items() if value}
    importing = ("jax", "<module>") in places
    if not importing and "jax._src.xla_bridge" not in {module for module, _ in places}:
        return _explain_strict(" ".join(str(error).split()), known)
    reason = next((" ".join(str(link).split()) for link in reversed(chain) if str(link).strip()), "no device")
    # An empty text is no truth value and no number either.
    suspects = _suspects(reason, given if importing else known, importing)
    if suspects:
        shown = ", ".join(f"{name}: got {given[name]!r}" for name in suspects)
        what = "JAX cannot be loaded with it" if importing else "JAX cannot start that here"
        misspelt = suspects[0] == "JAX_PLATFORMS" and given[suspects[0]] not in _PLATFORMS
        near = f"{did_you_mean(given[suspects[0]], _PLATFORMS)}; " if misspelt else ""
        rest = "" if importing else ", or set JAX_PLATFORMS=cpu"
        return ConfigError(f"environment: {shown}; {what} ({reason[:200]}). {near}fix or unset it{rest}")
    if importing:
        return None
    return no_device(reason)


def _no_utf8(error: BaseException) -> str:
    """The name that a library has refused because it is no UTF-8, as `repr` has it; empty for another error."""
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:
        return repr(str(error.object)[:300])
    # Readers and writers in C++ say only what they were called with.
    if isinstance(error, TypeError) and "incompatible" in str(error):
        found = re.search(_REFUSED_NAME, str(error))
        return found[0] if found else ""
    return ""


def _suspects(reason: str, known: Mapping[str, str], importing: bool) -> list[str]:
    """The variables that a message of JAX is about: by name, by what it quotes, by words in it; the surest alone."""
    text = re.sub(r"\bjax\.", "jax_", reason.lower())
    word = lambda part: re.search(rf"(?<!\w){re.escape(part)}(?!\w)", text) is not None
    own = {name: value.lower() for name, value in known.items() if name.startswith("JAX_")}
    named = [name for name in known if word(name.lower())]
    quoted = [name for name, value in own.items() if f"'{value}'" in text or f'"{value}"' in text]
    held = [name for name, value in own.items() if value and word(value)]
    if importing:
        return named or quoted or held
    # JAX advises to set JAX_PLATFORMS in every such message; that names no culprit unless it is set. What else has a
    # value such as 1 or no, which stands in many a message, is asked last.
    usual = [name for name in ("JAX_PLATFORMS", "JAX_PLATFORM_NAME") if name in known]
    return quoted or [name for name in usual if name in held] or usual or held or named


def no_device(reason: str) -> ConfigError:
    """The error for devices that JAX cannot start, though no variable asks for them."""
    return ConfigError(
        f"devices: JAX could not start ({reason[:200]}); install the packages for this driver "
        "(requirements-cuda12.txt or requirements-cuda13.txt), unset LD_LIBRARY_PATH, or set JAX_PLATFORMS=cpu"
    )


def _explain_strict(reason: str, known: Mapping[str, str]) -> ConfigError | None:
    for prefix, phrase in _STRICT.items():
        for name in known:
            if name.startswith(prefix) and phrase in reason:
                return ConfigError(
                    f"environment: {name}: got {known[name]!r}, which lets JAX refuse this program ({reason[:200]}); "
                    "unset it (DITASK_TRACEBACK=1 shows where)"
                )
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _places(error: BaseException) -> Iterator[tuple[str, str]]:
    step = error.__traceback__
    while step is not None:
        yield step.tb_frame.f_globals.get("__name__", ""), step.tb_frame.f_code.co_name
        step = step.tb_next
