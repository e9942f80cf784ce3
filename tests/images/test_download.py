"""The image cache with a faulty web site: cut connections, wrong content, redirects, missing files."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import itertools
import json
import multiprocessing
import os
import resource
import shutil
import socket
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from image_site import (
    CONTENT,
    NEWER,
    PATIENT,
    by_hand,
    closed_port,
    make_image,
    name_of,
    start_partial,
)
from kdump_harness.base.errors import HostError
from kdump_harness.images import download
from kdump_harness.images.catalog import Image
from kdump_harness.images.checksums import NoChecksum
from kdump_harness.images.download import (
    SPARE_BYTES,
    ChecksumMismatch,
    NeedsLogin,
    NoSpace,
    Unreachable,
    cached,
    fetch,
    make_client,
    resolve,
)


@pytest.fixture
def image(site) -> Image:
    return make_image(site.url)


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "cache"


@pytest.fixture
def told() -> list[str]:
    return []


def files_in(cache: Path) -> list[str]:
    return sorted(path.name for path in (cache / "demo-1").iterdir() if path.name != "lock")


# --- the plain way ---


def test_an_image_is_downloaded_once_and_named_by_its_digest(site, image, cache):
    steps: list[tuple[int, int | None]] = []
    path = fetch(image, cache, progress=lambda done, total: steps.append((done, total)), client=PATIENT)
    assert path.read_bytes() == CONTENT
    assert path.name == name_of(CONTENT)
    assert not path.stat().st_mode & 0o222, "a base image is not for writing"
    assert steps[0] == (0, len(CONTENT))
    assert steps[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(image, cache, client=PATIENT) == path == cached(image, cache)
    assert site.asked() == [None]


def test_a_latest_name_that_rotates_is_downloaded_again_and_the_old_file_stays(site, image, cache):
    old = fetch(image, cache, client=PATIENT)
    os.utime(old, (1, 1))
    site.publish(NEWER)
    new = fetch(image, cache, client=PATIENT)
    assert new.read_bytes() == NEWER
    assert old.read_bytes() == CONTENT
    assert cached(image, cache) == new


def test_redirects_of_document_and_image_are_followed(site, image, cache):
    for name in ("/demo.qcow2", "/SHA256SUMS"):
        site.files[f"/mirror{name}"] = site.files.pop(name)
        site.redirects[name] = f"{site.url}/mirror{name}"
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT


def test_redirects_in_a_circle_are_one_sentence(site, image, cache):
    site.redirects["/demo.qcow2"] = f"{site.url}/demo.qcow2"
    with pytest.raises(Unreachable, match="infinite loop") as caught:
        fetch(image, cache, client=PATIENT)
    assert "\n" not in str(caught.value)


def test_the_proxy_of_the_environment_is_used(site, cache, monkeypatch):
    monkeypatch.setenv("http_proxy", site.url)
    far = "http://images.example.invalid"
    for name in ("/demo.qcow2", "/SHA256SUMS"):
        site.files[far + name] = site.files[name]
    assert fetch(make_image(far), cache, client=make_client(pause_s=0.0)).read_bytes() == CONTENT
    assert site.asked(f"{far}/demo.qcow2") == [None]


# --- indexes: the name of today is in the checksum document ---


def test_a_listing_gives_the_name_of_today_beside_where_it_was_found(site, cache):
    site.publish(CONTENT, name="v7/al-7.qcow2")
    site.files["/v7/SHA256SUMS"] = site.files["/SHA256SUMS"].replace(b"v7/", b"")
    site.redirects["/latest/SHA256SUMS"] = f"{site.url}/v7/SHA256SUMS"
    image = make_image(site.url, url="", file="al-*.qcow2", checksums=f"{site.url}/latest/SHA256SUMS")
    assert resolve(image, PATIENT).url == f"{site.url}/v7/al-7.qcow2"
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT


def test_a_template_index_gives_a_path_on_its_site(site, cache):
    index = {
        "base_url": "/templates/OL9",
        "kvm": {"image": "OL9U8-kvm-b293.qcow2", "sha256": hashlib.sha256(CONTENT).hexdigest()},
    }
    site.files["/templates/ol9.json"] = json.dumps(index).encode()
    site.files["/templates/OL9/OL9U8-kvm-b293.qcow2"] = CONTENT
    image = make_image(
        site.url, url="", file="OL9U*.qcow2", checksums=f"{site.url}/templates/ol9.json", checksum_form="oracle-json"
    )
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT


def test_a_releases_index_gives_a_whole_address(site, cache):
    artifact = {"link": f"{site.url}/demo.qcow2", "sha256": hashlib.sha256(CONTENT).hexdigest()}
    site.files["/releases.json"] = json.dumps([artifact]).encode()
    image = make_image(
        site.url, url="", file="demo*", checksums=f"{site.url}/releases.json", checksum_form="fedora-json"
    )
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT


def test_an_index_cannot_lead_to_files_of_this_machine(site, cache):
    artifact = {"link": "file:///etc/demo.qcow2", "sha256": "0" * 64}
    site.files["/releases.json"] = json.dumps([artifact]).encode()
    image = make_image(
        site.url, url="", file="demo*", checksums=f"{site.url}/releases.json", checksum_form="fedora-json"
    )
    with pytest.raises(NoChecksum, match="is not an http or https address"):
        fetch(image, cache, client=PATIENT)


# --- interruptions ---


def test_a_cut_line_is_resumed_where_it_broke(site, image, cache, told):
    site.cuts = [400_000]
    assert fetch(image, cache, report=told.append, client=PATIENT).read_bytes() == CONTENT
    assert site.asked() == [None, "bytes=400000-"]
    assert told == [f"{image.url}: cut off after 400000 of {len(CONTENT)} bytes; trying again"]


def test_a_line_that_keeps_breaking_is_resumed_as_long_as_it_gains(site, image, cache):
    site.cuts = [100_000] * 9
    impatient = make_client(attempts=2, pause_s=0.0)
    assert fetch(image, cache, client=impatient).read_bytes() == CONTENT
    assert len(site.asked()) == 10


def test_a_server_without_ranges_starts_again_from_zero(site, image, cache):
    site.ranges, site.cuts = False, [400_000]
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT
    assert site.asked() == [None, "bytes=400000-"]


def test_a_server_that_always_breaks_at_the_same_place_is_given_up(site, image, cache):
    site.ranges, site.cuts = False, [400_000] * 10
    with pytest.raises(Unreachable, match=rf"cut off after 400000 of {len(CONTENT)} bytes"):
        fetch(image, cache, client=PATIENT)
    assert len(site.asked()) == PATIENT.attempts
    assert files_in(cache) == [name_of(CONTENT, ".part")]


def test_a_cut_without_a_promised_length_is_seen_by_the_digest(site, image, cache):
    site.lengths, site.cuts = False, [400_000]
    with pytest.raises(ChecksumMismatch, match="in 400000 bytes"):
        fetch(image, cache, client=PATIENT)
    assert files_in(cache) == []


def test_a_cut_checksum_document_is_read_again(site, image, cache):
    site.document_cuts = [30]
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT
    assert len(site.asked("/SHA256SUMS")) == 2


def test_ctrl_c_leaves_a_partial_file_that_the_next_call_resumes(site, image, cache):
    def interrupt(done: int, total: int | None) -> None:
        if done > 300_000:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fetch(image, cache, progress=interrupt, client=PATIENT)
    (left,) = files_in(cache)
    size_bytes = (cache / "demo-1" / left).stat().st_size
    assert left == name_of(CONTENT, ".part")
    assert size_bytes > 300_000
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT
    assert site.asked()[1:] == [f"bytes={size_bytes}-"]
    assert files_in(cache) == [name_of(CONTENT)]


def test_a_partial_file_that_is_complete_is_only_verified(site, image, cache):
    start_partial(cache, CONTENT, len(CONTENT))
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT


def test_pieces_that_do_not_fit_together_are_thrown_away_and_the_image_is_had_whole(site, image, cache, told):
    start_partial(cache, NEWER, 400_000)
    assert fetch(image, cache, report=told.append, client=PATIENT).read_bytes() == CONTENT
    assert site.asked() == ["bytes=400000-", None]
    assert any("parts of the download do not match" in line for line in told)


def test_a_partial_file_of_another_day_is_removed(site, image, cache):
    start_partial(cache, CONTENT, 400_000)
    site.publish(NEWER)
    assert fetch(image, cache, client=PATIENT).read_bytes() == NEWER
    assert files_in(cache) == [name_of(NEWER)]


def test_a_busy_server_is_asked_again(site, image, cache):
    site.statuses = {"/SHA256SUMS": [503], "/demo.qcow2": [502, 429]}
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT


# --- digests ---


def test_a_wrong_image_is_refused_and_nothing_of_it_stays(site, image, cache):
    site.publish(NEWER, promised=CONTENT)
    with pytest.raises(ChecksumMismatch, match=r"demo\.qcow2 does not match .*SHA256SUMS: got") as caught:
        fetch(image, cache, client=PATIENT)
    assert caught.value.exit_code == 3
    assert not isinstance(caught.value, Unreachable), "a wrong image must not be replaced by an older one"
    assert files_in(cache) == []
    assert cached(image, cache) is None


def test_an_image_that_rotates_while_it_is_fetched_is_taken_with_its_new_digest(site, image, cache):
    site.publish(NEWER, promised=CONTENT)

    def rotate(path: str) -> None:
        if path == "/demo.qcow2":
            site.publish(NEWER)

    site.before = rotate
    assert fetch(image, cache, client=PATIENT).read_bytes() == NEWER
    assert files_in(cache) == [name_of(NEWER)]


def test_a_missing_checksum_is_refused_before_anything_is_downloaded(site, image, cache):
    site.files["/SHA256SUMS"] = b"0" * 64 + b"  another.qcow2\n"
    with pytest.raises(NoChecksum, match=r"none of demo\.qcow2"):
        fetch(image, cache, client=PATIENT)
    assert site.asked() == []


def test_a_checksum_document_is_not_taken_from_an_unencrypted_redirect(site, image, cache):
    class Opener:
        def open(self, request: Any, timeout: float) -> Any:
            return PATIENT.opener.open(request.full_url.replace("https:", "http:"), timeout=timeout)

    image = dataclasses.replace(image, checksums=image.checksums.replace("http:", "https:"))
    with pytest.raises(NoChecksum, match="not protected by TLS"):
        fetch(image, cache, client=dataclasses.replace(PATIENT, opener=Opener()))


# --- no network ---


def test_a_server_that_is_not_there_is_known_at_once(cache):
    nowhere = make_image(closed_port())
    with pytest.raises(Unreachable, match=r"cannot reach .*SHA256SUMS: Connection refused") as caught:
        fetch(nowhere, cache, client=make_client(attempts=4, pause_s=60.0))
    assert caught.value.exit_code == 3
    assert not caught.value.passing


@pytest.mark.parametrize("path", ["/SHA256SUMS", "/demo.qcow2"])
@pytest.mark.parametrize("status", [403, 404])
def test_an_address_that_is_gone_is_told_with_its_status(site, image, cache, path, status):
    site.statuses = {path: [status]}
    with pytest.raises(Unreachable, match=rf"{path}: HTTP {status}") as caught:
        fetch(image, cache, client=PATIENT)
    assert caught.value.status == status


def test_without_a_network_the_copy_of_last_time_is_used_and_one_line_says_so(site, image, cache, told):
    path = fetch(image, cache, client=PATIENT)
    offline = make_image(closed_port())
    assert fetch(offline, cache, report=told.append, client=PATIENT) == path
    (line,) = told
    assert "cannot reach" in line
    assert "using the copy of demo-1 downloaded on 2" in line


# --- the disk ---


def test_no_room_is_stated_before_the_download_with_what_it_needs_and_has(site, image, cache, monkeypatch):
    real = shutil.disk_usage
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: real(path)._replace(free=3 << 20))
    with pytest.raises(NoSpace, match=r"for demo-1: 66 MiB needed, 3 MiB free"):
        fetch(image, cache, client=PATIENT)
    assert files_in(cache) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_disk_that_fills_up_on_the_way_is_told_and_emptied(site, image, cache, monkeypatch, number):
    real = os.write

    def write(file: int, data: Any) -> int:
        if os.fstat(file).st_size >= 500_000:
            raise OSError(number, os.strerror(number))
        return real(file, data)

    monkeypatch.setattr(download.os, "write", write)
    with pytest.raises(NoSpace, match=r"is full after 1 MiB .*the partial download was removed"):
        fetch(image, cache, client=PATIENT)
    assert files_in(cache) == []
    monkeypatch.undo()
    assert fetch(image, cache, client=PATIENT).read_bytes() == CONTENT


def fetch_with_small_files(url: str, cache: Path) -> str:
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    try:
        fetch(make_image(url), cache, client=PATIENT)
    except NoSpace as error:
        return str(error)
    return "no error"


def test_a_real_limit_of_the_file_system_is_told_and_emptied(site, cache):
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        assert "File too large" in pool.submit(fetch_with_small_files, site.url, cache).result(timeout=60)
    assert files_in(cache) == []


def test_a_cache_that_is_no_directory_is_one_sentence(site, image, tmp_path):
    (tmp_path / "cache").write_text("")
    with pytest.raises(HostError, match=r"cannot use the image cache .*/cache/demo-1"):
        fetch(image, tmp_path / "cache", client=PATIENT)


# --- many at once ---


def fetch_in_a_process(url: str, cache: Path) -> tuple[Path, list[str]]:
    told: list[str] = []
    return fetch(make_image(url), cache, report=told.append, client=PATIENT), told


def test_two_processes_at_once_download_once(site, cache):
    both_asked = threading.Event()

    def hold(path: str) -> None:
        if len(site.asked("/SHA256SUMS")) >= 2:
            both_asked.set()
        if path == "/demo.qcow2":
            assert both_asked.wait(60)

    site.before = hold
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context("spawn")) as pool:
        results = [pool.submit(fetch_in_a_process, site.url, cache) for _ in range(2)]
        paths = {result.result(timeout=60)[0] for result in results}
    assert [path.read_bytes() for path in paths] == [CONTENT]
    assert site.asked() == [None]


def test_the_second_says_what_it_waits_for(site, image, cache):
    waits = threading.Event()
    told: list[str] = []

    def report(text: str) -> None:
        told.append(text)
        waits.set()

    (cache / "demo-1").mkdir(parents=True)
    with (cache / "demo-1" / "lock").open("w+") as lock:
        lock.write("4711")
        lock.flush()
        fcntl.flock(lock, fcntl.LOCK_EX)
        second = threading.Thread(target=lambda: fetch(image, cache, report=report, client=PATIENT))
        second.start()
        assert waits.wait(60)
        assert site.asked() == [], "nothing is downloaded while another does it"
    second.join(60)
    assert told == ["demo-1 is being downloaded by process 4711; waiting for it"]
    assert cached(image, cache) is not None


# --- by hand ---


def test_an_image_behind_a_login_says_which_file_goes_where(cache):
    with pytest.raises(
        NeedsLogin, match=r"download rhel-9\.\*-x86_64-kvm\.qcow2 from the customer portal and put it into"
    ):
        fetch(by_hand(), cache)


def test_an_image_that_was_brought_is_used(cache):
    (cache / "demo-1").mkdir(parents=True)
    path = cache / "demo-1" / "rhel-9.8-x86_64-kvm.qcow2"
    path.write_bytes(CONTENT)
    assert fetch(by_hand(), cache) == path


# --- answers that lie ---


@contextlib.contextmanager
def answering(*raw: bytes):
    """A server that answers each request with the next bytes, and the last ones again."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve_all() -> None:
            for number in itertools.count():
                try:
                    line, _ = server.accept()
                except OSError:
                    return
                with line:
                    line.recv(65536)
                    with contextlib.suppress(OSError):
                        line.sendall(raw[min(number, len(raw) - 1)])

        thread = threading.Thread(target=serve_all)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.shutdown(socket.SHUT_RDWR)
            server.close()
            thread.join()


LISTING = f"{hashlib.sha256(CONTENT).hexdigest()}  demo.qcow2\n".encode()
SOUND = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%s" % (len(LISTING), LISTING)


@pytest.mark.parametrize(
    "head",
    [
        b"200 OK\r\nContent-Length: \xb2",
        b"200 OK\r\nContent-Length: " + b"9" * 5000,
        b"200 OK\r\nContent-Length: -5",
        b"206 OK\r\nContent-Range: bytes " + b"9" * 5000 + b"-/*",
        b"206 OK\r\nContent-Range: bytes \xb2-9/9",
        b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5",
        b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 5000,
        b"200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz",
    ],
    ids=lambda head: repr(head[8:40]),
)
@pytest.mark.parametrize("document", [True, False])
def test_an_answer_that_lies_is_one_sentence(cache: Path, head: bytes, document: bool) -> None:
    lie = b"HTTP/1.1 " + head + b"\r\n\r\nshort"
    client = make_client(attempts=2, pause_s=0.0)
    with answering(*([lie] if document else [SOUND, lie])) as url, pytest.raises(HostError) as caught:
        fetch(make_image(url), cache, client=client)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500
    assert not [name for name in files_in(cache) if name.endswith(".qcow2")]


def test_a_download_of_unknown_length_leaves_room(site, image, cache, monkeypatch) -> None:
    site.lengths = False
    free = iter(itertools.chain([SPARE_BYTES + (1 << 20)] * 2, itertools.repeat(SPARE_BYTES)))
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: SimpleNamespace(free=next(free)))
    with pytest.raises(NoSpace, match=r"64 MiB must stay free, and its server does not say how large it is"):
        fetch(image, cache, client=PATIENT)
    assert files_in(cache) == []


def test_a_server_that_hardly_sends_is_given_up(site, image, cache, monkeypatch) -> None:
    now = itertools.count(0, 61)
    monkeypatch.setattr(download.clock, "now_s", lambda: next(now))
    monkeypatch.setattr(download, "CHUNK_BYTES", 100)
    with pytest.raises(Unreachable, match=r"only \d+ bytes in 61 s"):
        fetch(image, cache, client=PATIENT)
