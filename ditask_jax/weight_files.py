"""Safetensors as NumPy arrays, and weight files that carry a hash per tensor."""

import hashlib
import json
import re
import shlex
import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import safetensors.numpy
from safetensors import SafetensorError

from ditask_jax.errors import WeightsError, did_you_mean, format_number
from ditask_jax.files import atomic_write_bytes, user_path

# Safetensors files as NumPy arrays, every floating type included, without PyTorch.


DTYPES: dict[str, np.dtype] = {
    name: np.dtype(kind)
    for name, kind in {
        "F64": np.float64,
        "F32": np.float32,
        "F16": np.float16,
        "BF16": ml_dtypes.bfloat16,
        "I64": np.int64,
        "I32": np.int32,
        "I16": np.int16,
        "I8": np.int8,
        "U64": np.uint64,
        "U32": np.uint32,
        "U16": np.uint16,
        "U8": np.uint8,
        "BOOL": np.bool_,
    }.items()
}
_NAMES = {kind: name for name, kind in DTYPES.items()}
_HEADER_SIZE = 8
SAFETENSORS, PYTORCH = "a safetensors file", "a PyTorch file"
# The table of contents of weights in several safetensors files, which lie beside it.
INDEX, INDEX_SUFFIX = "the index of weights in several files", ".safetensors.index.json"
# How files begin that are given for weights by mistake, and what they are.
_BINARY = {
    b"\x89HDF\r\n": "an HDF5 file, as Keras writes them",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "compressed (gzip): unpack it first",
    b"BZh": "compressed (bzip2): unpack it first",
    b"\xfd7zXZ": "compressed (xz): unpack it first",
}
_TEXTS = {
    b"version https://git-lfs": "the pointer that Git LFS leaves in place of a file: run git lfs pull",
    b"<": "a web page or XML and not what was to be fetched: fetch it again",
    b"{": "JSON text, perhaps the index of weights in several files (a name that ends in .safetensors.index.json)",
    b"[": "JSON text",
}
_ZIP = b"PK\x03\x04"


def file_kind(path: Path) -> str | None:
    """What a file is, from its first bytes: `SAFETENSORS`, `PYTORCH`, another kind in words, or None: it does not say.

    JSON whose name ends as the names of indices do is `INDEX`.

    >>> import tempfile
    >>> with tempfile.NamedTemporaryFile() as file:
    ...     _ = file.write(encode_tensors({"a": np.arange(3)}, {})), file.flush()
    ...     file_kind(Path(file.name))
    'a safetensors file'
    """
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError:
        return None
    size = int.from_bytes(head[:_HEADER_SIZE], "little")
    if head[_HEADER_SIZE : _HEADER_SIZE + 1] == b"{" and size <= path.stat().st_size:
        return SAFETENSORS
    if head.startswith(_ZIP):
        return _zip_kind(path)
    # Pickles of protocols 2 to 5, which PyTorch's older format begins with.
    if head[:1] == b"\x80" and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05") and head[2:3] not in (b"", b"\0"):
        return PYTORCH
    if head.lstrip().startswith(b"{") and path.name.endswith(INDEX_SUFFIX):
        return INDEX
    if head[257:262] == b"ustar":
        return "a tar archive: unpack it first"
    # A safetensors file that is cut off begins with the size of its header, which has zero bytes; a text has none.
    known = _BINARY if b"\0" in head[:_HEADER_SIZE] else _BINARY | _TEXTS
    return next((kind for beginning, kind in known.items() if head.lstrip().startswith(beginning)), None)


def _zip_kind(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, struct.error, OSError, ValueError, NotImplementedError, UnicodeDecodeError):
        return PYTORCH  # cut off or damaged: most weights in such archives are PyTorch's
    if names and all(name.endswith(".npy") for name in names):
        return "a NumPy archive (.npz)"
    return PYTORCH if any(name.endswith("data.pkl") for name in names) else "a zip archive: unpack it first"


def read_tensors(path: Path, where: str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and metadata of a safetensors file.

    The library checks the header: its size, the ranges of all tensors, and that they fill the file exactly.

    Args:
      path: the file.
      where: its name, for errors.

    Returns:
      Read-only arrays, and the text entries of the header, both in order of name.

    Raises:
      WeightsError: not readable, truncated, damaged, or with numbers of a type that NumPy cannot hold.
    """
    try:
        with safetensors.safe_open(path, framework="np") as file:
            kinds = {name: file.get_slice(name).get_dtype() for name in sorted(file.keys())}
            strange = [f"{name} ({kind})" for name, kind in kinds.items() if kind not in DTYPES]
            if strange:
                raise WeightsError(
                    f"{where} holds {len(strange)} tensors of types that are not read: {', '.join(strange[:4])}. "
                    f"Known: {' '.join(DTYPES)}"
                )
            arrays = {name: file.get_tensor(name) for name in kinds}
            metadata = dict(sorted((file.metadata() or {}).items()))
    except OSError as error:
        raise WeightsError(f"{where} cannot be read ({error.strerror or error})") from None
    except (SafetensorError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"{where} is damaged or no safetensors file ({reason}); fetch it again") from None
    for array in arrays.values():
        array.flags.writeable = False
    return arrays, metadata


def index_files(path: Path, where: str) -> dict[str, list[str]]:
    """The files beside an index of weights, by name, each with the tensors that the index promises of it.

    Raises:
      WeightsError: it is damaged, or names a file that is not there or does not lie beside it.
    """
    try:
        listed = dict(json.loads(path.read_text(encoding="utf-8"))["weight_map"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        listed = {}
    if not listed or not all(isinstance(file, str) for file in listed.values()):
        raise WeightsError(f"{where} has no usable weight_map, which says what is in which file; fetch it again")
    files: dict[str, list[str]] = {}
    for tensor, file in listed.items():
        files.setdefault(file, []).append(tensor)
    for file in files:
        if not _PART.fullmatch(file) or not file.endswith(".safetensors"):
            raise WeightsError(
                f"{where} names {file[:80]!r}, expected the name of a .safetensors file in its own folder"
            )
        if not (path.parent / file).is_file():
            raise WeightsError(f"{where} names '{file}', which is not beside it; fetch it too")
    return files


def read_sharded(path: Path, where: str) -> dict[str, np.ndarray]:
    """Arrays of an index of weights: those of its files, each promised by the index.

    Raises:
      WeightsError: the index or a file is damaged, or they do not belong together.
    """
    arrays, missing, unexpected = {}, [], []
    for file, promised in sorted(index_files(path, where).items()):
        found, _ = read_tensors(path.parent / file, f"{where}: '{file}'")
        missing += sorted(set(promised) - set(found))
        unexpected += sorted(set(found) - set(promised))
        arrays |= {name: found[name] for name in promised if name in found}
    problems = some("missing from their files", missing) + some("without a place in the index", unexpected)
    if problems:
        raise WeightsError(f"{where} and its files do not belong together: {'; '.join(problems)}; fetch them again")
    return arrays


def encode_tensors(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str]) -> bytes:
    """The content of a safetensors file; equal arrays and metadata give equal bytes.

    >>> content = encode_tensors({"a": np.arange(3, dtype=ml_dtypes.bfloat16)}, {"note": "x"})
    >>> content[8:43]
    b'{"__metadata__":{"note":"x"},"a":{"'
    """
    # The library takes the memory of an array for its content, whether it lies in C order or not.
    plain = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in plain.items():
        if array.dtype not in _NAMES:
            raise TypeError(f"tensor '{name}' is {array.dtype}, which a safetensors file cannot hold")
    content = safetensors.numpy.save(plain)
    # Metadata goes in afterwards: the library (0.8) writes it in the order of a hash table, another in every process.
    end = _HEADER_SIZE + int.from_bytes(content[:_HEADER_SIZE], "little")
    header = {"__metadata__": dict(metadata)} if metadata else {}
    header |= json.loads(content[_HEADER_SIZE:end])
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()
    text += b" " * (-len(text) % _HEADER_SIZE)
    return b"".join([len(text).to_bytes(_HEADER_SIZE, "little"), text, memoryview(content)[end:]])


# Our weight files: safetensors with our names, a description, and a hash for every tensor; read strictly.
#
# Names, types, shapes and numbers of each tensor have a hash of their own, and the description, hashes included, has
# one too: nothing in a file can change unnoticed, and an error says which tensor it is.


FORMAT = "ditask_jax/weights/2"
# One checksum over all arrays and none over the description.
FIRST_FORMAT = "ditask_jax/weights/1"
_PART = re.compile(r"[A-Za-z0-9_.-]+")
_SHOWN = 4


def tensor_hash(name: str, array: np.ndarray) -> str:
    """SHA-256 over a tensor's name, type, shape and bytes.

    >>> tensor_hash("a", np.zeros(2)) == tensor_hash("a", np.zeros(2)) != tensor_hash("a", np.zeros((1, 2)))
    True
    """
    digest = hashlib.sha256()
    _update(digest, name, array)
    return digest.hexdigest()


def checksum(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 over names, dtypes, shapes and bytes of arrays, in order of name.

    >>> checksum({"a": np.zeros(2)}) == checksum({"a": np.zeros(2)}) != checksum({"b": np.zeros(2)})
    True
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        _update(digest, name, arrays[name])
    return digest.hexdigest()


def write_weights(path: Path | str, arrays: Mapping[str, np.ndarray], **metadata: str) -> None:
    """Writes arrays, their hashes and a description atomically.

    Args:
      path: the file; a symbolic link is replaced, not followed.
      arrays: by `/`-joined path; every type that a safetensors file can hold keeps its bits.
      metadata: texts by name; `format`, `hashes` and `checksum` are taken.

    Raises:
      OSError: the file cannot be written; an older one is then untouched.
    """
    bad = [name for name in arrays if not _is_path(name)]
    if bad or metadata.keys() & {"format", "hashes", "checksum"}:
        raise ValueError(f"names that a weight file cannot hold: {bad or sorted(metadata)}")
    hashes = {name: tensor_hash(name, np.asarray(array)) for name, array in sorted(arrays.items())}
    # Readers of safetensors take UTF-8 alone; the name of a file may be none.
    texts = {name: text.encode("utf-8", "replace").decode() for name, text in metadata.items()}
    described = {"format": FORMAT, "hashes": json.dumps(hashes, separators=(",", ":"), allow_nan=False), **texts}
    described["checksum"] = _describe(described)
    atomic_write_bytes(path, encode_tensors(arrays, described))


def read_weights(path: Path | str) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Arrays and description of a weight file.

    Raises:
      WeightsError: missing, truncated, of a foreign layout, or with numbers that do not match their hashes; all
        damaged tensors are named.
    """
    path = user_path(path, "weights")
    if not path.is_file():
        near = did_you_mean(path.name, sorted(p.name for p in path.parent.glob("*.safetensors")))
        raise WeightsError(f"weights: no file '{path}'. {near}; give backbone.weights an existing .safetensors file")
    where = f"weights: '{path}'"
    kind = file_kind(path)
    if kind in (PYTORCH, INDEX):
        are = "are" if kind == INDEX else "is"
        raise WeightsError(f"{where} is {kind} that {are} not converted yet; {_conversion(path)}")
    if kind not in (None, SAFETENSORS):
        raise WeightsError(f"{where} is {kind}; expected a file that python -m ditask_jax.convert wrote")
    arrays, metadata = read_tensors(path, where)
    found = metadata.get("format", "unknown")
    if found == FIRST_FORMAT:
        if metadata.get("checksum") != checksum(arrays):
            raise WeightsError(f"{where} is damaged: its numbers do not match its checksum; fetch it again")
        return arrays, metadata
    if found != FORMAT:
        if found.startswith("ditask_jax/"):
            format_number(found, FORMAT, where, WeightsError)
        raise WeightsError(
            f"{where} is a safetensors file of another program (format '{found}'): it was not written by this package; "
            f"{_conversion(path)}"
        )
    _verify(arrays, metadata, where)
    return arrays, {name: text for name, text in metadata.items() if name != "hashes"}


def _conversion(path: Path) -> str:
    """What to do about a file of another code base: the very command."""
    stem = path.name.removesuffix(INDEX_SUFFIX)
    while stem.lower().endswith((".pth", ".pt", ".bin", ".ckpt", ".tar", ".safetensors")):
        stem = stem[: stem.rindex(".")]
    out = path.with_name(f"{stem or 'weights'}.safetensors")
    if out.exists():
        out = path.with_name(f"{stem or 'weights'}.ditask.safetensors")
    names = " ".join(shlex.quote(str(name)) for name in (path, out))
    return f"run python -m ditask_jax.convert {names} and give {shlex.quote(str(out))} as weights"


def _verify(arrays: Mapping[str, np.ndarray], metadata: Mapping[str, str], where: str) -> None:
    described = {name: text for name, text in metadata.items() if name != "checksum"}
    if metadata.get("checksum") != _describe(described):
        raise WeightsError(f"{where} is damaged: its description does not match its checksum; fetch it again")
    try:
        hashes = dict(json.loads(metadata["hashes"]).items())
    except (KeyError, ValueError, AttributeError, RecursionError):
        raise WeightsError(f"{where} has no usable list of hashes; it was not written by this package") from None
    missing, unexpected = sorted(set(hashes) - set(arrays)), sorted(set(arrays) - set(hashes))
    damaged = [name for name in sorted(set(hashes) & set(arrays)) if tensor_hash(name, arrays[name]) != hashes[name]]
    problems = some("missing", missing) + some("unexpected", unexpected) + some("with other numbers", damaged)
    if problems:
        raise WeightsError(f"{where} is damaged: {'; '.join(problems)}; fetch it again")


def some(kind: str, names: list[str], limit: int = _SHOWN) -> list[str]:
    """`["2 missing: a, b"]`, cut to the first names; empty for none.

    >>> some("missing", ["a", "b", "c"], limit=2)
    ['3 missing: a, b and 1 more']
    """
    if not names:
        return []
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return [f"{len(names)} {kind}: {', '.join(names[:limit])}{more}"]


def _is_path(name: str) -> bool:
    """Whether every part of a `/`-joined name is a plain word: no empty ones, no `..`."""
    return all(_PART.fullmatch(part) and part.strip(".") for part in name.split("/"))


def _describe(described: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(dict(described), sort_keys=True, allow_nan=False).encode()).hexdigest()


def _update(digest, name: str, array: np.ndarray) -> None:
    array = np.asarray(array)
    digest.update(json.dumps([name, str(array.dtype), list(array.shape)], allow_nan=False).encode())
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
