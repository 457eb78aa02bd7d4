"""A hub on this machine: as much of the API as huggingface_hub asks for, every byte counted, made to misbehave."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

FILE = re.compile(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)")
API = re.compile(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree|preupload|commit|branch)/([^/]+))?/?")
BATCH = re.compile(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch")
PIECE = 1 << 16


def git_hash(data: bytes) -> str:
    """Forty digits, as git names commits and files."""
    return hashlib.sha256(data).hexdigest()[:40]


@dataclass
class Repo:
    """Files by commit, commits by branch."""

    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def commit(self, files: dict[str, bytes], branch: str = "main") -> str:
        before = self.branches.get(branch, "")
        content = before + "".join(f"{name}{git_hash(data)}" for name, data in sorted(files.items()))
        sha = git_hash(content.encode())
        self.commits[sha] = files
        self.branches[branch] = sha
        return sha

    def resolved(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.branches.get(revision)


@dataclass
class Hub:
    """The repositories of a running server, and what was asked of it."""

    endpoint: str = ""
    repos: dict[str, Repo] = field(default_factory=dict)
    served: Counter[str] = field(default_factory=Counter)
    """Bytes of content by `org/name/file`."""
    asked: list[str] = field(default_factory=list)
    """Method and path of every request."""
    denied: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Repositories whose files are refused: with which status and which error code."""
    breaking: Counter[str] = field(default_factory=Counter)
    """How many more times the connection breaks in the middle of `org/name/file`."""
    extra: list[dict[str, Any]] = field(default_factory=list)
    """What a hostile server adds to every listing."""
    slow: float = 0.0
    """Seconds between pieces of content."""
    ranges: bool = True
    uploads: dict[str, bytes] = field(default_factory=dict)
    private: dict[str, Any] = field(default_factory=dict)
    """What `create` said of each repository's visibility."""

    def add(self, name: str, directory: Path) -> str:
        """A repository with the files of a directory; its commit."""
        files = {path.relative_to(directory).as_posix(): path for path in sorted(directory.rglob("*"))}
        content = {file: path.read_bytes() for file, path in files.items() if path.is_file()}
        return self.repos.setdefault(name, Repo()).commit(content)

    def weights_served(self) -> int:
        """Bytes of safetensors files that left the server."""
        return sum(count for file, count in self.served.items() if file.endswith(".safetensors"))


class Handler(BaseHTTPRequestHandler):
    """One request."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path_asked()
        if match := FILE.fullmatch(path):
            self.file(*match.groups())
        elif match := API.fullmatch(path):
            self.listing(*match.groups())
        else:
            self.answer(404, {}, code="EntryNotFound")

    def do_POST(self) -> None:
        path = self.path_asked()
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if path == "/api/repos/create":
            said = json.loads(body)
            name = f"{said['organization']}/{said['name']}"
            self.hub.private[name] = said.get("visibility", said.get("private"))
            known = name in self.hub.repos
            if not known:
                self.hub.repos[name] = Repo()
                self.hub.repos[name].commit({".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"})
            self.answer(409 if known else 200, {"url": f"{self.hub.endpoint}/{name}"})
        elif path == "/api/validate-yaml":
            self.answer(200, {"errors": [], "warnings": []})
        elif match := BATCH.fullmatch(path):
            self.batch(json.loads(body))
        elif match := API.fullmatch(path):
            name, what, revision = match.groups()
            getattr(self, what)(self.hub.repos[name], unquote(revision), body)
        else:
            self.answer(404, {}, code="EntryNotFound")

    def do_PUT(self) -> None:
        name = self.path_asked().removeprefix("/upload/")
        if self.hub.slow:
            threading.Event().wait(100 * self.hub.slow)
        self.hub.uploads[name] = self.rfile.read(int(self.headers["Content-Length"]))
        self.answer(200, {})

    def path_asked(self) -> str:
        self.hub.asked.append(f"{self.command} {self.path}")
        return urlsplit(self.path).path

    def answer(self, status: int, body: Any, *, code: str | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        if code is not None:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def commit_asked(self, name: str, revision: str | None) -> tuple[Repo, str] | None:
        """The repository and commit; where there is none, that is answered."""
        repo = self.hub.repos.get(name)
        commit = repo.resolved(unquote(revision or "main")) if repo else None
        if repo is None:
            self.answer(404, {}, code="RepoNotFound")
        elif commit is None:
            self.answer(404, {}, code="RevisionNotFound")
        else:
            return repo, commit
        return None

    def listing(self, name: str, what: str | None, revision: str | None) -> None:
        found = self.commit_asked(name, revision)
        if found is None:
            return
        repo, commit = found
        files = repo.commits[commit]
        if what != "tree":
            siblings = [{"rfilename": file} for file in files]
            self.answer(200, {"id": name, "sha": commit, "siblings": siblings, "private": False, "tags": []})
            return
        rows: list[dict[str, Any]] = []
        for file, data in files.items():
            row = {"type": "file", "path": file, "size": len(data), "oid": git_hash(data)}
            if file.endswith(".safetensors"):
                row["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 100}
            rows.append(row)
        self.answer(200, rows + self.hub.extra)

    def file(self, name: str, revision: str, file: str) -> None:
        if name in self.hub.denied:
            status, code = self.hub.denied[name]
            self.answer(status, {}, code=code or None)
            return
        found = self.commit_asked(name, revision)
        if found is None:
            return
        repo, commit = found
        data = repo.commits[commit].get(unquote(file))
        if data is None:
            self.answer(404, {}, code="EntryNotFound")
            return
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        first, end = 0, len(data)
        if asked and self.hub.ranges:
            first, end = int(asked[1]), min(len(data), int(asked[2] or len(data)) + 1)
        self.send_response(206 if asked and self.hub.ranges else 200)
        self.send_header("ETag", f'"{hashlib.sha256(data).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.send_header("Accept-Ranges", "bytes")
        if self.hub.ranges and asked:
            self.send_header("Content-Range", f"bytes {first}-{end - 1}/{len(data)}")
        self.send_header("Content-Length", str(end - first))
        self.end_headers()
        if self.command != "HEAD":
            self.send_content(f"{name}/{unquote(file)}", data[first:end])

    def send_content(self, name: str, data: bytes) -> None:
        breaks = self.hub.breaking[name] > 0 and len(data) > PIECE
        for at in range(0, len(data), PIECE):
            if breaks and at >= len(data) // 2:
                self.hub.breaking[name] -= 1
                self.close_connection = True
                return
            if self.hub.slow:
                threading.Event().wait(self.hub.slow)
            try:
                self.wfile.write(data[at : at + PIECE])
            except ConnectionError:
                self.close_connection = True
                return
            self.hub.served[name] += len(data[at : at + PIECE])

    def preupload(self, _: Repo, __: str, body: bytes) -> None:
        files = [one["path"] for one in json.loads(body)["files"]]
        modes = {True: "lfs", False: "regular"}
        rows = [{"path": file, "uploadMode": modes[file.endswith(".safetensors")]} for file in files]
        self.answer(200, {"files": [{**row, "shouldIgnore": False} for row in rows]})

    def batch(self, said: dict[str, Any]) -> None:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.hub.endpoint}/upload/{one['oid']}"}}}
            for one in said["objects"]
        ]
        self.answer(200, {"transfer": "basic", "objects": objects})

    def branch(self, repo: Repo, name: str, _: bytes) -> None:
        known = name in repo.branches
        if not known:
            repo.branches[name] = repo.branches["main"]
        self.answer(409 if known else 200, {})

    def commit(self, repo: Repo, branch: str, body: bytes) -> None:
        files = dict(repo.commits.get(repo.branches.get(branch, ""), {}))
        for line in body.splitlines():
            one = json.loads(line)
            key, value = one["key"], one["value"]
            if key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.uploads[value["oid"]]
            elif key == "deletedFile":
                files.pop(value["path"])
        commit = repo.commit(files, branch)
        name = next(name for name, one in self.hub.repos.items() if one is repo)
        self.answer(200, {"commitUrl": f"{self.hub.endpoint}/{name}/commit/{commit}", "commitOid": commit})


@contextmanager
def running() -> Iterator[Hub]:
    """A hub that answers until the block ends."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("OfHub", (Handler,), {"hub": hub}))
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
