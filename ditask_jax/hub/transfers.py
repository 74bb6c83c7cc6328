"""Getting files from a model hub and pushing files to it, by `huggingface_hub`.

The library does the transfers, and nothing else needs it: what is in its cache is read without it. It finds tokens by
itself (`HF_TOKEN`, or its login); here none is read, kept or shown.
"""

import contextlib
import dataclasses
import errno
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ditask_jax.errors import ConfigError, WeightsError, did_you_mean
from ditask_jax.files import locked
from ditask_jax.hub.addresses import (
    BRANCH,
    COMMIT,
    HubAddress,
    HubFile,
    cache_folder,
    cached,
    discard,
    endpoint,
    file_sha256,
    hashes_of,
    hide_tokens,
    offline,
    repository_folder,
    sha256_of,
    shards_of,
    snapshot_of,
    weights_among,
)

# Getting.


_PATIENCE = 6 * 3600.0
_MOST_BREAKS = 4
# Loggers of the library and of what it transfers by: their lines name addresses with signatures in them.
_TALKATIVE = ("huggingface_hub", "httpx", "httpx2", "httpcore", "httpcore2", "urllib3")
_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR)


class _Unreachable(WeightsError):
    """The hub was not asked or did not answer, which the cache may make up for; `told` says why, in a few words."""

    def __init__(self, text: str, told: str):
        super().__init__(text)
        self.told = told


@dataclasses.dataclass(frozen=True)
class _Listing:
    """What a hub says of a repository at a commit: by file size in bytes and SHA-256, None where it does not say."""

    commit: str
    files: Mapping[str, tuple[int | None, str | None]]
    licence: str = ""


def to_stderr(line: str) -> None:
    """Prints a line where nobody said what to do with it."""
    print(line, file=sys.stderr, flush=True)


def resolve(address: HubAddress) -> HubAddress:
    """The address with the commit that a branch has now, and with the file; nothing is downloaded.

    Raises:
      WeightsError: there is no such repository, revision or file, or the hub cannot be reached and the cache has none.
    """
    if address.is_pinned:
        return address
    try:
        listing = _list(address)
    except _Unreachable:
        if (found := snapshot_of(address)) is None:
            raise
        return found[0]
    return dataclasses.replace(address, revision=listing.commit, file=_existing(address, listing))


def fetch(address: HubAddress, say: Callable[[str], None] = to_stderr) -> HubFile:
    """Gets a file of weights, from the cache where that has it.

    A commit with a file is taken from the cache without asking the hub; of a branch the newest commit is asked for, and
    the cache serves where the hub cannot be reached. Of several processes on a machine one downloads, and the others
    wait for it. An index of weights brings the files that it names.

    Args:
      address: without a file, the repository's `.safetensors`.
      say: is called with a line before a download, and where the cache stands in for a hub that does not answer.

    Raises:
      WeightsError: it is not there, may not be read, did not come whole or not with its hash, or nobody can be asked.
      OSError: the disk is full, or the cache cannot be written.
    """
    if (found := _settled(address)) is not None:
        return found
    with _alone(address):
        try:
            listing = _list(address)
        except _Unreachable as problem:
            if (found := cached(address)) is None:
                raise
            if not address.is_pinned:
                say(f"weights: {address}: {problem.told}; taking commit {found.address.revision[:12]} from the cache")
            return found
        file = _existing(address, listing)
        path, commit = _get(address, file, listing, say)
        pinned = dataclasses.replace(address, revision=commit, file=file)
        for name in shards_of(path):
            part = dataclasses.replace(pinned, file=Path(file).with_name(name).as_posix())
            _get(part, _existing(part, listing), listing, say)
        return HubFile(pinned, path, sha256_of(path))


def fetch_folder(address: HubAddress, names: Iterable[str], what: str) -> dict[str, Path]:
    """Gets files that lie in one folder of a repository; the address names the folder.

    Args:
      address: the repository, and the folder in it unless that is its top.
      names: of the files.
      what: what they are, for messages.

    Returns:
      Paths by name, all of one commit.

    Raises:
      WeightsError, OSError: as `fetch`.
    """
    places = {name: dataclasses.replace(address, file=f"{address.file}/{name}".lstrip("/")) for name in names}
    found = {name: _settled(place) for name, place in places.items()}
    if None not in found.values():
        return {name: file.path for name, file in found.items()}
    with _alone(address):
        try:
            listing = _list(address, what)
        except _Unreachable:
            found = {name: cached(place) for name, place in places.items()}
            if None in found.values():
                raise
            return {name: file.path for name, file in found.items()}
        for place in places.values():
            _existing(place, listing, what)
        paths, revision = {}, address.revision
        for name, place in places.items():
            # Behind the first by its commit: a branch may move meanwhile.
            place = dataclasses.replace(place, revision=revision)
            paths[name], revision = _get(place, place.file, listing, lambda _: None, what)
        return paths


def _settled(address: HubAddress) -> HubFile | None:
    """A file whose commit is said, out of the cache; None where it is not there, or damaged, and is to be fetched."""
    if not address.is_pinned:
        return None
    try:
        return cached(address)
    except WeightsError:
        return None


def _existing(address: HubAddress, listing: _Listing, what: str = "weights") -> str:
    file = weights_among(address, listing.files)
    if file not in listing.files:
        repository = dataclasses.replace(address, file="")
        raise WeightsError(f"{what}: {repository}: no file '{file}'. {did_you_mean(file, sorted(listing.files)[:20])}")
    return file


def _get(
    address: HubAddress, file: str, listing: _Listing, say: Callable[[str], None], what: str = "weights"
) -> tuple[Path, str]:
    """One file and its commit, checked against the hash that the hub states; a wrong one is fetched once more."""
    pinned = dataclasses.replace(address, revision=listing.commit, file=file)
    size, stated = listing.files[file]
    digest, expected, wrong, broken = "", "", 0, 0
    while wrong < 2:
        if not broken and not (repository_folder(address) / "snapshots" / listing.commit / file).is_file():
            licence = f", licence {listing.licence}" if listing.licence else ""
            say(f"{what}: downloading {pinned}{'' if size is None else f', {size / 1e6:.1f} MB'}{licence}")
        try:
            with _asking(pinned, what) as hub:
                # By the branch's name: so the cache knows later, without a network, which commit it stood for.
                found = hub.hf_hub_download(
                    address.repo, file, revision=address.revision, cache_dir=cache_folder(), endpoint=endpoint()
                )
        except _Unreachable:
            # The hub answered a moment ago. Older versions of the library go on where a connection broke, when asked.
            broken += 1
            if broken > _MOST_BREAKS:
                raise
            continue
        path = Path(found)
        commit = path.parts[-1 - len(file.split("/"))]
        digest, expected = hashes_of(path)
        if stated not in (None, expected) and commit == listing.commit:
            digest, expected = file_sha256(path), stated
        if digest == expected:
            return path, commit
        discard(path)
        wrong += 1
    raise WeightsError(
        f"{what}: {pinned} came twice with hash {digest[:12]}, where the hub states {expected[:12]}: nothing of it was "
        "kept; try again later, or from another network"
    )


def _list(address: HubAddress, what: str = "weights") -> _Listing:
    with _asking(address, what) as hub:
        info = hub.HfApi(endpoint=endpoint()).model_info(address.repo, revision=address.revision, files_metadata=True)
    files = {
        entry.rfilename: (entry.size, getattr(entry.lfs, "sha256", None) if entry.lfs else None)
        for entry in info.siblings or ()
    }
    tags = [tag.partition(":")[2] for tag in info.tags or () if tag.startswith("license:")]
    return _Listing(info.sha, files, tags[0] if tags else "")


@contextlib.contextmanager
def _alone(address: HubAddress) -> Iterator[None]:
    """Entered by one process of a machine (or of a shared cache) at a time; others wait, for hours if need be.

    Where the cache cannot be written nothing is held: what is in it can be read all the same.
    """
    folder = cache_folder() / ".locks"
    with contextlib.ExitStack() as stack:
        try:
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / f"ditask-{address.repo.replace('/', '--')}.lock"
            wait = {"nested": True, "patience": _PATIENCE}
            stack.enter_context(locked(path, "weights", "download", "wait for it", WeightsError, **wait))
        except OSError as error:
            if error.errno not in _OF_THE_DISK:
                raise
        yield


# Pushing.


def push_files(
    folder: Path, names: Iterable[str], address: HubAddress, note: str, say: Callable[[str], None] = to_stderr
) -> HubAddress:
    """Puts files of a folder into a repository, in one commit; one that does not exist is made, private.

    Args:
      folder: where the files are.
      names: which of them.
      address: the repository; its file names the folder there, its revision the branch.
      note: message of the commit.
      say: is called with a line that says where they are.

    Returns:
      The address with the commit.

    Raises:
      WeightsError: the hub refuses it, or cannot be reached.
    """
    if COMMIT.fullmatch(address.revision or ""):
        raise ConfigError(f"adapter: push: {address} names a commit, which nothing can be put into; name a branch")
    with _asking(address, "adapter: push") as hub:
        api, made = hub.HfApi(endpoint=endpoint()), ""
        if not api.repo_exists(address.repo):
            api.create_repo(address.repo, private=True, exist_ok=True)
            made = ", made private: its page makes it public"
        if address.revision not in (None, BRANCH):
            api.create_branch(address.repo, branch=address.revision, exist_ok=True)
        files = [
            hub.CommitOperationAdd(f"{address.file}/{name}".lstrip("/"), str(folder / name)) for name in sorted(names)
        ]
        done = api.create_commit(address.repo, files, commit_message=note, revision=address.revision)
    pushed = dataclasses.replace(address, revision=done.oid)
    say(f"adapter: pushed to {pushed}{made}")
    return pushed


# The library, and what it raises.


def _bring(address: HubAddress, what: str) -> str:
    """What to do where there is no network."""
    if "push" in what:
        return "push the folder, which is written, once it can be"
    if what == "weights":
        at = f" at {address.revision}" if address.revision else ""
        file = f"{address.file or 'model.safetensors'} of {address.page}{at}"
        return f"without a network bring {file} to this machine and give its path as backbone.weights"
    return f"without a network bring the files of {address.page} to this machine and give their folder"


def check_fetchable(address: HubAddress) -> None:
    """Raises WeightsError where weights are not in the cache and this process has no means to fetch them.

    Asks nobody: whether they are on the hub is another question.
    """
    if snapshot_of(address) is None and (obstacle := _obstacle(address, "weights")) is not None:
        raise obstacle


def _obstacle(address: HubAddress, what: str) -> _Unreachable | None:
    absent = f"{what}: {address} is not in the cache {cache_folder()}, and"
    if offline():
        told = "HF_HUB_OFFLINE keeps this process off the network"
        return _Unreachable(f"{absent} {told}; unset it, or {_bring(address, what)}", told)
    if not _installed():
        told = "huggingface_hub, which transfers files, is not installed"
        return _Unreachable(f"{absent} {told}; pip install huggingface_hub, or {_bring(address, what)}", told)
    return None


def _installed() -> bool:
    try:
        return importlib.util.find_spec("huggingface_hub") is not None
    except (ImportError, ValueError):  # taken out of `sys.modules` by hand
        return False


@contextlib.contextmanager
def _asking(address: HubAddress, what: str) -> Iterator[Any]:
    """Hands over the library, quiet, and makes one line, without addresses that may hold secrets, of what it raises."""
    if (obstacle := _obstacle(address, what)) is not None:
        raise obstacle
    import huggingface_hub as hub
    from huggingface_hub import utils

    loggers = [logging.getLogger(name) for name in _TALKATIVE]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    # A bar that no terminal shows fills a log.
    quiet = not utils.are_progress_bars_disabled() and not sys.stderr.isatty()
    if quiet:
        utils.disable_progress_bars()
    try:
        yield hub
    except Exception as error:
        raise _problem(error, address, what) from None
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if quiet:
            utils.enable_progress_bars()


def _problem(error: Exception, address: HubAddress, what: str) -> Exception:
    """The one line for an error of the library; the error itself where it is a bug or one of the file system."""
    from huggingface_hub import errors as known

    where, token = f"{what}: {address}", "set HF_TOKEN to a token that may " + ("write" if "push" in what else "read")
    if isinstance(error, known.GatedRepoError):
        return WeightsError(f"{where}: access is gated: accept the terms on {address.page} and {token} it")
    if isinstance(error, known.RevisionNotFoundError):
        return WeightsError(f"{where}: no revision '{address.revision}'; {address.page} lists branches and tags")
    if isinstance(error, known.RepositoryNotFoundError):
        return WeightsError(f"{where}: no such repository, or a private one: check the name, or {token} it")
    if isinstance(error, known.RemoteEntryNotFoundError):
        return WeightsError(f"{where}: no file '{address.file}'; {address.page} lists what there is")
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return WeightsError(f"{where}: the hub refuses (status {status}): {token} it")
    if status is not None and status < 500 and status not in (408, 429):
        return WeightsError(f"{where}: the hub answers with status {status}: check the address")
    if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
        error.filename = error.filename or str(cache_folder())
        return error
    if isinstance(error, ValueError):
        return WeightsError(
            f"{where}: the hub takes no such address ({hide_tokens(' '.join(str(error).split()))[:120]})"
        )
    library = type(error).__module__.partition(".")[0]
    if status is None and not isinstance(error, OSError) and not library.startswith(("httpx", "requests")):
        return error
    told = f"the hub answers with status {status}" if status else f"the hub was not reached ({type(error).__name__})"
    if "Consistency check" in str(error):
        told = "only a part of it came"
    return _Unreachable(f"{where}: {told}; run the same command again, or {_bring(address, what)}", told)
