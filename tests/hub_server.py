"""A Hugging Face Hub in miniature, on 127.0.0.1: enough of its API for the real huggingface_hub to talk to.

Large files are redirected to a second host name, as the Hub does, and the server can be told to fail: drop a
connection after so many bytes, stall, refuse, or answer nonsense.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

COMMIT = "0123456789abcdef0123456789abcdef01234567"
LARGE_FROM = 1_000_000


@dataclass(frozen=True)
class Seen:
    """A request, as the server saw it."""

    method: str
    path: str
    host: str
    range: str | None
    token: str | None


@dataclass
class Hub:
    """Repositories, and what shall go wrong."""

    repos: dict[str, dict[str, bytes]] = field(default_factory=dict)
    seen: list[Seen] = field(default_factory=list)
    port: int = 0
    status: int | None = None
    """Answer everything with this."""
    gated: set[str] = field(default_factory=set)
    private: set[str] = field(default_factory=set)
    """Seen only with a token."""
    nonsense: bool = False
    """Answer everything with a page of HTML, as a hotel's network does."""
    drops: list[int] = field(default_factory=list)
    """The next downloads of large files end after so many bytes, one entry each."""
    stall_after: int | None = None
    """Downloads of large files send so many bytes, then nothing more."""
    declared: dict[str, int] = field(default_factory=dict)
    """Sizes to claim in the listing."""
    damage: bool = False
    """Send large files with one byte changed."""

    @property
    def url(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self.port}"

    def downloads(self) -> list[Seen]:
        """The requests for large files' contents."""
        return [seen for seen in self.seen if seen.method == "GET" and seen.path.startswith("/cdn/")]

    def fetched(self) -> set[str]:
        """Names of the files whose contents were asked for."""
        return {seen.path.rsplit("/", 1)[-1] for seen in self.seen if seen.method == "GET" and "/api/" not in seen.path}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Serve `hub` until the block ends."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(hub))
    server.daemon_threads = True
    hub.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _handler(hub: Hub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            path = unquote(urlsplit(self.path).path)
            host = (self.headers["Host"] or "").split(":")[0]
            hub.seen.append(Seen(self.command, path, host, self.headers["Range"], self.headers["Authorization"]))
            if hub.nonsense:
                self.answer(200, b"<html>Welcome! Please log in.</html>", {"Content-Type": "text/html"})
            elif hub.status:
                self.answer(hub.status)
            elif api := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
                if self.admitted(api[1], api[2] or "main"):
                    self.answer(200, json.dumps(_listing(hub, api[1])).encode())
            elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
                if self.admitted(found[1], found[2]):
                    self.resolve(found[1], found[3])
            elif found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
                self.send_large(hub.repos[found[1]][found[2]])
            else:
                self.answer(404)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, format: str, *args: object) -> None:
            pass

        def answer(self, status: int, body: bytes = b"", headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def admitted(self, repo: str, revision: str) -> bool:
            if repo not in hub.repos or (repo in hub.private and not self.headers["Authorization"]):
                self.answer(401, headers={"X-Error-Code": "RepoNotFound"})
            elif repo in hub.gated:
                self.answer(403, headers={"X-Error-Code": "GatedRepo"})
            elif revision not in ("main", COMMIT):
                self.answer(404, headers={"X-Error-Code": "RevisionNotFound"})
            else:
                return True
            return False

        def resolve(self, repo: str, name: str) -> None:
            body = hub.repos[repo].get(name)
            if body is None:
                self.answer(404, headers={"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            headers = {"X-Repo-Commit": COMMIT, "ETag": f'"{_blob(body)}"'}
            if len(body) < LARGE_FROM:
                start, stop = self.wanted(body)
                whole = (start, stop) == (0, len(body))
                self.answer(200 if whole else 206, body[start:stop], headers)
                return
            headers |= {"X-Linked-Etag": f'"{_sha256(body)}"', "X-Linked-Size": str(len(body))}
            headers["Location"] = f"http://localhost:{hub.port}/cdn/{repo}/{quote(name)}"
            self.answer(302, headers=headers)

        def wanted(self, body: bytes) -> tuple[int, int]:
            """Where what was asked for begins and ends."""
            asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers["Range"] or "bytes=0-")
            assert asked is not None
            return int(asked[1]), min(int(asked[2]) + 1, len(body)) if asked[2] else len(body)

        def send_large(self, body: bytes) -> None:
            if hub.damage:
                body = body[:-1] + bytes([body[-1] ^ 1])
            start, stop = self.wanted(body)
            self.send_response(206 if self.headers["Range"] else 200)
            if self.headers["Range"]:
                self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{len(body)}")
            self.send_header("Content-Length", str(stop - start))
            self.end_headers()
            if self.command == "HEAD":
                return
            limit = hub.drops.pop(0) if hub.drops else hub.stall_after
            rest = memoryview(body)[start:stop]
            self.wfile.write(rest[:limit])
            if limit is not None and limit < len(rest):
                if limit == hub.stall_after:
                    time.sleep(60)
                self.close_connection = True

    return Handler


def _listing(hub: Hub, repo: str) -> dict[str, object]:
    siblings: list[dict[str, object]] = []
    for name, body in hub.repos[repo].items():
        size = hub.declared.get(name, len(body))
        entry: dict[str, object] = {"rfilename": name, "size": size, "blobId": _blob(body)}
        if len(body) >= LARGE_FROM:
            entry["lfs"] = {"sha256": _sha256(body), "size": size, "pointerSize": 134}
        siblings.append(entry)
    return {"_id": "1", "id": repo, "modelId": repo, "sha": COMMIT, "private": False, "tags": [], "siblings": siblings}


@cache
def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


@cache
def _blob(body: bytes) -> str:
    """Git's name of a file's contents."""
    return hashlib.sha1(b"blob %d\0" % len(body) + body).hexdigest()
