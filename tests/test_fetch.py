"""Downloads from a local server that breaks off and reports errors; unpacking of malicious archives."""

import hashlib
import io
import os
import re
import socket
import stat
import tarfile
import threading
import zipfile
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from mlssl.datasets import fetch
from mlssl.datasets.fetch import download
from mlssl.datasets.unpack import HARMLESS, unpack
from mlssl.errors import DataError

BODY = np.random.default_rng(0).bytes(300_000)


class Server(ThreadingHTTPServer):
    """Serves `files`; `asked` lists the path and Range header of each request."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.asked = {"/a.bin": BODY}, []
        self.breaks = []  # bytes to send before the line is cut, one entry a request
        self.states = []  # HTTP states to answer with instead, one entry a request
        self.knows_range = True
        self.version = '"one"'

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        server, span = self.server, self.headers.get("Range")
        server.asked.append((self.path, span))
        if server.states:
            return self.send_error(server.states.pop(0))
        body = server.files.get(self.path)
        if body is None:
            return self.send_error(404)
        total, start = len(body), 0
        same = self.headers.get("If-Range") in (None, server.version)
        if span and server.knows_range and same:
            start = int(re.fullmatch(r"bytes=(\d+)-", span)[1])
            self.send_response(206 if start < total else 416)
            within = f"{start}-{total - 1}" if start < total else "*"
            self.send_header("Content-Range", f"bytes {within}/{total}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(total - start))
        self.send_header("ETag", server.version)
        self.end_headers()
        end = start + server.breaks.pop(0) if server.breaks else total
        self.wfile.write(body[start:end])
        self.close_connection = True

    def log_message(self, *args):
        pass


@contextmanager
def serving():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def server():
    with serving() as server:
        yield server


def md5(data):
    return hashlib.md5(data).hexdigest()


def left(folder):
    """Names of the files in a folder, without locks."""
    return sorted(p.name for p in folder.iterdir() if not p.name.endswith(".lock"))


def test_a_file_is_downloaded_and_checked_once(server, tmp_path):
    to = tmp_path / "new" / "a.bin"
    sums = {"md5": md5(BODY), "sha256": hashlib.sha256(BODY).hexdigest().upper(), "size": len(BODY)}
    assert download(server.url("a.bin"), to, **sums) == to
    assert to.read_bytes() == BODY
    assert left(to.parent) == ["a.bin"]
    download(server.url("a.bin"), to, **sums)
    assert server.asked == [("/a.bin", None)]


def test_a_broken_transfer_resumes(server, tmp_path):
    server.breaks = [100_000, 50_000]
    download(server.url("a.bin"), tmp_path / "a.bin", md5=md5(BODY), wait_s=0.001)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert [span for _, span in server.asked] == [None, "bytes=100000-", "bytes=150000-"]
    assert left(tmp_path) == ["a.bin"]


def test_a_later_call_resumes_too(server, tmp_path):
    server.breaks = [100_000]
    with pytest.raises(DataError, match=r"broke off at 100,000 of 300,000.*kept in .*a\.bin\.part"):
        download(server.url("a.bin"), tmp_path / "a.bin", attempts=1)
    assert not (tmp_path / "a.bin").exists()
    download(server.url("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert server.asked[1] == ("/a.bin", "bytes=100000-")


def test_pooch_does_not_resume_a_broken_transfer(server, tmp_path):
    """Why `download` is our own code."""
    pooch = pytest.importorskip("pooch")
    server.breaks, known = [100_000], f"md5:{md5(BODY)}"
    with pytest.raises((OSError, ValueError)):
        pooch.retrieve(server.url("a.bin"), known, path=tmp_path)
    pooch.retrieve(server.url("a.bin"), known, path=tmp_path)
    assert [span for _, span in server.asked] == [None, None]


def test_a_file_that_changed_meanwhile_is_downloaded_from_the_start(server, tmp_path):
    server.breaks = [100_000]
    with pytest.raises(DataError, match="broke off"):
        download(server.url("a.bin"), tmp_path / "a.bin", attempts=1)
    server.version, server.files["/a.bin"] = '"two"', BODY[::-1]
    download(server.url("a.bin"), tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == BODY[::-1]


def test_without_range_a_file_is_downloaded_from_the_start(server, tmp_path):
    server.breaks, server.knows_range = [100_000], False
    download(server.url("a.bin"), tmp_path / "a.bin", md5=md5(BODY), wait_s=0.001)
    assert (tmp_path / "a.bin").read_bytes() == BODY


@pytest.mark.parametrize("extra", [b"", b"more"])
def test_a_partial_file_that_is_complete_or_too_long(server, tmp_path, extra):
    (tmp_path / "a.bin.part").write_bytes(BODY + extra)
    download(server.url("a.bin"), tmp_path / "a.bin", md5=md5(BODY), wait_s=0.001)
    assert (tmp_path / "a.bin").read_bytes() == BODY
    assert len(server.asked) == (2 if extra else 1)


def test_a_wrong_checksum_removes_the_file_and_a_retry_starts_from_the_beginning(server, tmp_path):
    with pytest.raises(DataError, match=rf"md5 {md5(BODY)}, not {'0' * 32}; the partial file is removed"):
        download(server.url("a.bin"), tmp_path / "a.bin", md5="0" * 32)
    assert left(tmp_path) == []
    download(server.url("a.bin"), tmp_path / "a.bin", md5=md5(BODY))
    assert [span for _, span in server.asked] == [None, None]


def test_another_size_is_refused_before_the_transfer(server, tmp_path):
    with pytest.raises(DataError, match="offers 300,000 bytes, not 299,999"):
        download(server.url("a.bin"), tmp_path / "a.bin", size=299_999)
    assert left(tmp_path) == []


def test_a_busy_server_is_retried_and_a_missing_file_is_not(server, tmp_path):
    server.states = [503, 500]
    download(server.url("a.bin"), tmp_path / "a.bin", wait_s=0.001)
    assert len(server.asked) == 3
    with pytest.raises(DataError, match=r"404.*download it by hand as .*b\.bin$"):
        download(server.url("b.bin"), tmp_path / "b.bin")
    assert len(server.asked) == 4


def test_offline(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/a.bin"
        with pytest.raises(DataError, match=r"cannot be reached.*3 attempts.*check the network"):
            download(url, tmp_path / "a.bin", attempts=3, wait_s=0.001)
    with pytest.raises(DataError, match="only http"):
        download("file:///etc/passwd", tmp_path / "b")


def test_a_full_disk_is_reported_before_the_transfer(server, tmp_path, monkeypatch):
    usage = fetch.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    with pytest.raises(DataError, match="300,000 bytes remain to download"):
        download(server.url("a.bin"), tmp_path / "a.bin")


def test_a_disk_that_fills_up_meanwhile(server, tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(fetch.os, "fsync", full)
    monkeypatch.setattr(fetch, "write_text", lambda path, text: path.write_text(text))
    with pytest.raises(DataError, match=r"a\.bin\.part: the disk is full"):
        download(server.url("a.bin"), tmp_path / "a.bin")


def write_tar(path, members, mode="w"):
    with tarfile.open(path, mode) as tar:
        for member in members:
            info, data = member if isinstance(member, tuple) else (member, b"")
            info = tarfile.TarInfo(info) if isinstance(info, str) else info
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def write_zip(path, members):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as handle:
        for info, data in members:
            handle.writestr(info, data)
    return path


GOOD = [("d/a.txt", b"first"), ("d/e/b.txt", b"second")]


def tar_info(name, kind, target=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def zip_link(name, mode=stat.S_IFLNK):
    info = zipfile.ZipInfo(name)
    info.create_system, info.external_attr = 3, (mode | 0o777) << 16
    return info


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz", "a.tar.xz"])
def test_unpacking(tmp_path, name):
    archive = tmp_path / name
    if name == "a.zip":
        write_zip(archive, [("d/", b""), *GOOD])
    else:
        modes = {"a.tar": "w", "a.tar.gz": "w:gz", "a.tar.xz": "w:xz"}
        write_tar(archive, [tar_info(".", tarfile.DIRTYPE), *GOOD], modes[name])
    into = unpack(archive, tmp_path / "out")
    assert (into / "d/a.txt").read_bytes() == b"first"
    assert (into / "d/e/b.txt").read_bytes() == b"second"
    assert os.access(into / "d/e/b.txt", os.R_OK | os.W_OK)
    archive.unlink()
    assert unpack(archive, into) == into, "an unpacked folder is left unchanged"


def test_names_in_other_scripts(tmp_path):
    names = ["bücher/été.jpg", "画像/一.jpg", "with space .jpg"]
    for archive in (
        write_zip(tmp_path / "a.zip", [(name, b"x") for name in names]),
        write_tar(tmp_path / "a.tar", [(name, b"x") for name in names]),
    ):
        into = unpack(archive, tmp_path / f"{archive.name}.out")
        assert sorted(p.relative_to(into).as_posix() for p in into.rglob("*.jpg")) == sorted(names)


EVIL = {
    "up.tar": [*GOOD, ("../evil", b"x")],
    "deep.tar": [*GOOD, ("d/../../evil", b"x")],
    "absolute.tar": [*GOOD, ("/tmp/evil", b"x")],
    "symlink.tar": [*GOOD, tar_info("d/l", tarfile.SYMTYPE, "..")],
    "through.tar": [tar_info("d/l", tarfile.SYMTYPE, "/tmp"), ("d/l/evil", b"x")],
    "hardlink.tar": [*GOOD, tar_info("d/l", tarfile.LNKTYPE, "d/a.txt")],
    "device.tar": [*GOOD, tar_info("d/l", tarfile.CHRTYPE)],
    "fifo.tar": [*GOOD, tar_info("d/l", tarfile.FIFOTYPE)],
    "updir.tar": [*GOOD, tar_info("../d", tarfile.DIRTYPE)],
    "up.zip": [*GOOD, ("../evil", b"x")],
    "absolute.zip": [*GOOD, ("/tmp/evil", b"x")],
    "drive.zip": [*GOOD, ("C:/evil", b"x")],
    "backslash.zip": [*GOOD, ("..\\evil", b"x")],
    "symlink.zip": [*GOOD, (zip_link("d/l"), b"..")],
    "device.zip": [*GOOD, (zip_link("d/l", stat.S_IFCHR), b"")],
}


@pytest.mark.parametrize("name", EVIL)
def test_evil_archives_leave_nothing_behind(tmp_path, name):
    (tmp_path / "in").mkdir()
    archive = (write_zip if name.endswith("zip") else write_tar)(tmp_path / "in" / name, EVIL[name])
    with pytest.raises(DataError, match=rf"{re.escape(name)}: .*refused, nothing is unpacked"):
        unpack(archive, tmp_path / "out" / "a")
    assert left(tmp_path / "out") == []
    assert left(tmp_path) == ["in", "out"]


@pytest.mark.parametrize(
    "name", ["absolute.tar", "symlink.tar", "hardlink.tar", "up.zip", "absolute.zip", "symlink.zip"]
)
def test_tarfile_and_zipfile_accept_archives_that_we_refuse(tmp_path, name):
    """Why `unpack` checks the members itself: a link stays, or a file gets another name than the archive says."""
    if name.endswith("zip"):
        with zipfile.ZipFile(write_zip(tmp_path / name, EVIL[name])) as archive:
            archive.extractall(tmp_path / "out")
    else:
        with tarfile.open(write_tar(tmp_path / name, EVIL[name])) as archive:
            archive.extractall(tmp_path / "out", filter="data")
    assert [path for path in (tmp_path / "out").rglob("*") if path.name in ("l", "evil")]


@pytest.mark.parametrize("name", ["bomb.zip", "bomb.tar.gz"])
def test_a_bomb_is_refused(tmp_path, name):
    zeros = [(f"{i}.bin", bytes(HARMLESS // 4)) for i in range(5)]
    archive = tmp_path / name
    write_zip(archive, zeros) if name.endswith("zip") else write_tar(archive, zeros, "w:gz")
    assert archive.stat().st_size < HARMLESS / 100
    with pytest.raises(DataError, match="decompression bomb"):
        unpack(archive, tmp_path / "out")
    assert left(tmp_path) == [name]
    unpack(archive, tmp_path / "out", limit=2 * HARMLESS)


def test_a_small_limit_and_a_small_disk(tmp_path, monkeypatch):
    archive = write_tar(tmp_path / "a.tar", GOOD)
    with pytest.raises(DataError, match="over 10 bytes"):
        unpack(archive, tmp_path / "out", limit=10)
    usage = fetch.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda path: usage._replace(free=10))
    with pytest.raises(DataError, match=r"unpacks to 11 bytes.*has room for 10"):
        unpack(archive, tmp_path / "out")
    assert left(tmp_path) == ["a.tar"]


def test_a_zip_that_declares_wrong_sizes(tmp_path):
    archive = write_zip(tmp_path / "a.zip", [("a", bytes(5000))])
    content = archive.read_bytes().replace((5000).to_bytes(4, "little"), (50).to_bytes(4, "little"))
    archive.write_bytes(content)
    with pytest.raises(DataError, match="fetch it again"):
        unpack(archive, tmp_path / "out")
    assert left(tmp_path) == ["a.zip"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar", "a.tar.gz"])
@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_cut_off_archives(tmp_path, name, share):
    data = [("a.bin", BODY), ("b.bin", BODY)]
    archive = tmp_path / name
    write_zip(archive, data) if name == "a.zip" else write_tar(archive, data, "w:gz" if "gz" in name else "w")
    os.truncate(archive, int(archive.stat().st_size * share))
    with pytest.raises(DataError, match="fetch it again"):
        unpack(archive, tmp_path / "out")
    assert left(tmp_path) == [name]


def test_no_archive(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        unpack(tmp_path / "a.zip", tmp_path / "out")
