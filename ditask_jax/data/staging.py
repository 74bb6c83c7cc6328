"""Where a set grows, shard by shard: what a killed preparation has finished is kept, and nothing else of it.

    WORKING/progress.json     what the set is made of, and per finished shard its size, hash and counts
    WORKING/set/              the shards; at the very end the descriptions too, and then the folder gets its final name

A shard counts as finished once it stands in `progress.json`, which is written after the shard itself. The next
preparation keeps it if it still has its hash and the files it was made from have not changed since.
"""

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from ditask_jax.data.prepared import hash_file
from ditask_jax.errors import DataError
from ditask_jax.files import atomic_write_json

FORMAT = "ditask_jax preparation, 1"
Say = Callable[[str], None]


class Staging:
    """The shards of a set that is being prepared.

    Args:
      working: folder of this preparation; made where it is missing.
      wish: plain data that says what is made, from what and by which program; shards of another wish are removed.
      say: told what is kept and what is not, a line at a time.
    """

    def __init__(self, working: Path, wish: dict[str, Any], say: Say) -> None:
        self.folder = working / "set"
        self._journal = working / "progress.json"
        self._wish = wish
        self._say = say
        self._shards = self._left_behind(working)
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in self.folder.iterdir():
            if path.name not in self._shards:
                path.unlink()
        self._write_journal()

    @property
    def num_kept(self) -> int:
        """Shards that stand in the journal; `keep` has yet to verify them."""
        return len(self._shards)

    def keep(self, name: str, sources: str) -> dict[str, Any] | None:
        """The journal's entry of a shard if it is whole and its `sources` are as they were, else None."""
        entry = self._shards.get(name)
        if entry is None:
            return None
        path = self.folder / name
        if entry["sources"] != sources:
            reason = "the files it was made from have changed"
        elif not path.is_file() or path.stat().st_size != entry["bytes"] or hash_file(path) != entry["sha256"]:
            reason = "it is damaged"
        else:
            return entry
        self._say(f"preparing shard {name} anew: {reason}")
        del self._shards[name]
        self._write_journal()
        return None

    def write(self, name: str, sources: str, records: Iterable[bytes], skipped: dict[str, str]) -> dict[str, Any]:
        """Writes a shard and its entry in the journal, which is returned.

        Args:
          name: of the shard's file.
          sources: see `digest`.
          records: serialised examples.
          skipped: filled by `records` on the way: id -> why it was left out.
        """
        from array_record.python.array_record_module import ArrayRecordWriter

        path, count, payload = self.folder / name, 0, 0
        writer = ArrayRecordWriter(str(path), "group_size:1")
        try:
            for record in records:
                writer.write(record)
                count, payload = count + 1, payload + len(record)
        except BaseException:
            with contextlib.suppress(RuntimeError):  # what went wrong first is what matters
                writer.close()
            raise
        try:
            writer.close()
        except RuntimeError as error:  # a full disk, for example, which writing to the writer's buffer does not meet
            raise DataError(f"data: {path} cannot be written: {str(error).splitlines()[0]}") from error
        with path.open("rb") as file:
            os.fsync(file.fileno())
        entry = {
            "bytes": path.stat().st_size,
            "sha256": hash_file(path),
            "examples": count,
            "payload": payload,
            "skipped": dict(skipped),
            "sources": sources,
        }
        self._shards[name] = entry
        self._write_journal()
        return entry

    def _left_behind(self, working: Path) -> dict[str, dict]:
        """Entries of the finished shards of a preparation of the same wish; the folder of any other is removed."""
        if not working.exists():
            return {}
        try:
            journal = json.loads(self._journal.read_text(encoding="utf-8"))
            found, shards = dict(journal["wish"]), dict(journal["shards"])
        except (OSError, ValueError, KeyError, TypeError):
            reason = "it does not say what it has finished"
        else:
            different = [key for key in {**self._wish, **found} if found.get(key) != self._wish.get(key)]
            if not different:
                return shards
            reason = f"it was made with other {different[0].replace('_', ' ')}"
        self._say(f"removing what an interrupted preparation left in {working}: {reason}")
        shutil.rmtree(working)
        return {}

    def _write_journal(self) -> None:
        atomic_write_json(self._journal, {"wish": self._wish, "shards": self._shards})


def digest(root: Path, paths: Sequence[Path]) -> str:
    """A hash of names (below `root`), sizes and times of change of files, missing ones included."""
    lines = []
    for path in paths:
        try:
            found = path.stat()
            lines.append(f"{os.path.relpath(path, root)} {found.st_size} {found.st_mtime_ns}")
        except (FileNotFoundError, NotADirectoryError):
            lines.append(f"{os.path.relpath(path, root)} missing")
        except OSError as error:
            raise DataError(f"data: {path} cannot be read: {error.strerror or error}") from error
    return hash_text("\n".join(lines))


def hash_text(text: str) -> str:
    """SHA-256 of a text, as hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
