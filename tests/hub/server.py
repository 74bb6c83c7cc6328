"""A model hub on the loopback address, small enough to break: repositories in memory, faults on request.

It answers what `huggingface_hub` asks of a hub for a download (metadata, a redirect to another host, ranges) and for a
push, and notes every request. `write_cache` puts files into a folder as a download would have left them.
"""

import base64
import contextlib
import dataclasses
import hashlib
import http.server
import json
import os
import threading
import urllib.parse
from collections.abc import Iterator, Mapping

SIGNATURE = "X-Signature=secret-of-the-store"
LARGE = 200  # bytes from which a file is stored as a large one, known by its SHA-256


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def etag(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest() if len(content) >= LARGE else git_hash(content)


@dataclasses.dataclass
class Repository:
    """Files by commit, commits by branch; who may read, and what goes wrong."""

    commits: dict[str, dict[str, bytes]] = dataclasses.field(default_factory=dict)
    branches: dict[str, str] = dataclasses.field(default_factory=dict)
    token: str | None = None
    gated: bool = False
    licence: str = "mit"

    def commit(self, files: Mapping[str, bytes], branch: str = "main") -> str:
        known = self.commits.get(self.branches.get(branch, ""), {})
        sha = hashlib.sha1(f"{len(self.commits)} {branch} {sorted(files)}".encode()).hexdigest()
        self.commits[sha] = {**known, **files}
        self.branches[branch] = sha
        return sha


@dataclasses.dataclass
class Hub:
    """What the server serves.

    Attributes:
      repositories: by `OWNER/REPO`.
      requests: method, path and authorization of every request so far.
      breaks: downloads that end after so many bytes, one number each, from the next one on.
      wrong: downloads from now on that come with another byte.
      status: what every request is answered with, if anything.
    """

    url: str = ""
    repositories: dict[str, Repository] = dataclasses.field(default_factory=dict)
    requests: list[tuple[str, str, str]] = dataclasses.field(default_factory=list)
    breaks: list[int] = dataclasses.field(default_factory=list)
    wrong: int = 0
    status: int | None = None

    def repository(self, name: str, files: Mapping[str, bytes], **options) -> Repository:
        self.repositories[name] = Repository(**options)
        self.repositories[name].commit(files)
        return self.repositories[name]

    def downloads(self) -> list[str]:
        return [path for method, path, _ in self.requests if method == "GET" and path.startswith("/store/")]


def _handler(hub: Hub) -> type[http.server.BaseHTTPRequestHandler]:
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            return

        def _answer(self, status: int, content: bytes = b"", **headers):
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name.replace("_", "-"), value)
            if "Content_Length" not in headers:
                self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        def _json(self, value, status: int = 200):
            self._answer(status, json.dumps(value).encode(), Content_Type="application/json")

        def do_HEAD(self):
            self._get()

        def do_GET(self):
            self._get()

        def _get(self):
            quoted = urllib.parse.urlsplit(self.path).path
            parts = [urllib.parse.unquote(part) for part in quoted.strip("/").split("/")]
            hub.requests.append((self.command, f"/{'/'.join(parts)}", self.headers.get("Authorization", "")))
            if hub.status:
                return self._answer(hub.status)
            if parts[0] == "store":
                return self._store("/".join(parts[1:3]), parts[3], "/".join(parts[4:]))
            api = parts[:2] == ["api", "models"]
            name = "/".join(parts[2:4] if api else parts[:2])
            repository = hub.repositories.get(name)
            if repository is None:
                return self._answer(404 if self.headers.get("Authorization") else 401, X_Error_Code="RepoNotFound")
            if repository.gated and not self._allowed(repository):
                return self._answer(403, X_Error_Code="GatedRepo")
            if not self._allowed(repository):
                return self._answer(401, X_Error_Code="RepoNotFound")
            rest = parts[4:] if api else parts[2:]
            revision = rest[1] if len(rest) > 1 else "main"
            commit = revision if revision in repository.commits else repository.branches.get(revision)
            if commit is None:
                return self._answer(404, X_Error_Code="RevisionNotFound")
            files = repository.commits[commit]
            if api:
                return self._json(_info(name, commit, files, repository))
            file = "/".join(rest[2:])
            if file not in files:
                return self._answer(404, X_Error_Code="EntryNotFound", X_Repo_Commit=commit)
            # Elsewhere, so that a token must not be sent along.
            store = hub.url.replace("127.0.0.1", "localhost")
            content, where = files[file], urllib.parse.quote(f"/store/{name}/{commit}/{file}")
            linked = {"X_Linked_Etag": f'"{etag(content)}"', "X_Linked_Size": str(len(content))}
            return self._answer(302, X_Repo_Commit=commit, Location=f"{store}{where}?{SIGNATURE}", **linked)

        def _allowed(self, repository: Repository) -> bool:
            return repository.token is None or self.headers.get("Authorization") == f"Bearer {repository.token}"

        def _store(self, name: str, commit: str, file: str):
            content = hub.repositories[name].commits[commit][file]
            if hub.wrong and self.command == "GET":
                hub.wrong -= 1
                content = bytes([content[0] ^ 1]) + content[1:]
            start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
            rest, span = content[start:], f"bytes {start}-{len(content) - 1}/{len(content)}"
            if self.command == "GET" and hub.breaks:
                self.send_response(206 if start else 200)
                self.send_header("Content-Length", str(len(rest)))
                self.send_header("Content-Range", span)
                self.end_headers()
                self.wfile.write(rest[: hub.breaks.pop(0)])
                self.wfile.flush()
                self.close_connection = True
                return None
            ranged = {"Content_Range": span} if start else {}
            return self._answer(206 if start else 200, rest, ETag=f'"{etag(content)}"', **ranged)

        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            path = urllib.parse.unquote(urllib.parse.urlsplit(self.path).path)
            hub.requests.append(("POST", path, self.headers.get("Authorization", "")))
            if not self.headers.get("Authorization"):
                return self._answer(401)
            parts = path.strip("/").split("/")
            if path == "/api/repos/create":
                asked = json.loads(body)
                name = f"{asked.get('organization') or 'me'}/{asked['name']}"
                hub.repository(name, {".gitattributes": b""})
                hub.repositories[name].licence = (
                    "private" if asked.get("private") or asked.get("visibility") == "private" else ""
                )
                return self._json({"url": f"{hub.url}/{name}"})
            name, verb = "/".join(parts[2:4]), parts[4]
            if verb == "preupload":
                files = [
                    {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False}
                    for f in json.loads(body)["files"]
                ]
                return self._json({"files": files})
            if verb == "branch":
                repository = hub.repositories[name]
                repository.branches["/".join(parts[5:])] = repository.branches["main"]
                return self._json({})
            lines = [json.loads(line) for line in body.splitlines()]
            files = {
                line["value"]["path"]: base64.b64decode(line["value"]["content"])
                for line in lines
                if line["key"] == "file"
            }
            sha = hub.repositories[name].commit(files, "/".join(parts[5:]))
            return self._json({"success": True, "commitOid": sha, "commitUrl": f"{hub.url}/{name}/commit/{sha}"})

    return Handler


def _info(name: str, commit: str, files: Mapping[str, bytes], repository: Repository) -> dict:
    siblings = []
    for file, content in files.items():
        entry = {"rfilename": file, "size": len(content), "blobId": git_hash(content)}
        if len(content) >= LARGE:
            entry["lfs"] = {"sha256": etag(content), "size": len(content), "pointerSize": 130}
        siblings.append(entry)
    tags = [f"license:{repository.licence}"]
    return {"id": name, "sha": commit, "siblings": siblings, "tags": tags, "private": False, "gated": False}


@contextlib.contextmanager
def serving() -> Iterator[Hub]:
    hub = Hub()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def write_cache(cache, name: str, commit: str, files: Mapping[str, bytes], branch: str = "main") -> None:
    """Files of a commit as `huggingface_hub` keeps them."""
    folder = cache / f"models--{name.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / branch).write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    for file, content in files.items():
        blob, link = folder / "blobs" / etag(content), folder / "snapshots" / commit / file
        blob.write_bytes(content)
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
