"""A fleet with fake drills: lost workers, counted results, evidence that is sent back, and refused tasks."""

from __future__ import annotations

import datetime
import gc
import ipaddress
import json
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import distributed
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from dask._task_spec import Task as Spec
from fleet_factory import RESOURCES, Cluster, drill_order
from kdump_harness.__main__ import main
from kdump_harness.base.clock import poll
from kdump_harness.base.errors import EXIT_BROKEN, EXIT_FAILED, EXIT_HOST, EXIT_OK, EXIT_USAGE, HostError, UsageError
from kdump_harness.fleet import drills, pytest_client
from kdump_harness.fleet.client import Fleet, Order
from kdump_harness.fleet.protocol import tasks, wire_format
from kdump_harness.fleet.protocol.results import TaskResult, read_result
from kdump_harness.fleet.worker import task_runner

pytest_plugins = ["pytester"]


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    with Cluster(tmp_path / "fleet", hold=tmp_path / "go") as running:
        monkeypatch.setattr(task_runner, "command_of", running.command_of)
        monkeypatch.setattr(task_runner, "LOOK_S", 0.1)
        yield running


@pytest.fixture
def go(tmp_path: Path) -> Callable[[], None]:
    """Let the drills end."""
    return (tmp_path / "go").touch


def fleet(cluster: Cluster, **more: Any) -> Fleet:
    return Fleet(cluster.address, security=None, quiet=True, **{"wait_s": 20.0, **more})


def run_all(cluster: Cluster, orders: list[Order], evidence: Path, **more: Any) -> dict[int, TaskResult]:
    with fleet(cluster, **more) as running:
        found = [(order.number, result) for order, result in running.run(orders, evidence=evidence, run_name="run")]
    assert len(found) == len(dict(found))
    return dict(found)


def started(cluster: Cluster, count: int) -> None:
    poll("the drills to start", lambda: len(cluster.ran()) >= count or None, timeout_s=60, every_s=0.02)


def test_results_come_home_as_if_the_drills_had_run_here(
    cluster: Cluster, go: Callable[[], None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster.add("one")
    go()
    told = tmp_path / "drills"
    told.write_text("debian-12 --level 1  # the first\n\ndrill debian-12 --level 16\ndebian-12 --level 9\n")
    words = ["--evidence", str(tmp_path / "ev"), "--json", str(tmp_path / "j"), "--junit", str(tmp_path / "x")]
    # A worker that broke before its verdict is worse than a kdump that failed.
    assert main(["fleet", "run", "--scheduler", cluster.address, "--drills", str(told), "-q", *words]) == EXIT_BROKEN
    rows = json.loads((tmp_path / "j").read_text())
    assert [row["status"] for row in rows] == [EXIT_OK, EXIT_FAILED, EXIT_BROKEN]
    assert rows[2]["problem"] == "the guest did not boot"
    for row in rows[:2]:
        evidence = Path(row["verdict"]["evidence"])
        assert json.loads((evidence / "verdict.json").read_text())["evidence"] == str(evidence)
        assert evidence.is_relative_to((tmp_path / "ev" / "last").resolve())
        assert (evidence / "console.log").read_text() == "panic\n" * 10
        assert not (evidence / "vmcore.1").exists()
        (left,) = row["left_out"]
        assert Path(left.rpartition(" as ")[2]).stat().st_size == 5008  # it stayed on the worker
    suite = ElementTree.parse(tmp_path / "x").getroot()[0]
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "1", "1")
    assert "verified: 1 of 3" in capsys.readouterr().out
    assert main(["history", "debian-12", "--json", "-"]) == EXIT_OK
    assert len(json.loads(capsys.readouterr().out)) == 2
    assert not list((tmp_path / "fleet" / "one").glob("task-*"))


def test_a_lost_worker_costs_time_and_nothing_else(cluster: Cluster, go: Callable[[], None], tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        cluster.add(name, {**RESOURCES, "CORES": 1.0})
    orders = [drill_order(number) for number in range(1, 7)] + [drill_order(7, "debian-12", "--level=16")]
    killer = threading.Thread(target=lambda: (started(cluster, 3), cluster.lose("two"), go()))
    killer.start()
    found = run_all(cluster, orders, tmp_path / "ev")
    killer.join()
    assert {number: result.status for number, result in found.items()} == {**dict.fromkeys(range(1, 7), 0), 7: 1}
    ran = [line.split() for line in cluster.ran()]
    lost = [pid for pid, _, evidence in ran if "/two/" in evidence]
    assert lost
    assert len(ran) == 7 + len(lost)  # what failed by its verdict is not run again
    assert {result.worker for result in found.values()} == {"one", "three"}
    assert all(not Path(f"/proc/{pid}").exists() for pid in lost)
    assert not list((tmp_path / "fleet" / "two").glob("task-*"))
    assert len(list((tmp_path / "ev" / "run").iterdir())) == 7


def test_a_client_that_goes_takes_its_drills_along(cluster: Cluster, tmp_path: Path) -> None:
    worker = cluster.add("one")
    with fleet(cluster) as running:
        results = running.run([drill_order(1), drill_order(2)], evidence=tmp_path, run_name="run")

        def ask() -> None:
            with pytest.raises(HostError, match="connection to the scheduler is lost"):
                list(results)

        asking = threading.Thread(target=ask)
        asking.start()
        started(cluster, 2)
        running._client.close()
        poll("the drills to end", lambda: worker._tasks_active == 0 or None, timeout_s=60, every_s=0.05)
    assert all(not Path(f"/proc/{line.split()[0]}").exists() for line in cluster.ran())
    asking.join()


def test_a_resumed_run_does_only_the_missing_drills(cluster: Cluster, go: Callable[[], None], tmp_path: Path) -> None:
    cluster.add("one")
    go()
    told, evidence = tmp_path / "drills", tmp_path / "ev"
    words = ["fleet", "run", "--scheduler", cluster.address, "--drills", str(told), "-q", "--evidence", str(evidence)]
    told.write_text("debian-12 --level 1\ndebian-12 --level 2\ndebian-12 --level 9\n")
    assert main([*words]) == EXIT_BROKEN
    with (evidence / "last" / "fleet.jsonl").open("a") as journal:
        journal.write('{"task": "cut off in the mid')
    told.write_text("debian-12 --level 1\ndebian-12 --level 2\ndebian-12 --level 3\ndebian-12 --level 1\n")
    assert main([*words, "--resume"]) == EXIT_OK
    # Broken and new drills run; a drill that is listed twice needs only one more run.
    assert sorted(line.split()[1] for line in cluster.ran()) == ["1", "1", "2", "3", "9"]
    assert len([path for path in evidence.iterdir() if not path.is_symlink()]) == 1
    assert main([*words, "--resume"]) == EXIT_OK
    assert len(cluster.ran()) == 5


def test_a_task_that_no_worker_can_do_is_given_up(cluster: Cluster, go: Callable[[], None], tmp_path: Path) -> None:
    cluster.add("one")
    go()
    orders = [drill_order(1), drill_order(2, "debian-12", "--memory=9000"), drill_order(3, "rocky-10")]
    found = run_all(cluster, orders, tmp_path, wait_s=0.0)
    assert found[1].status == EXIT_OK
    assert found[2].status == EXIT_HOST
    assert found[2].problem == "no worker has 9384 MIB (waited 0 s)"
    assert found[3].problem == "no worker has CPU-3 (waited 0 s)"


def test_not_more_at_once_than_was_said(cluster: Cluster, go: Callable[[], None], tmp_path: Path) -> None:
    cluster.add("one")
    with fleet(cluster, at_once=2) as running:
        results = running.run([drill_order(number) for number in range(1, 6)], evidence=tmp_path, run_name="run")
        asking = threading.Thread(target=lambda: list(results))
        asking.start()
        started(cluster, 2)
        assert len(cluster.ran()) == 2
        go()
        asking.join()
    assert len(cluster.ran()) == 5


# ---------------------------------------------------------------- what is not run


class Evil:
    """An object whose pickle calls a function that the sender chose."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def test_nothing_that_is_sent_along_is_run(cluster: Cluster, go: Callable[[], None], tmp_path: Path) -> None:
    cluster.add("one")
    go()
    trap = tmp_path / "trap"
    good = drill_order(1).task.to_text()
    stated = drill_order(1).needs.resources()
    with distributed.Client(cluster.address, set_as_default=False) as client:

        def refused(spec: Spec, resources: dict[str, float] = stated) -> str:
            future = client.get({spec.key: spec}, [spec.key], sync=False, resources=resources)[0]
            return read_result(client.gather(future))[0].problem

        foreign = "the task is not one of kdump-harness"
        assert foreign in refused(Spec("function", os.mkdir, str(trap)))
        assert foreign in refused(Spec("argument", wire_format.asked, Evil(trap)))
        assert foreign in refused(Spec("more", wire_format.asked, good, good))
        assert foreign in refused(Spec("inner", wire_format.asked, Spec(None, os.mkdir, str(trap))))
        assert foreign in refused(Spec("method", pickle.loads, pickle.dumps(Evil(trap))))
        assert "not JSON" in refused(Spec("text", wire_format.asked, "rm -rf /"))
        assert "states 1" in refused(Spec("greedy", wire_format.asked, good), {"MIB": 1, "CORES": 1})
        assert not refused(Spec("good", wire_format.asked, good))

        for attempt in (
            lambda: client.run(os.mkdir, str(trap)),
            lambda: client.run_on_scheduler(os.mkdir, str(trap)),
            lambda: client.upload_file(__file__),
            lambda: client.register_plugin(distributed.WorkerPlugin()),
            lambda: client.submit(Evil, trap, actor=True, key="actor").result(timeout=1).path,
        ):
            with pytest.raises((AttributeError, TypeError)):  # Dask had no answer
                attempt()
        assert not refused(Spec("again", wire_format.asked, good.replace("--level=1", "--level=2")))
    assert not trap.exists()
    assert [line.split()[1] for line in cluster.ran()] == ["1", "2"]


def test_a_hostile_pickle_makes_only_marks(tmp_path: Path) -> None:
    wire_format.restrict()
    trap = tmp_path / "trap"
    loads = distributed.protocol.pickle.loads
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        mark = loads(pickle.dumps([Evil(trap), os.system, subprocess.Popen, wire_format.asked], protocol=protocol))
        assert mark[3] is wire_format.asked
        assert loads(pickle.dumps(mark))[3] is wire_format.asked  # as a scheduler hands it on
    assert not trap.exists()
    # Known objects must not be changed either: this pickle sets the state of one.
    change = b"c%b\nasked\n(N}S'__call__'\ncos\nsystem\ns\x86b." % wire_format.__name__.encode()
    with pytest.raises((AttributeError, TypeError, pickle.UnpicklingError)):
        loads(change.replace(b"(N}", b"N}"))
    assert type(wire_format.asked).__call__.__qualname__.startswith("_Asked")
    held = [
        name
        for name, module in sys.modules.items()
        if name.partition(".")[0] in ("dask", "distributed") and getattr(module, "pickle", None) is pickle
    ]
    assert held == []


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["/etc/shadow", "--family=debian"], "not a file that this worker offers"),
        (["../x.qcow2", "--family=debian"], "not a file that this worker offers"),
        (["debian-12", "--packages=/srv"], "does not accept --packages"),
        (["debian-12", "--key=/root/.ssh/id"], "does not accept --key"),
        (["debian-12", "--password-file=/etc/shadow"], "does not accept --password-file"),
        (["debian-12", "--pass=/etc/shadow"], "does not accept --password-file"),  # argparse knows abbreviations
        (["debian-12", "--evidence=/etc"], "does not accept --evidence"),
        (["debian-12", "--state=/"], "does not accept --state"),
        (["debian-12", "--uri=qemu+ssh://x/system"], "does not accept --uri"),
        (["debian-12", "--history=/x"], "does not accept --history"),
        (["debian-12", "--json=/x"], "does not accept --json"),
        (["debian-12", "--verbose"], "does not accept --verbose"),
        (["debian-12", "--kernel=/tmp/x.deb"], "by the name of a package"),
        (["debian-12", "--makedumpfile=x.rpm"], "by the name of a package"),
        (["--domain=myserver"], "does not accept --domain"),
        (["debian-12", "--login=--x"], "not a valid user name"),
        (["debian-12", "--timeout-factor=900"], "timeout factor is at most 100"),
        (["debian-12", "--memory=99999"], "lacks 100383 MIB"),
        (["debian-12", "--dimm=49999", "--dimm=48976"], "lacks 100383 MIB"),
        (["debian-12", "--level=x"], "invalid int value"),
        (["debian-99"], "unknown image"),
        (["--help"], "not arguments of a drill"),
        (["--host=web1", "--yes-crash=web1"], "does not accept --host"),
        (["debian-12", "--console=true"], "does not accept --console"),
        (["debian-12", "--reset=true"], "does not accept --reset"),
        (["debian-12", "--ssh=true"], "does not accept --ssh"),
        ([], "IMAGE --domain --host is required"),
        (["debian-12", "sweep"], "unrecognized"),
        (["debian-12\n--json=x"], "printable"),
        (["debian-12"] * 65, "short list"),
    ],
)
def test_a_drill_that_says_too_much_is_refused(arguments: list[str], why: str, tmp_path: Path) -> None:
    text = json.dumps({**json.loads(drill_order(1).task.to_text()), "arguments": arguments})
    host = task_runner.Host(name="one", evidence=tmp_path, resources=RESOURCES)
    with pytest.raises(tasks.TaskRefused, match=why):
        task_runner.prepare(text, host, {**RESOURCES, "MIB": 1e6})


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"test": "test_smoke.py"}, "not the id of a scenario"),
        ({"test": "../test_smoke.py::test_dump"}, "not the id of a scenario"),
        ({"test": "/tmp/test_x.py::test_x"}, "not the id of a scenario"),
        ({"test": "test_smoke.py::test_dump --pyargs"}, "not the id of a scenario"),
        ({"test": "test_none.py::test_dump"}, "no test_none.py among its scenarios"),
        ({"sha256": "0" * 64}, "differs on this worker"),
        ({"arguments": ["-p", "os"]}, "does not accept '-p'"),
        ({"arguments": ["--packages=/srv"]}, "does not accept"),
        ({"arguments": ["--image=../x"]}, "does not accept"),
        ({"arguments": ["--image"]}, "does not accept"),
        ({"arguments": ["--run-known=1"]}, "does not accept"),
        ({"arguments": ["--kernel=./x"]}, "does not accept"),
        ({"arguments": ["--confcutdir=/"]}, "does not accept"),
        ({"kind": "shell"}, "not 'shell'"),
        ({"version": "0.0.1"}, "version 0.0.1"),
        ({"evidence_mib": 10**9}, "MiB of evidence"),
        ({"evidence_mib": True}, "not of type int"),
        ({"more": 1}, "exactly these fields"),
        ({"arguments": "--image=x"}, "not of type list"),
    ],
)
def test_an_invalid_scenario_is_refused(changes: dict[str, Any], why: str, tmp_path: Path) -> None:
    host = task_runner.Host(name="one", evidence=tmp_path, resources=RESOURCES)
    path = tasks.data_path("scenarios") / "test_smoke.py"
    task = tasks.FleetTask(
        kind=tasks.SCENARIO, test="test_smoke.py::test_dump[debian-12]", sha256=tasks.scenario_digest(path),
        arguments=("--image=debian-*", "--run-known"),
    )  # fmt: skip
    table = json.loads(task.to_text())
    assert task_runner.prepare(json.dumps(table), host, RESOURCES)[0] == task
    with pytest.raises(tasks.TaskRefused, match=why):
        task_runner.prepare(json.dumps({**table, **changes}), host, RESOURCES)


def test_only_text_is_a_task() -> None:
    for text in (None, 3, b"{}", "[]", "{}", "[" * 100_000, '"' + "x" * 20_000 + '"'):
        with pytest.raises(tasks.TaskRefused):
            tasks.read_task(text)


def test_a_file_that_the_worker_offers_is_drilled(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    disk = tmp_path / "images" / "mine.qcow2"
    disk.touch()
    (tmp_path / "images" / "link.qcow2").symlink_to("/etc/passwd")
    task = tasks.FleetTask(kind=tasks.DRILL, arguments=(str(disk), "--family=debian"))
    paths = tasks.TaskPaths(uri=None, state=None, evidence=tmp_path, result=tmp_path / "r", scratch=tmp_path)
    for offered in (disk, disk.parent):
        command = tasks.command_of(task, files=[offered]).build(paths)
        assert command[4:7] == ["drill", str(disk), "--family=debian"]
    for bad in (tmp_path / "images" / "link.qcow2", tmp_path / "images" / ".." / "other.qcow2"):
        with pytest.raises(tasks.TaskRefused, match="not a file that this worker offers"):
            tasks.command_of(tasks.FleetTask(kind=tasks.DRILL, arguments=(str(bad),)), files=[disk.parent])


def test_a_command_line_is_written_anew() -> None:
    found = tasks.parse_drill(["debian-12", "--lev", "3", "--as-is", "--budg", "9"])
    assert tasks.drill_arguments(found) == ("debian-12", "--level=3", "--budget=9.0", "--as-is")
    # Each option of drill is listed as accepted or local: a new one is refused until it is listed.
    known = {"image", "run", *tasks._DRILL_OPTIONS, *tasks.LOCAL_OPTIONS}
    assert set(vars(found)) - known == {
        "uri", "remote_state", "key", "password_file", "packages", "domain", "keep_mac", "crash_package", "debuginfo",
        "allow_backing", "shape", "arm_with", "host", "on_host", "console", "yes_crash", "reset", "ssh",
        "dumps_on", "anyway",
    }  # fmt: skip


@pytest.mark.parametrize(
    "change",
    [
        {"image": "debian-13"}, {"level": 2}, {"verified": True, "checks": []}, {"verified": "yes"},
        {"reached": "HEAVEN"}, {"checks": None}, {"phases_s": {"x": "y"}}, {"symptoms": [{}]}, {"trigger": "nmi"},
        {"dump": {}}, {"remarks": [1]},
    ],
)  # fmt: skip
def test_an_invalid_verdict_does_not_count(change: dict[str, Any]) -> None:
    good: dict[str, Any] = {
        "image": "debian-12", "family": "debian", "trigger": "sysrq-c", "target": "local", "accelerator": "tcg",
        "memory_mib": 1024, "vcpus": 2, "level": 1, "reached": "VERIFIED", "verified": True,
        "checks": [{"name": "whole", "ok": True, "expected": "whole", "seen": "whole"}],
    }  # fmt: skip
    order = drill_order(1)
    assert drills.outcome_of(order, TaskResult(worker="one", status=0, verdict=good)).status == EXIT_OK
    outcome = drills.outcome_of(order, TaskResult(worker="one", status=0, verdict={**good, **change}))
    assert (outcome.status, outcome.verdict) == (EXIT_BROKEN, None)


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("words", "why"),
    [
        ([], "nothing to run"),
        (["--drills", "x", "--", "scenarios"], "nothing to run"),
        (["--tls-ca", "x", "--", "scenarios"], "TLS also needs --tls-cert, --tls-key"),
        (["--", "scenarios", "-n", "2"], "which distributes the scenarios"),
        (["--json", "x", "--", "scenarios"], "is only for drills"),
        (["--", "drill", "debian-12", "--packages", "/x"], "does not accept --packages"),
        (["--", "drill", "./x.qcow2", "--family", "debian"], "absolute path on the workers"),
        (["--drills", "/nonexistent"], "cannot be read"),
        (["--resume", "--evidence", "nonexistent", "--", "drill", "debian-12"], "cannot resume a fleet's run"),
        (["--evidence-limit", "999999", "--", "scenarios"], "invalid --evidence-limit: got"),
    ],
)
def test_a_usage_error_is_reported_before_the_scheduler_is_contacted(
    words: list[str], why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["fleet", "run", "--scheduler", "tcp://127.0.0.1:9", *words]) == EXIT_USAGE
    assert why in capsys.readouterr().err


@pytest.mark.parametrize("text", ["http://x:1", "tcp://", "tcp://x:y", "tls://x", "tcp://x/y"])
def test_an_invalid_address_is_refused(text: str) -> None:
    from kdump_harness.fleet.verb import _address

    with pytest.raises(UsageError):
        _address(text, None)
    assert _address("[::1]", None) == "tcp://[::1]:8786"
    assert _address("tcp://x:1", object()) == "tls://x:1"


def test_without_dask_one_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    assert main(["fleet", "worker", "tcp://127.0.0.1:1"]) == EXIT_HOST
    assert "pip install 'kdump-harness[fleet]'" in capsys.readouterr().err


# ---------------------------------------------------------------- certificates


def certificates(directory: Path, authority: str) -> list[str]:
    """Return the options for a new authority and one certificate of it."""
    directory.mkdir()
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, authority)])
    day = datetime.timedelta(days=1)
    now = datetime.datetime.now(datetime.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    for key, file, ca in ((keys[0], "ca", True), (keys[1], "cert", False)):
        made = (
            x509.CertificateBuilder()
            .subject_name(name if ca else x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "host")]))
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - day)
            .not_valid_after(now + day)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
            .sign(keys[0], hashes.SHA256())
        )
        (directory / f"{file}.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (directory / "key.pem").write_bytes(
        keys[1].private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    return [str(directory / f"{file}.pem") for file in ("ca", "cert", "key")]


# distributed leaves the socket of a failed handshake to the garbage collector, which would warn in a later test.
@pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_peer_without_a_certificate_is_rejected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdump_harness.fleet.scheduler import FleetScheduler

    def secured(directory: str) -> Any:
        ca, cert, key = (Path(path) for path in certificates(tmp_path / directory, directory))
        return wire_format.security(ca=ca, cert=cert, key=key)

    ours, others = secured("ours"), secured("others")
    with Cluster(tmp_path / "fleet") as cluster:

        async def start() -> FleetScheduler:
            return await FleetScheduler(listen="127.0.0.1", port=0, security=ours)

        scheduler = cluster.call(start())
        assert scheduler.address.startswith("tls://")
        with Fleet(scheduler.address, security=ours, wait_s=1, quiet=True):
            pass
        monkeypatch.setattr("kdump_harness.fleet.client.CONNECT_S", 0.5)  # only the peers that are refused wait so long
        for security, address in ((others, scheduler.address), (None, scheduler.address.replace("tls", "tcp"))):
            with pytest.raises(HostError, match="cannot be reached"), Fleet(address, security=security, wait_s=1):
                pass
        cluster.call(scheduler.close())
    gc.collect()


# ---------------------------------------------------------------- scenarios

SCENARIO = """
import pytest

def test_bad(image):
    assert image.name == "another", "it is another"
"""


def test_scenarios_are_reported_by_pytest_as_if_they_had_run_here(
    cluster: Cluster, pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add("one")
    scenarios = pytester.path / "scenarios"
    scenarios.mkdir()
    (scenarios / "test_fake.py").write_text(SCENARIO)
    (scenarios / "conftest.py").write_text("from kdump_harness.pytest_plugin.short_names import *")
    monkeypatch.setattr(tasks, "data_path", pytester.path.joinpath)
    monkeypatch.setattr(pytest_client, "data_path", pytester.path.joinpath)
    choice = {
        "scheduler": cluster.address, "ca": None, "cert": None, "key": None, "wait_s": 20, "at_once": None,
        "direct": False, "vmcores": False, "evidence_mib": 64, "resume": None, "quiet": True,
    }  # fmt: skip
    monkeypatch.setenv("KDUMP_FLEET_RUN", json.dumps(choice))
    done = pytester.runpytest_inprocess(
        "-p", "kdump_harness.fleet.pytest_client", "-p", "no:cacheprovider", str(scenarios), "--junitxml", "junit.xml",
        "--matrix", "matrix.json",
    )  # fmt: skip
    assert done.ret == pytest.ExitCode.TESTS_FAILED
    done.assert_outcomes(failed=1)
    assert "it is another" in done.stdout.str()
    counts = json.loads((pytester.path / "matrix.json").read_text())["counts"]
    assert (counts["passed"], counts["failed"], counts["error"]) == (0, 1, 0)
    (case,) = ElementTree.parse(pytester.path / "junit.xml").iter("testcase")
    assert case.get("name") == "test_bad[debian-12]"
    assert case.find("failure") is not None
    assert {one.get("value") for one in case.iter("property") if one.get("name") == "worker"} == {"one"}


def test_a_worker_collects_a_scenario_with_its_helper_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installed wheel has its scenarios in a data directory, and no project configures pytest."""
    scenarios = tmp_path / "data" / "scenarios"
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(tasks.data_path("scenarios"), scenarios, ignore=ignored, copy_function=shutil.copyfile)
    scenarios.chmod(0o755)  # the checkout may be read-only
    monkeypatch.setattr(tasks, "data_path", lambda *parts: (tmp_path / "data").joinpath(*parts))
    path = scenarios / "test_failures.py"
    before = tasks.scenario_digest(path)
    task = tasks.FleetTask(
        kind=tasks.SCENARIO,
        test="test_failures.py::test_no_reservation",
        sha256=before,
        arguments=("--image=debian-12",),
    )
    paths = tasks.TaskPaths(uri=None, state=None, evidence=tmp_path / "e", result=tmp_path / "r", scratch=tmp_path)
    command = [*tasks.command_of(task).build(paths), "--collect-only"]
    collected = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert "test_no_reservation[debian-12]" in collected.stdout, collected.stdout + collected.stderr
    (scenarios / "faults.py").write_text("", encoding="utf-8")
    assert tasks.scenario_digest(path) != before
