"""A Hugging Face hub in this process, as far as huggingface_hub asks one for models.

Large files are redirected to a store on another host, which knows ranges, as the real hub does with LFS files.
"""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants

LARGE = (".safetensors", ".gguf", "tokenizer.json")


@dataclass
class Repository:
    files: dict[str, bytes]
    gated: int = 0  # the status with which files are refused to those without the token "let-me-in"
    revision: str = "main"

    @property
    def commit(self) -> str:
        names = sorted((name, hashlib.sha1(data).hexdigest()) for name, data in self.files.items())
        return hashlib.sha1(json.dumps(names).encode()).hexdigest()


@dataclass
class Hub:
    url: str = ""
    repositories: dict[str, Repository] = field(default_factory=dict)
    unknown: int = 404  # the status of repositories that are not there; the real hub says 401 to those not logged in
    served: dict[str, bytes] = field(default_factory=dict)  # file name → other bytes than were published
    drop_after: dict[str, int] = field(default_factory=dict)  # file name → bytes after which to hang up, once
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)  # method, file or path, Range

    def add(self, name: str, folder: Path, **said: Any) -> Repository:
        files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
        self.repositories[name] = Repository(files, **said)
        return self.repositories[name]

    def fetched(self) -> set[str]:
        """The files whose content was asked for."""
        return {name for method, name, _ in self.requests if method == "GET" and not name.startswith("/api/")}


def git_blob(data: bytes) -> str:
    return hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def point_client_at(hub: Hub, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub, whose settings were read when it was imported, asks `hub` and keeps things in `folder`."""
    template = hub.url + "/{repo_id}/resolve/{revision}/{filename}"
    for name, value in {
        "ENDPOINT": hub.url, "HUGGINGFACE_CO_URL_TEMPLATE": template, "HF_HUB_CACHE": str(folder / "hub"),
        "HF_TOKEN_PATH": str(folder / "token"), "HF_HUB_OFFLINE": False,
    }.items():  # fmt: skip
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    monkeypatch.delenv("HF_TOKEN", raising=False)


@contextmanager
def running_hub() -> Iterator[Hub]:
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def log_message(self, *args: object) -> None:
            pass

        def answer(self) -> None:
            parts = [unquote(part) for part in urlsplit(self.path).path.split("/")[1:]]
            if parts[0] == "store":
                repository = hub.repositories["/".join(parts[1:3])]
                self.send_file("/".join(parts[3:]), repository)
                return
            api = parts[:2] == ["api", "models"]
            name = "/".join(parts[2:4] if api else parts[:2])
            if api:
                hub.requests.append((self.command, self.path, None))
            repository = hub.repositories.get(name)  # type: ignore[assignment]
            if repository is None:
                self.send(hub.unknown, {"X-Error-Code": "RepoNotFound"})
                return
            said = parts[5] if api else parts[3]
            if said not in (repository.revision, repository.commit):
                self.send(404, {"X-Error-Code": "RevisionNotFound"})
            elif api and parts[4] == "revision":
                self.send_json(self.info(name, repository))
            elif api and parts[4] == "tree":
                self.send_json(self.tree(repository))
            elif (file := "/".join(parts[4:])) not in repository.files:
                self.send(404, {"X-Error-Code": "EntryNotFound"})
            elif repository.gated and self.headers.get("Authorization") != "Bearer let-me-in":
                self.send(repository.gated, {"X-Error-Code": "GatedRepo"})
            else:
                self.resolve(name, file, repository)

        def info(self, name: str, repository: Repository) -> Any:
            siblings = []
            for file, data in repository.files.items():
                facts = {"rfilename": file, "size": len(data), "blobId": git_blob(data)}
                if file.endswith(LARGE):
                    facts["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
                siblings.append(facts)
            return {"id": name, "sha": repository.commit, "siblings": siblings, "gated": bool(repository.gated)}

        def tree(self, repository: Repository) -> Any:
            listed = []
            for file, data in repository.files.items():
                facts = {"type": "file", "path": file, "size": len(data), "oid": git_blob(data)}
                if file.endswith(LARGE):
                    facts["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 134}
                listed.append(facts)
            return listed

        def resolve(self, name: str, file: str, repository: Repository) -> None:
            data = repository.files[file]
            about = {"X-Repo-Commit": repository.commit}
            if file.endswith(LARGE):
                about |= {
                    "X-Linked-Size": str(len(data)),
                    "X-Linked-ETag": f'"{hashlib.sha256(data).hexdigest()}"',
                    "Location": hub.url.replace("127.0.0.1", "localhost") + f"/store/{name}/{file}",
                }
                self.send(302, about)
            else:
                self.send_file(file, repository, about | {"ETag": f'"{git_blob(data)}"'})

        def send_file(self, file: str, repository: Repository, about: dict[str, str] | None = None) -> None:
            asked = self.headers.get("Range")
            hub.requests.append((self.command, file, asked))
            data = hub.served.get(file, repository.files[file])
            start = int(asked.removeprefix("bytes=").split("-")[0]) if asked else 0
            headers = {"ETag": '"x"', "Content-Length": str(len(data) - start)} | (about or {})
            if asked:
                headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.send(206 if asked else 200, headers)
            if self.command == "HEAD":
                return
            if file in hub.drop_after:
                self.wfile.write(data[start : start + hub.drop_after.pop(file)])
                self.close_connection = True
                return
            self.wfile.write(data[start:])

        def send_json(self, data: Any) -> None:
            body = json.dumps(data).encode()
            self.send(200, {"Content-Type": "application/json", "Content-Length": str(len(body))})
            if self.command == "GET":
                self.wfile.write(body)

        def send(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in ({"Content-Length": "0"} | headers).items():
                self.send_header(name, value)
            self.end_headers()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
