"""A web site on loopback with images and, on request, cut connections, wrong content, redirects and missing files."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from kdump_harness.images.catalog import Image
from kdump_harness.images.download import make_client

CONTENT = b"QFI\xfb" + bytes(range(256)) * 4096  # 1 MiB and a little: several chunks
NEWER = b"QFI\xfb" + bytes(reversed(range(256))) * 4096
PATIENT = make_client(attempts=3, pause_s=0.0)


class Site:
    """A web site and its faults; requests has the received requests."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.redirects: dict[str, str] = {}
        self.statuses: dict[str, list[int]] = {}  # answered first, in this order
        self.cuts: list[int] = []  # bytes after which the next transfers of an image break off
        self.document_cuts: list[int] = []  # the same for checksum documents
        self.ranges = True
        self.lengths = True
        self.kinds: dict[str, str] = {}  # content types by path
        self.before: Callable[[str], None] = lambda path: None
        self.requests: list[tuple[str, str, str | None]] = []
        self.url = ""

    def publish(self, content: bytes, *, name: str = "demo.qcow2", promised: bytes | None = None) -> None:
        """Put an image on the site and the digest of promised (or of the image itself) into its listing."""
        self.files[f"/{name}"] = content
        digest = hashlib.sha256(content if promised is None else promised).hexdigest()
        self.files["/SHA256SUMS"] = f"{digest}  {name}\n".encode()

    def asked(self, path: str = "/demo.qcow2", method: str = "GET") -> list[str | None]:
        """The Range headers of the requests for a path."""
        return [span for verb, at, span in self.requests if (verb, at) == (method, path)]


class Handler(http.server.BaseHTTPRequestHandler):
    site: Site

    def do_HEAD(self) -> None:
        self.answer(with_body=False)

    def do_GET(self) -> None:
        self.answer(with_body=True)

    def answer(self, *, with_body: bool) -> None:
        site, path = self.site, self.path
        site.requests.append((self.command, path, self.headers.get("Range")))
        site.before(path)
        if statuses := site.statuses.get(path):
            return self.send_error(statuses.pop(0))
        if path in site.redirects:
            self.send_response(302)
            self.send_header("Location", site.redirects[path])
            return self.end_headers()
        body = site.files.get(path)
        if body is None:
            return self.send_error(404)
        start, end = 0, len(body)
        if site.ranges and (span := self.headers.get("Range")):
            first, _, last = span.removeprefix("bytes=").partition("-")
            start, end = int(first), int(last) + 1 if last else end
            if start >= len(body):
                return self.send_error(416)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(body)}")
        else:
            self.send_response(200)
        if site.lengths:
            self.send_header("Content-Length", str(end - start))
        if kind := site.kinds.get(path):
            self.send_header("Content-Type", kind)
        self.end_headers()
        if with_body:
            if cuts := site.cuts if path.endswith(".qcow2") else site.document_cuts:
                end = start + cuts.pop(0)
            self.wfile.write(body[start:end])
        return None

    def log_message(self, *args: Any) -> None:
        pass


class Server(http.server.ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError):  # a client that hangs up is expected
            super().handle_error(request, client_address)


@contextlib.contextmanager
def serve() -> Iterator[Site]:
    """Provide a site with CONTENT."""
    site = Site()
    server = Server(("127.0.0.1", 0), type("Handler", (Handler,), {"site": site}))
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=lambda: server.serve_forever(poll_interval=0.01))
    thread.start()
    site.publish(CONTENT)
    try:
        yield site
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def make_image(base: str, **changes: Any) -> Image:
    row = {
        "name": "demo-1",
        "family": "debian",
        "release": "1",
        "login": "demo",
        "url": f"{base}/demo.qcow2",
        "checksums": f"{base}/SHA256SUMS",
    }
    return Image(**{**row, **changes})


def by_hand() -> Image:
    return make_image("", url="", checksums="", file="rhel-9.*-x86_64-kvm.qcow2", manual="the customer portal")


def name_of(content: bytes, suffix: str = ".qcow2") -> str:
    return f"sha256-{hashlib.sha256(content).hexdigest()}{suffix}"


def start_partial(cache: Path, content: bytes, size_bytes: int) -> None:
    """Write the partial file of an interrupted download."""
    (cache / "demo-1").mkdir(parents=True)
    (cache / "demo-1" / name_of(CONTENT, ".part")).write_bytes(content[:size_bytes])


def closed_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{probe.getsockname()[1]}"
