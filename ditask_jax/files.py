"""Paths as users write them, small files that appear whole or not at all, and locks that end with their process."""

import contextlib
import errno
import json
import logging
import math
import os
import pathlib
import re
import shlex
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

from ditask_jax.errors import ConfigError, DitaskError

try:
    import fcntl
except ImportError:  # not on Windows, which has no such locks
    fcntl = None

_log = logging.getLogger(__name__)
LOCK_NAME = ".lock"
_POLL_SECONDS = 0.2
_MOST_LOST = 20
_URL = re.compile(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://")
# What `pathlib` leaves of a URL has one slash; so written, only these names are taken for storage and not for a folder.
_STORES = (
    "abfss?|adl|az|azure|cos|dbfs|file|ftps?|gcs|gs|hdfs|hf|https?|oci|oss|r2|s3[an]?|sftp|swift|viewfs|wasbs?|webhdfs"
)
_COLLAPSED = re.compile(rf"\s*({_STORES}):/", re.IGNORECASE)
LONGEST_NAME = 255
"""Bytes of a file name on usual file systems."""
EVALUATION_FORMAT = "ditask_jax/evaluation/1"
"""Of `evaluation.json`, which trainings write, and reports and sweeps read."""


def user_path(path: str | os.PathLike, what: str = "path") -> pathlib.Path:
    """The path that a user means: `~` and `~name` are home folders, and what is no place on this machine is refused.

    Every path that comes from outside goes through here, by an option, a field of the configuration, a variable of the
    environment or a call. Doing so twice changes nothing. The `~name` of a user who does not exist is a name like any
    other, and so is a `~` behind `./`.

    Args:
        path: What was written.
        what: Where it was written, for the message.

    Raises:
        ConfigError: A URL such as `gs://bucket/run`, an empty text, a `~` where nobody has a home folder.

    >>> user_path("~nobody-of-that-name/x").as_posix()
    '~nobody-of-that-name/x'
    >>> user_path("s3://bucket/run", "command line: --workdir")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ditask_jax.errors.ConfigError: command line: --workdir: 's3://bucket/run' is a URL, expected a local path; ...
    """
    text = os.fsdecode(path)
    if not text:
        raise ConfigError(f"{what}: got an empty text, expected a path")
    if "\0" in text:
        raise ConfigError(f"{what}: got {text!r}, which holds a zero byte; no path does")
    if match := _URL.match(text) or _COLLAPSED.match(text):
        remedy = "copy it to a disk of this machine, or mount the storage, and give that path"
        if match[1].lower() == "file":
            rest = re.sub(r"^/*(localhost)?/*", "/", text[match.end(1) + 1 :])
            remedy = f"leave out 'file:' and write '{rest}'"
        raise ConfigError(f"{what}: '{text}' is a URL, expected a local path; {remedy}")
    found = pathlib.Path(text)
    if not text.startswith("~"):
        # `./~/x` is a folder of that name. As `~/x` it would be expanded where the path comes by again.
        return pathlib.Path(os.path.abspath(text)) if found.parts and found.parts[0].startswith("~") else found
    expanded = os.path.expanduser(text)
    # A command without a home has been given one below the null device, see `shell.settle_environment`.
    none = os.environ.get("HOME") == "" or expanded.startswith(os.devnull + os.sep)
    if found.parts[0] == "~" and (none or expanded.startswith("~")):
        raise ConfigError(f"{what}: '{text}': there is no home folder here; set HOME, or write the whole path")
    return pathlib.Path(expanded)


def atomic_write(path: str | os.PathLike, write: Callable[[BinaryIO], Any]) -> pathlib.Path:
    """Writes a file by way of a temporary neighbour and a rename; it holds the old content or the new, never a part.

    Args:
        path: Target file; missing parent folders are made.
        write: Called with the open binary file.

    Returns:
        The path.

    Raises:
        OSError: The folder cannot be written or the disk is full; the old file is then untouched.
    """
    path = user_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A name may be as long as the file system allows; that of its temporary neighbour must fit too.
    prefix = f".{cut_name(path.name, 100)}."
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=prefix, suffix=".tmp")
    try:
        with os.fdopen(descriptor, "wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private to the user; results are shared like any other file.
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
    except BaseException:
        pathlib.Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)
    return path


def cut_name(name: str, size: int) -> str:
    """The beginning of a name that is no longer than so many bytes; characters stay whole.

    >>> cut_name("日本", 5), cut_name("a.png", 5)
    ('日', 'a.png')
    """
    content = os.fsencode(name)
    if len(content) <= size:
        return name
    while True:
        # A name need not be UTF-8 at all: bytes that are no character count as one each.
        text = content[:size].decode("utf-8", "surrogateescape")
        if name.startswith(text):
            return text
        size -= 1


def atomic_write_bytes(path: str | os.PathLike, content: bytes) -> pathlib.Path:
    """Writes bytes atomically; see `atomic_write`."""
    return atomic_write(path, lambda file: file.write(content))


def atomic_write_text(path: str | os.PathLike, text: str) -> pathlib.Path:
    """Writes UTF-8 text atomically; see `atomic_write`.

    Bytes of a file's name that are no UTF-8 are written as `\\udcXX`, from which JSON gets the name back.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     atomic_write_text(pathlib.Path(folder) / "new" / "note.txt", "whole").read_text(encoding="utf-8")
    'whole'
    """
    return atomic_write_bytes(path, text.encode("utf-8", "backslashreplace"))


def atomic_write_json(path: str | os.PathLike, value: Any) -> pathlib.Path:
    """Writes a value as indented JSON, atomically; see `json_text`."""
    return atomic_write_text(path, json_text(value, indent=2) + "\n")


def json_text(value: Any, indent: int | None = None, *, ascii: bool = False) -> str:
    """A value as JSON; numbers keep every bit (`repr` form) and key order is kept.

    NaN and infinities, which JSON does not have and other readers refuse, are unknown values: null. Everything that
    this package writes as JSON follows that rule; read it by `parse_json`.

    Args:
        value: Dicts, lists, tuples, texts, numbers, booleans and None.
        indent: Spaces per level; None: one line.
        ascii: Whether other letters are escaped, for a place that may not take them.

    >>> json_text({"rmse": float("inf"), "mIoU": [0.1, float("nan")]})
    '{"rmse": null, "mIoU": [0.1, null]}'
    """
    value = _without_nonfinite(value)
    text = json.dumps(value, indent=indent, ensure_ascii=ascii, allow_nan=False)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:  # the name of a file that is no UTF-8: escaped, it comes back as it was
        text = json.dumps(value, indent=indent, allow_nan=False)
    return text


def parse_json(text: str | bytes) -> Any:
    """Reads JSON; the NaN and Infinity of files written before 0.2 become None, as `json_text` has it.

    Raises:
        ValueError: it is no JSON.

    >>> parse_json('{"rmse": Infinity, "mIoU": NaN}')
    {'rmse': None, 'mIoU': None}
    """
    return json.loads(text, parse_constant=lambda _: None)


def _without_nonfinite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _without_nonfinite(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nonfinite(entry) for entry in value]
    return value


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current


def _sync_folder(folder: pathlib.Path) -> None:
    """Makes a rename itself durable, where the file system lets a folder be opened."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        return  # some network file systems refuse to sync a folder; the rename has happened all the same
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def locked(
    path: str | os.PathLike,
    field: str,
    what: str,
    remedy: str,
    error: type[DitaskError] = ConfigError,
    *,
    nested: bool = False,
    patience: float = 0.0,
) -> Iterator[None]:
    """While entered, no other process (or thread) enters with the same file.

    The system keeps the lock (`fcntl.lockf`), so that it ends with this process however that ends. Processes that this
    one starts, by fork too, do not hold it. Machines that share a network file system share its locks; where there are
    none, or they reach this machine only, a line of warning says so and work goes on. The file says who holds it, and
    is removed afterwards, as are folders that were made for it and are still empty.

    Args:
        path: The file.
        field: Where the folder was given, for the message: "workdir".
        what: What is done here, for the message of another one that comes: "training".
        remedy: What to do where another one is at work.
        error: Raised where somebody else holds it.
        nested: Whether a thread that holds it already may enter again; it then ends with the outer one.
        patience: Seconds to wait for the other one.

    Raises:
        DitaskError: (of the given kind) somebody else holds it; the message says who, since when and by which command.
        OSError: The file cannot be written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder, locked(f"{folder}/{LOCK_NAME}", "out", "sum", "wait"):
    ...     os.listdir(folder)
    ['.lock']
    """
    path = pathlib.Path(os.path.abspath(user_path(path)))
    key, deadline = os.path.realpath(path), time.monotonic() + patience
    while True:
        with _guard:
            owner = _holders.get(key)
            free = owner is None or owner[0] != os.getpid()  # that of a parent: its locks stay with it
            if free:
                _holders[key] = os.getpid(), threading.get_ident(), what
        if free:
            break
        if nested and owner[:2] == (os.getpid(), threading.get_ident()):
            yield
            return
        if time.monotonic() >= deadline:
            raise error(_in_use(path, field, owner[2], f"this process, pid {os.getpid()}", remedy))
        time.sleep(_POLL_SECONDS)
    made: list[pathlib.Path] = []
    try:
        descriptor = _take(path, field, what, remedy, error, deadline, made)
        try:
            yield
        finally:
            # One that was forked off leaves the file to its parent.
            if descriptor is not None and _holders.get(key, (None,))[0] == os.getpid():
                _let_go(path, descriptor)
    finally:
        with _guard:
            if _holders.get(key, (None,))[0] == os.getpid():
                del _holders[key]
                for folder in reversed(made):
                    with contextlib.suppress(OSError):
                        folder.rmdir()  # only one that is still empty


_guard = threading.Lock()
# By file: the process and thread that hold it, and what for. A process's own locks do not keep it out, and opening and
# closing the file once more would end them.
_holders: dict[str, tuple[int, int, str]] = {}


def _take(
    path: pathlib.Path,
    field: str,
    what: str,
    remedy: str,
    error: type[DitaskError],
    deadline: float,
    made: list[pathlib.Path],
) -> int | None:
    """The descriptor of the locked file; None where the file system has no locks. Folders made for it join `made`."""
    lost = 0
    while True:
        try:
            _make_folders(path.parent, made)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except FileNotFoundError:
            # The one before has made the folder, and has removed it meanwhile. What never appears is another matter.
            lost += 1
            if lost > _MOST_LOST:
                raise
            continue
        try:
            if fcntl is None:
                raise OSError(errno.ENOSYS, "no locks on this system")
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as problem:
            if problem.errno in (errno.EAGAIN, errno.EACCES):  # the two that stand for "another one holds it"
                holder = _holder(descriptor)
                os.close(descriptor)
                if time.monotonic() >= deadline:
                    raise error(_in_use(path, field, *holder, remedy)) from None
                time.sleep(_POLL_SECONDS)
                continue
            if not os.fstat(descriptor).st_size:
                path.unlink(missing_ok=True)  # made here
            os.close(descriptor)
            reason = problem.strerror or str(problem)
            note = "lock: no locks in '%s' (%s): see to it that only one %s runs there"
            _log.warning(note, path.parent, reason, what)
            return None
        if not _is_file(path, descriptor):
            os.close(descriptor)  # the one before has removed it meanwhile
            continue
        if reason := _local_locks(path.parent):
            note = "lock: locks in '%s' (%s) reach this machine only: see to it that no other runs a %s there"
            _log.warning(note, path.parent, reason, what)
        record = {"what": what, "host": socket.gethostname(), "pid": os.getpid(), "since": time.time()}
        record["command"] = shlex.join(sys.orig_argv)[:1000]
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json_text(record, ascii=True).encode(), 0)
        except OSError as problem:  # a full disk: nothing is left behind
            _let_go(path, descriptor)
            problem.filename = str(path)
            raise
        return descriptor


def _let_go(path: pathlib.Path, descriptor: int) -> None:
    """Removes and unlocks a file; one that cannot be removed any more locks nobody out."""
    try:
        if _is_file(path, descriptor):
            with contextlib.suppress(OSError):
                path.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def _make_folders(folder: pathlib.Path, made: list[pathlib.Path]) -> None:
    """Makes a folder; those that were not there join a list, the outermost first."""
    for entry in reversed([entry for entry in (folder, *folder.parents) if not entry.exists()]):
        with contextlib.suppress(FileExistsError):
            entry.mkdir()
            made.append(entry)
    folder.mkdir(parents=True, exist_ok=True)


def _is_file(path: pathlib.Path, descriptor: int) -> bool:
    """Whether a name still stands for the file that is open."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except OSError:  # its folder is gone, or may not be looked into any more
        return False


def _holder(descriptor: int) -> tuple[str, str]:
    """What is done under a lock and by whom, from what the file says: that is written a moment after it is taken."""
    for _ in range(3):
        try:
            record = parse_json(os.pread(descriptor, 1 << 16, 0))
            since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record["since"]))
            who = f"host {record['host']}, pid {record['pid']}, since {since}, by {record['command']}"
            return str(record["what"]), who
        except (OSError, ValueError, TypeError, KeyError, OverflowError):
            time.sleep(0.05)
    return "process", "it has not said yet who it is"


def _in_use(path: pathlib.Path, field: str, what: str, who: str, remedy: str) -> str:
    return (
        f"{field}: another {what} is working in '{path.parent}' ({who}); {remedy}. If its machine is gone for good, "
        f"delete {path}"
    )


def _local_locks(folder: pathlib.Path) -> str | None:
    """The kind of a network file system whose locks are known to end at this machine; None otherwise."""
    try:
        text = pathlib.Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return None
    return local_locks(text, os.path.realpath(folder))


def local_locks(mounts: str, folder: str) -> str | None:
    """The kind of file system of a folder, and the option, by which its locks end at this machine; None otherwise.

    Args:
        mounts: Content of `/proc/self/mounts`.
        folder: An absolute path.

    >>> local_locks("server:/runs /runs nfs rw,nolock,vers=3 0 0", "/runs/a")
    'nfs, nolock'
    """
    best, found = "", None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        place = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), fields[1]).rstrip("/")
        # Of several mounts in one place the last one counts.
        if (folder == place or folder.startswith(place + "/")) and len(place) >= len(best):
            best, found = place, (fields[2], fields[3].split(","))
    if found is None:
        return None
    kind, options = found
    local = {"nolock", "local_lock=all", "local_lock=posix"} if kind.startswith("nfs") else set()
    if kind == "lustre":
        local = {"localflock"}
    if kind in ("cifs", "smb3"):
        local = {"nobrl"}
    if kind in ("gfs2", "ocfs2"):
        local = {"localflocks"}
    if named := sorted(local & set(options)):
        return f"{kind}, {named[0]}"
    remote = ("sshfs", "s3fs", "gcsfuse", "rclone", "goofys", "mountpoint-s3", "blobfuse", "blobfuse2", "s3backer")
    return kind if kind.startswith("fuse.") and kind.removeprefix("fuse.").lower() in remote else None
