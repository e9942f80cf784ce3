"""Measures an audit of many hosts: a local SSH server replays a machine's answers behind a delay; needs no guest.

Usage: python benchmarks/audit.py [--smoke] [--hosts N] [--side-by-side N] [--answers FILE]

Each host answers with the recorded answers of tests/data/audits/debian-12.json, after the time that its commands would
take. One host is slow. The time of the whole audit is compared with the slow host's own time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import logging
import os
import re
import resource
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import paramiko

ANSWERS = Path(__file__).parents[1] / "tests" / "data" / "audits" / "debian-12.json"
LATENCY_S = 0.05  # of a round trip
SMOKE = "AUDIT_SMOKE" in os.environ
USUAL_S, SLOW_S = (0.0, 0.2) if SMOKE else (1.0, 30.0)  # for the commands of a host
SIDE_BY_SIDE = 32
TIME_LIMIT, MEMORY_LIMIT_MIB = 1.5, 150
_QUESTION = re.compile(rb"echo '(=====audit [0-9a-f]+ )([^']*)'")


class Server(paramiko.ServerInterface):  # type: ignore[misc]  # paramiko has no types
    """An SSH server that accepts every user and runs nothing."""

    def check_auth_none(self, username: str) -> int:
        """Accept every user."""
        return int(paramiko.AUTH_SUCCESSFUL)

    def get_allowed_auths(self, username: str) -> str:
        """Name the only way in."""
        return "none"

    def check_channel_request(self, kind: str, channel_id: int) -> int:
        """Accept sessions."""
        return int(paramiko.OPEN_SUCCEEDED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        """Accept every command, which is a shell that reads questions."""
        threading.Thread(target=replay, args=(channel,), daemon=True).start()
        return True


ANSWER: dict[str, str] = {}


def replay(channel: paramiko.Channel) -> None:
    """Answer the questions of one audit; the time of a host's commands is spent before the second answers."""
    got, asked = b"", 0
    slow = channel.get_transport().get_username() == "slow"
    try:
        while chunk := channel.recv(1 << 16):
            got += chunk
            marks = _QUESTION.findall(got)
            if not marks or marks[-1][1] != b"end":
                continue
            asked += 1
            if asked == 2:
                time.sleep(SLOW_S if slow else USUAL_S)
            answers = (f"{mark.decode()}{name.decode()}\n{ANSWER.get(name.decode(), '')}\n" for mark, name in marks)
            channel.sendall("".join(answers).encode())
            got = b""
    except (OSError, EOFError):  # the audit has ended the connection
        return


async def relay(port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Pass a connection on to the server, half of the latency later in both directions."""
    loop = asyncio.get_running_loop()
    there, back = await asyncio.open_connection("127.0.0.1", port)

    async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while chunk := await source.read(1 << 16):
                loop.call_later(LATENCY_S / 2, to.write, chunk)
        loop.call_later(LATENCY_S / 2, to.close)

    await asyncio.gather(pump(reader, back), pump(there, writer))


def accept(listener: socket.socket, key: paramiko.PKey) -> None:
    """Serve each connection in its own thread."""
    while True:
        connection, _ = listener.accept()
        transport = paramiko.Transport(connection)
        transport.add_server_key(key)
        transport.start_server(server=Server(), event=threading.Event())


def serve(answers: Path) -> None:
    """Run the server behind the relay, and print the relay's port and the host key."""
    logging.getLogger("paramiko").setLevel(logging.CRITICAL)
    ANSWER.update(json.loads(answers.read_text(encoding="utf-8")))
    key = paramiko.ECDSAKey.generate()
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    threading.Thread(target=accept, args=(listener, key), daemon=True).start()
    port = listener.getsockname()[1]

    relays = set()  # the event loop refers weakly to its tasks

    async def start_relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(relay(port, reader, writer))
        relays.add(task)
        task.add_done_callback(relays.discard)

    async def main() -> None:
        server = await asyncio.start_server(start_relay, "127.0.0.1", 0, backlog=256)
        print(server.sockets[0].getsockname()[1], key.get_name(), key.get_base64(), flush=True)
        await server.serve_forever()

    asyncio.run(main())


def pss_mib(pids: list[int]) -> float:
    """Return the memory of processes, with shared pages counted once."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            found = re.search(r"^Pss:\s+(\d+)", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
            total += int(found[1]) if found else 0
    return total / 1024


def children(pid: int) -> list[int]:
    """Return a process and its children."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").iterdir()
        return [pid, *(int(child) for task in tasks for child in (task / "children").read_text().split())]
    return [pid]


def audit(directory: Path, hosts: list[str], side_by_side: int) -> tuple[float, float, float]:
    """Audit hosts, all of which must be ready; return the wall time, the processor time and the peak memory."""
    (directory / "hosts").write_text("".join(f"{host}\n" for host in hosts))
    command = [
        sys.executable, "-m", "kdump_harness", "audit", "--inventory", str(directory / "hosts"), "--history", "none",
        "--quiet", "--ssh", f"ssh -F {directory}/config", "--side-by-side", str(side_by_side), "--json",
        str(directory / "audit.json"),
    ]  # fmt: skip
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    peak_mib = 0.0
    while process.poll() is None:
        peak_mib = max(peak_mib, pss_mib(children(process.pid)))
        time.sleep(0.1)
    took_s, after = time.monotonic() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    result = json.loads((directory / "audit.json").read_text())
    assert result["ok"], [
        (host["host"], host["why"], host["reasons"]) for host in result["hosts"] if host["answer"] != "ready"
    ]
    used_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return took_s, used_s, peak_mib


def main() -> None:
    """Audit the slow host alone, then all hosts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--smoke", action="store_true", help="few hosts, which answer at once")
    parser.add_argument("--hosts", type=int, default=200)
    parser.add_argument("--side-by-side", type=int, default=SIDE_BY_SIDE)
    parser.add_argument("--answers", type=Path, default=ANSWERS)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.answers)
        return
    number = 4 if options.smoke else options.hosts
    command = [sys.executable, __file__, "--serve", "--answers", str(options.answers)]
    environment = {**os.environ, "AUDIT_SMOKE": "1"} if options.smoke else None
    with (
        tempfile.TemporaryDirectory() as name,
        subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server,
    ):
        try:
            assert server.stdout is not None
            port, kind, key = server.stdout.readline().split()
            directory = Path(name)
            (directory / "known").write_text(f"replay {kind} {key}\n")
            (directory / "config").write_text(
                f"Host *\n HostName 127.0.0.1\n Port {port}\n HostKeyAlias replay\n User usual\n"
                f" UserKnownHostsFile {name}/known\n StrictHostKeyChecking yes\n PreferredAuthentications none\n"
                " IdentitiesOnly yes\n"
            )
            alone_s, _, _ = audit(directory, ["slow ansible_user=slow"], 1)
            print(f"the slow host alone: {alone_s:.1f} s")
            hosts = [f"host{at:03d}" for at in range(number - 1)]
            hosts.insert(number // 2, "slow ansible_user=slow")
            took_s, used_s, peak_mib = audit(directory, hosts, options.side_by_side)
            print(
                f"{number} hosts, {options.side_by_side} side by side, {LATENCY_S * 1000:.0f} ms: {took_s:.1f} s,"
                f" {took_s / alone_s:.2f} times the slow host (limit {TIME_LIMIT}); {used_s:.1f} s of processor time"
                f" of the audit and its ssh; {peak_mib:.0f} MiB with all ssh processes (limit {MEMORY_LIMIT_MIB} MiB)"
            )
        finally:
            server.terminate()


if __name__ == "__main__":
    main()
