"""A hub of models on an address of this machine, for the real client to talk to.

It knows the few addresses that downloads and uploads of models use, keeps files in memory, and
can be told to fail. Large files go by git LFS: it does not speak Xet, as few mirrors do.
"""

import base64
import contextlib
import hashlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

Files = Mapping[str, bytes]
Answer = tuple[int, Mapping[str, str], bytes]
Fault = Callable[["Asked"], Answer | None]
"""What is answered in place of the truth; None: nothing, the request goes on."""

CUT = 0
"""A status that no server has: the connection ends before the promised length has been sent."""


@dataclass
class Repository:
    """Files by commit, and the names of commits."""

    private: bool = False
    gated: bool = False
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)
    names: dict[str, str] = field(default_factory=dict)
    messages: list[str] = field(default_factory=list)

    def commit(self, files: Files, *, message: str = "", branch: str = "main") -> str:
        oid = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[oid], self.names[branch] = dict(files), oid
        self.messages.append(message)
        return oid

    def files(self, revision: str = "main") -> dict[str, bytes]:
        return self.commits[self.resolve(revision) or ""]

    def resolve(self, revision: str) -> str | None:
        return revision if revision in self.commits else self.names.get(revision)


@dataclass(frozen=True)
class Asked:
    """A request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def token(self) -> str:
        return self.headers.get("authorization", "").removeprefix("Bearer ")


@dataclass
class Hub:
    """What the server holds, and what it was asked.

    Attributes:
        writers: tokens that may write, with the owners they may write for; others are unknown.
        readers: tokens that may read everything.
        faults: tried in order before a request is answered.
    """

    address: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    writers: dict[str, set[str]] = field(default_factory=dict)
    readers: set[str] = field(default_factory=set)
    blobs: dict[str, bytes] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    asked: list[Asked] = field(default_factory=list)
    shut: Callable[[], None] = lambda: None

    def add(self, name: str, files: Files, *, private: bool = False, gated: bool = False) -> str:
        """Put a repository of one commit there; returns the commit."""
        self.repositories[name] = Repository(private, gated)
        return self.repositories[name].commit(files)

    def fetched(self) -> list[str]:
        """Names of the files whose content was asked for, in order."""
        return [
            one.path.rpartition("/")[2]
            for one in self.asked
            if one.method == "GET" and "/resolve/" in one.path
        ]

    def answer(self, asked: Asked) -> Answer:
        self.asked.append(asked)
        found = (fault(asked) for fault in self.faults)
        return next((answer for answer in found if answer is not None), None) or self.truth(asked)

    def truth(self, asked: Asked) -> Answer:
        """What is answered where nothing fails."""
        if asked.token and asked.token not in self.readers | set(self.writers):
            return _refused(401, message="Invalid credentials in Authorization header")
        parts = [unquote(part) for part in asked.path.strip("/").split("/")]
        match parts:
            case ["api", "repos", "create"]:
                return self._create(asked)
            case ["api", "validate-yaml"]:
                return _json({"errors": [], "warnings": []})
            case ["lfs", oid] if asked.method == "PUT":
                self.blobs[oid] = asked.body
                return 200, {}, b""
            case ["api", "models", owner, short, *rest]:
                return self._of_model(f"{owner}/{short}", rest, asked)
            case [owner, short, "resolve", revision, *file]:
                return self._file(f"{owner}/{short}", revision, "/".join(file), asked)
            case [owner, short, "info", "lfs", "objects", "batch"]:
                return self._batch(json.loads(asked.body))
        return _refused(404)

    def _create(self, asked: Asked) -> Answer:
        wanted = json.loads(asked.body)
        name = f"{wanted['organization']}/{wanted['name']}"
        if wanted["organization"] not in self.writers.get(asked.token, ()):
            return _refused(403, message="You don't have the rights to create a model there")
        page = {"url": f"{self.address}/{name}"}
        if name in self.repositories:
            return _json({"error": "You already created this model repo", **page}, status=409)
        self.add(name, {".gitattributes": b""}, private=wanted.get("visibility") == "private")
        return _json(page)

    def _of_model(self, name: str, rest: list[str], asked: Asked) -> Answer:
        repository = self._visible(name, asked)
        if repository is None:
            return _refused(404 if asked.token else 401, code="RepoNotFound")
        match rest:
            case []:
                return self._info(name, repository, "main")
            case ["revision", revision]:
                return self._info(name, repository, revision)
            case ["tree", revision]:
                listed = repository.files(revision)
                return _json([{"type": "file", "path": path, "size": len(content), "oid": "0" * 40}
                              for path, content in listed.items()])  # fmt: skip
            case ["preupload", _]:
                return _json({"files": [_mode(one) for one in json.loads(asked.body)["files"]]})
            case ["commit", _]:
                return self._commit(name, repository, asked)
        return _refused(404)

    def _visible(self, name: str, asked: Asked) -> Repository | None:
        repository = self.repositories.get(name)
        if repository is None or (repository.private and not asked.token):
            return None
        return repository

    def _info(self, name: str, repository: Repository, revision: str) -> Answer:
        oid = repository.resolve(revision)
        if oid is None:
            return _refused(404, code="RevisionNotFound")
        siblings = [_listed(path, content) for path, content in repository.commits[oid].items()]
        found = {"id": name, "modelId": name, "sha": oid, "private": repository.private}
        return _json({**found, "siblings": siblings, "tags": [], "downloads": 0, "likes": 0})

    def _file(self, name: str, revision: str, file: str, asked: Asked) -> Answer:
        repository = self._visible(name, asked)
        if repository is None:
            return _refused(404 if asked.token else 401, code="RepoNotFound")
        if repository.gated and asked.token not in self.readers:
            return _refused(403 if asked.token else 401, code="GatedRepo")
        oid = repository.resolve(revision)
        content = None if oid is None else repository.commits[oid].get(file)
        if oid is None or content is None:
            return _refused(404, code="EntryNotFound")
        headers = {"X-Repo-Commit": oid, "ETag": f'"{_sha256(content)}"'}
        headers |= {"X-Linked-Size": str(len(content)), "Content-Type": "application/octet-stream"}
        start = asked.headers.get("range", "").removeprefix("bytes=").rstrip("-")
        if not start:
            return 200, headers, content
        span = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return 206, {**headers, "Content-Range": span}, content[int(start) :]

    def _batch(self, wanted: dict[str, Any]) -> Answer:
        objects = [
            {**one, "actions": {"upload": {"href": f"{self.address}/lfs/{one['oid']}"}}}
            for one in wanted["objects"]
        ]
        return _json({"transfer": "basic", "objects": objects})

    def _commit(self, name: str, repository: Repository, asked: Asked) -> Answer:
        if name.partition("/")[0] not in self.writers.get(asked.token, ()):
            return _refused(403, message="This token may only read")
        files, message = repository.files(), ""
        for line in asked.body.splitlines():
            item = json.loads(line)
            value = item["value"]
            match item["key"]:
                case "header":
                    message = value["summary"]
                case "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                case "lfsFile":
                    files[value["path"]] = self.blobs[value["oid"]]
                case "deletedFile":
                    del files[value["path"]]
        oid = repository.commit(files, message=message)
        page = f"{self.address}/{name}/commit/{oid}"
        return _json({"success": True, "commitOid": oid, "commitUrl": page})


def failing(status: int, part: str, *, times: int = 1_000, method: str = "") -> Fault:
    """Answer requests for an address that holds `part` with a status, so many times."""
    left = [times]

    def fault(asked: Asked) -> Answer | None:
        if part not in asked.path or left[0] == 0 or method not in {"", asked.method}:
            return None
        left[0] -= 1
        return _refused(status, message=f"status {status} by order")

    return fault


def cutting(hub: Hub, file: str, *, after: int) -> Fault:
    """Send the first bytes of a file and end the connection, once."""
    left = [1]

    def fault(asked: Asked) -> Answer | None:
        if not _fetches(asked, file) or left[0] == 0:
            return None
        left[0] -= 1
        _, headers, content = hub.truth(asked)
        return CUT, {**headers, "Content-Length": str(len(content))}, content[:after]

    return fault


def damaging(hub: Hub, file: str) -> Fault:
    """Send a file of the right length with other bytes."""

    def fault(asked: Asked) -> Answer | None:
        if not _fetches(asked, file):
            return None
        status, headers, content = hub.truth(asked)
        return status, headers, bytes(len(content))

    return fault


def holding(file: str, until: threading.Event) -> Fault:
    """Let whoever fetches a file wait."""

    def fault(asked: Asked) -> Answer | None:
        if _fetches(asked, file):
            until.wait(60)
        return None

    return fault


def _fetches(asked: Asked, file: str) -> bool:
    return asked.method == "GET" and asked.path.endswith(f"/{file}")


def _listed(path: str, content: bytes) -> dict[str, Any]:
    entry: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": "0" * 40}
    if _mode({"path": path})["uploadMode"] == "lfs":
        entry["lfs"] = {"sha256": _sha256(content), "size": len(content), "pointerSize": 130}
    return entry


def _mode(file: Mapping[str, str]) -> dict[str, Any]:
    mode = "lfs" if Path(file["path"]).suffix in {".safetensors", ".bin"} else "regular"
    return {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _json(value: Any, *, status: int = 200) -> Answer:
    return status, {"Content-Type": "application/json"}, json.dumps(value).encode()


def _refused(status: int, *, code: str = "", message: str = "") -> Answer:
    headers = {"X-Error-Code": code} if code else {}
    headers |= {"X-Error-Message": message} if message else {}
    return status, headers, b""


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def _do(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            headers = {name.lower(): value for name, value in self.headers.items()}
            path = urlsplit(self.path).path.replace(".git/", "/")
            status, found, content = hub.answer(Asked(self.command, path, headers, body))
            self.send_response(status or 200)
            for name, value in ({"Content-Length": str(len(content))} | dict(found)).items():
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(content)

        do_GET = do_HEAD = do_POST = do_PUT = _do  # noqa: N815 names of the standard library

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    return Handler


@contextlib.contextmanager
def running_hub() -> Iterator[Hub]:
    """Bring a hub up; `shut` ends it early."""
    hub = Hub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.address = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=[0.02])
    thread.start()

    def shut() -> None:
        server.shutdown()
        server.server_close()

    hub.shut = shut
    try:
        yield hub
    finally:
        shut()
        thread.join()
