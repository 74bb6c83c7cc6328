"""Addresses `hf://OWNER/REPO[@REVISION][/FILE]` of a model hub, and the cache on disk of what was got from it."""

import dataclasses
import hashlib
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path

from ditask_jax.errors import ConfigError, WeightsError
from ditask_jax.files import user_path

_HUB = re.compile(r"\s*hf:/", re.IGNORECASE)
_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,94}[A-Za-z0-9])?"
# `pathlib` leaves one slash of two.
_GRAMMAR = re.compile(
    rf"\s*hf://?(?P<repo>{_NAME}/{_NAME})(?:@(?P<revision>[A-Za-z0-9._%-]+))?(?:/(?P<file>[^\s@:\\][^@:\\]*?))?/?\s*",
    re.IGNORECASE,
)
COMMIT = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_TOKEN = re.compile(r"hf_[A-Za-z0-9]{20,}")
_EXPECTED = "expected hf://OWNER/REPO[@REVISION][/FILE], as in hf://timm/swin_tiny_patch4_window7_224.ms_in22k"
BRANCH = "main"
INDEX = "model.safetensors.index.json"


@dataclasses.dataclass(frozen=True)
class HubAddress:
    """A file, a folder or a whole repository of models on a hub.

    Attributes:
      repo: `OWNER/REPO`.
      revision: a branch, a tag or a commit; None: the branch `main`.
      file: path inside the repository; "": not said.

    >>> address = HubAddress.parse("hf://timm/pvt_v2_b2.in1k@main/model.safetensors")
    >>> address.repo, address.revision, address.file, address.is_pinned
    ('timm/pvt_v2_b2.in1k', 'main', 'model.safetensors', False)
    >>> str(HubAddress("timm/pvt_v2_b2.in1k"))
    'hf://timm/pvt_v2_b2.in1k'
    """

    repo: str
    revision: str | None = None
    file: str = ""

    @classmethod
    def parse(cls, text: str | os.PathLike, what: str = "weights") -> "HubAddress":
        """The address that a text stands for.

        Raises:
          ConfigError: it is none; what looks like a token in it is not repeated.
        """
        text = os.fsdecode(text)
        match = _GRAMMAR.fullmatch(text)
        shown = hide_tokens(text.strip())
        if match is None or shown != text.strip():
            raise ConfigError(f"{what}: '{shown}' is no address on a hub, {_EXPECTED}")
        repo, file = match["repo"], match["file"] or ""
        if repo.partition("/")[0].lower() in ("datasets", "spaces", "models", "buckets"):
            raise ConfigError(f"{what}: '{shown}': only repositories of models are read, {_EXPECTED}")
        if not all(part.strip(".") for part in file.split("/")) and file:
            raise ConfigError(f"{what}: '{shown}': '{file}' is no path inside a repository, {_EXPECTED}")
        revision = match["revision"]
        return cls(repo, revision and revision.replace("%2F", "/").replace("%2f", "/"), file)

    def __str__(self) -> str:
        revision = "" if self.revision is None else f"@{self.revision.replace('/', '%2F')}"
        return f"hf://{self.repo}{revision}" + (f"/{self.file}" if self.file else "")

    @property
    def name(self) -> str:
        """The repository without its owner, by which released weights are known."""
        return self.repo.partition("/")[2]

    @property
    def is_pinned(self) -> bool:
        """Whether it stands for the same bytes for ever: commit and file are said."""
        return bool(self.file) and COMMIT.fullmatch(self.revision or "") is not None

    @property
    def page(self) -> str:
        """Where a person finds the repository."""
        return f"{endpoint() or 'https://huggingface.co'}/{self.repo}"


def is_hub(text: str | os.PathLike | None) -> bool:
    """Whether a text is meant as an address on a hub.

    >>> is_hub("hf://timm/x"), is_hub("x.safetensors"), is_hub(None)
    (True, False, False)
    """
    return text is not None and _HUB.match(os.fsdecode(text)) is not None


def hide_tokens(text: str) -> str:
    """A text without what looks like a token in it.

    >>> hide_tokens("hf://me:hf_abcdefghijklmnopqrstuvwxyz@x")
    'hf://me:hf_...@x'
    """
    return _TOKEN.sub("hf_...", text)


def local_or_hub(text: str | os.PathLike, what: str = "path") -> Path | HubAddress:
    """What a user means where a file may lie here or on a hub; other URLs are refused as `files.user_path` does."""
    return HubAddress.parse(text, what) if is_hub(text) else user_path(text, what)


# The cache, in the layout that `huggingface_hub` documents: `refs/BRANCH` holds a commit, `snapshots/COMMIT/FILE` is a
# link to `blobs/HASH`, where the hash is SHA-256 for large files and Git's for small ones.


@dataclasses.dataclass(frozen=True)
class HubFile:
    """A file that has been got.

    Attributes:
      address: with commit and file.
      path: where it lies here.
      sha256: of its bytes.
    """

    address: HubAddress
    path: Path
    sha256: str


def cache_folder() -> Path:
    """`HF_HUB_CACHE`, else `HF_HOME/hub`, else `XDG_CACHE_HOME/huggingface/hub`, else `~/.cache/huggingface/hub`."""
    for name, below in (("HF_HUB_CACHE", ""), ("HF_HOME", "hub"), ("XDG_CACHE_HOME", "huggingface/hub")):
        if value := os.environ.get(name):
            return user_path(os.path.expandvars(value), f"environment: {name}") / below
    return user_path("~/.cache/huggingface/hub", "cache of huggingface_hub")


def endpoint() -> str | None:
    """The hub's own address, of the library's variable `HF_ENDPOINT`; None: the usual one."""
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


def offline() -> bool:
    """Whether `HF_HUB_OFFLINE` (or `TRANSFORMERS_OFFLINE`) keeps this process off the network."""
    asked = os.environ.get("HF_HUB_OFFLINE") or os.environ.get("TRANSFORMERS_OFFLINE") or ""
    return asked.upper() in ("1", "ON", "YES", "TRUE")


def cached(address: HubAddress) -> HubFile | None:
    """What is in the cache of an address, checked, without asking anybody; None for nothing, or not the whole of it.

    Raises:
      WeightsError: it is damaged.
    """
    found = snapshot_of(address)
    if found is None:
        return None
    pinned, folder = found
    path, digest = folder / pinned.file, ""
    for part in (path, *(path.with_name(name) for name in shards_of(path))):
        if not part.is_file():
            return None
        digest, wanted = hashes_of(part)
        if digest != wanted:
            raise WeightsError(
                f"weights: '{part}', a copy of {pinned}, is damaged: its hash is {digest[:12]}, expected "
                f"{wanted[:12]}; delete it, and it is fetched again"
            )
    # The link of a large file names this very hash: it need not be taken again.
    whole = part is path and _SHA256.fullmatch(digest)
    return HubFile(pinned, path, digest if whole else sha256_of(path))


def sha256_of(path: Path) -> str:
    """SHA-256 of a file; of an index, of the files that it names too, in their order.

    Raises:
      OSError: it cannot be read.
    """
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    for name in shards_of(path):
        digest.update(sha256_of(path.with_name(name)).encode())
    return digest.hexdigest()


def repository_folder(address: HubAddress) -> Path:
    """The part of the cache that is a repository's."""
    return cache_folder() / f"models--{address.repo.replace('/', '--')}"


def snapshot_of(address: HubAddress) -> tuple[HubAddress, Path] | None:
    """The address with commit and file, and the folder of that commit; None where the cache does not have it."""
    revision = address.revision or BRANCH
    if not COMMIT.fullmatch(revision):
        try:
            revision = (repository_folder(address) / "refs" / revision).read_text(encoding="utf-8").strip()
        except OSError:
            return None
    folder = repository_folder(address) / "snapshots" / revision
    names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*")) if path.is_file()]
    try:
        file = weights_among(address, names)
    except WeightsError:
        return None
    return (dataclasses.replace(address, revision=revision, file=file), folder) if file in names else None


def weights_among(address: HubAddress, names: Iterable[str]) -> str:
    """The file of weights in a repository, by the names of its files.

    Raises:
      WeightsError: there is none, or it must be said which.
    """
    names = list(names)
    if address.file:
        return address.file
    for usual in ("model.safetensors", INDEX):
        if usual in names:
            return usual
    here = [name for name in names if name.endswith(".safetensors") and "/" not in name]
    if len(here) == 1:
        return here[0]
    # A pickle is opened where a person has named it, and nowhere else.
    others = [name for name in names if name.endswith((".safetensors", ".pth", ".pt", ".bin", ".ckpt"))]
    known = f"it has {' '.join(others[:8])}" if others else "it has none that could be weights"
    kind = "several" if here else "no"
    raise WeightsError(f"weights: {address} holds {kind} .safetensors files; name the file, {address}/FILE ({known})")


def shards_of(path: Path) -> list[str]:
    """Files that an index of weights names, relative to the repository or folder of the index; [] for another file."""
    if not path.name.endswith(".index.json"):
        return []
    try:
        names = sorted(set(dict(json.loads(path.read_bytes())["weight_map"]).values()))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return []  # whoever reads it says what is wrong
    return [name for name in names if isinstance(name, str) and Path(name).name == name]


def file_sha256(path: Path) -> str:
    """SHA-256 of a file's own bytes, an index or not."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hashes_of(path: Path) -> tuple[str, str]:
    """The hash of a cached file's bytes, and the one that its link names; equal where that names none."""
    blob = Path(os.readlink(path)).name if path.is_symlink() else ""
    if _SHA256.fullmatch(blob):
        return file_sha256(path), blob
    if COMMIT.fullmatch(blob):
        content = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest(), blob
    return blob, blob


def discard(path: Path) -> None:
    """Takes a file out of the cache, and its link."""
    for entry in (path.resolve(), path):
        entry.unlink(missing_ok=True)
