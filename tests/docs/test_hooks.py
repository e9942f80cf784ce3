"""The recipes for hooks, each tried against a receiver on this host."""

from __future__ import annotations

import base64
import json
import re
import shutil
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from history_factory import VERDICT, failed
from kdump_harness.schedule.hook import run_hook
from kdump_harness.schedule.jobs import Job
from kdump_harness.schedule.running import ScheduledResult, event_json

HOOKS = Path(__file__).parents[2] / "docs" / "hooks"
pytestmark = pytest.mark.skipif(
    shutil.which("curl") is None or shutil.which("jq") is None, reason="curl or jq is not installed"
)
JOB = Job("debian-12", ("debian-12", "--level", "1"))


@dataclass
class Receiver:
    """A web server that keeps what it gets."""

    got: list[tuple[str, str, dict[str, str], Any]] = field(default_factory=list)
    status: int = 200
    address: str = ""


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """A receiver on this host."""
    kept = Receiver()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            kept.got.append((self.command, self.path, dict(self.headers), body))
            self.send_response(kept.status)
            self.end_headers()

        do_PUT = do_POST  # noqa: N815

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        kept.address = f"http://127.0.0.1:{server.server_address[1]}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield kept
        server.shutdown()
        thread.join()


def _event(verdict: dict[str, Any], **changes: Any) -> dict[str, Any]:
    word = "verified" if verdict["verified"] else "failed"
    values: dict[str, Any] = {"word": word, "status": int(not verdict["verified"]), "said": 'it\'s "so" → $HOME'}
    result = ScheduledResult(image=JOB.subject, job=JOB.name, verdict=verdict, before="verified", **values | changes)
    return {"event": "change", **result.to_json()}


def _curl_file(tmp_path: Path, **options: str) -> Path:
    path = tmp_path / "hook.curl"
    path.write_text("".join(f'{name} = "{value}"\n' for name, value in options.items()))
    return path


def test_a_webhook_gets_the_whole_json_with_its_secret(tmp_path: Path, receiver: Receiver) -> None:
    file = _curl_file(tmp_path, url=f"{receiver.address}/kdump", header="Authorization: Bearer s3cret")
    event = _event(failed(1))
    assert run_hook(f"{HOOKS}/webhook.sh {file}", event) is None
    ((_, path, headers, body),) = receiver.got
    assert path == "/kdump"
    assert headers["Authorization"] == "Bearer s3cret"
    assert body == json.loads(json.dumps(event))


def test_a_receiver_that_refuses_is_a_failing_hook(tmp_path: Path, receiver: Receiver) -> None:
    receiver.status = 403
    file = _curl_file(tmp_path, url=receiver.address)
    for name in ("webhook.sh", "slack.sh"):
        trouble = run_hook(f"{HOOKS}/{name} {file}", _event(VERDICT))
        assert trouble is not None
        assert "403" in trouble


def test_slack_gets_the_line(tmp_path: Path, receiver: Receiver) -> None:
    file = _curl_file(tmp_path, url=f"{receiver.address}/services/T/B/x")
    event = _event(failed(1))
    assert run_hook(f"{HOOKS}/slack.sh {file}", event) is None
    ((_, path, _, body),) = receiver.got
    assert path == "/services/T/B/x"
    assert body == {"text": 'debian-12 --level 1: failed (before: verified): it\'s "so" → $HOME'}


def test_matrix_gets_a_message_in_the_room(tmp_path: Path, receiver: Receiver) -> None:
    file = _curl_file(tmp_path, header="Authorization: Bearer syt_x")
    event = event_json("start", JOB, "debian-12 --level 1: the drill starts")
    assert run_hook(f"{HOOKS}/matrix.sh {file} {receiver.address} '!a b:example.org'", event) is None
    ((method, path, headers, body),) = receiver.got
    assert method == "PUT"
    room = r"/_matrix/client/v3/rooms/(?:%21|!)a%20b%3Aexample\.org"
    assert re.fullmatch(rf"{room}/send/m\.room\.message/kdump-[\d-]+", path)
    assert headers["Authorization"] == "Bearer syt_x"
    assert body == {"msgtype": "m.text", "body": "debian-12 --level 1: the drill starts"}


def test_alertmanager_gets_an_alert_that_ends_with_the_next_success(receiver: Receiver) -> None:
    command = f"{HOOKS}/alertmanager.sh {receiver.address}"
    for event in (_event(failed(1)), _event(VERDICT), event_json("stale", JOB, "no drill", word="broken")):
        assert run_hook(command, event) is None
    failing, ended, stale = (body for _, path, _, body in receiver.got if path == "/api/v2/alerts")
    assert [alert["labels"]["alertname"] for alert in failing] == ["KdumpDrillFailed"]
    assert [alert["labels"]["alertname"] for alert in ended] == ["KdumpDrillFailed", "KdumpDrillStale"]
    assert [alert["labels"]["alertname"] for alert in stale] == ["KdumpDrillStale"]
    assert failing[0]["labels"] == ended[0]["labels"]
    assert stale[0]["labels"] == ended[1]["labels"]
    assert failing[0]["endsAt"] > ended[0]["endsAt"]
    assert failing[0]["annotations"]["summary"].startswith("debian-12 --level 1: failed")


def test_a_mail_has_the_cause_and_the_remedy() -> None:
    lines: list[str] = []

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self.wfile.write(b"220 here\r\n")
            in_data = False
            for raw in self.rfile:
                line = raw.decode().rstrip("\r\n")
                lines.append(line)
                if in_data:
                    in_data = line != "."
                    if not in_data:
                        self.wfile.write(b"250 taken\r\n")
                elif line == "DATA":
                    in_data = True
                    self.wfile.write(b"354 go\r\n")
                elif line == "QUIT":
                    self.wfile.write(b"221 bye\r\n")
                    return
                else:
                    self.wfile.write(b"250 yes\r\n")

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.handle_request)
        thread.start()
        command = f"{HOOKS}/mail.sh smtp://127.0.0.1:{server.server_address[1]} kdump@here root@there"
        assert run_hook(command, _event(failed(1))) is None
        thread.join()
    assert "MAIL FROM:<kdump@here>" in lines[1]
    assert "RCPT TO:<root@there>" in lines[2]
    (subject,) = (line for line in lines if line.startswith("Subject: "))
    encoded = subject.removeprefix("Subject: =?utf-8?B?").removesuffix("?=")
    assert base64.b64decode(encoded).decode().startswith("debian-12 --level 1: failed (before: verified)")
    assert "capture-oom: [    6.1] Out of memory: Killed process 93 (makedumpfile)" in lines
    assert "  -> Reserve more: crashkernel=320M." in lines
    assert "evidence: evidence/20261125-211143/debian-12" in lines
