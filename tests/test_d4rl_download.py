"""A D4RL file found where the user says, in the cache, or downloaded whole or not at all."""

from __future__ import annotations

import hashlib
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from test_d4rl import NAME, oracle, rows, write

from envs.d4rl import download, names
from envs.d4rl.load import load_dataset
from rlreg.errors import UserError

FILE = "hopper_medium-v2.hdf5"


VERSION = '"the first"'


class Site:
    """A web site with one file, on this machine only. Keeps what it was asked for.

    `cut`: where the connection ends; `ranges`: whether it sends parts; `if_range`: whether it knows If-Range;
    `version`: of the file, None where it does not say; `length`: whether it says how long the file is; `pace`: so many
    bytes at a time, and seconds between them.
    """

    def __init__(self, content, cut=None, ranges=True, if_range=True, version=VERSION, length=True, pace=None):
        self.content, self.cut, self.ranges, self.if_range = content, cut, ranges, if_range
        self.version, self.length, self.pace = version, length, pace
        self.asked: list[str | None] = []

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.headers.get("Range"))
        if not handler.path.endswith(FILE):
            handler.send_error(404)
            return
        start = int(self.asked[-1][6:].rstrip("-")) if self.asked[-1] and self.ranges else 0
        if self.if_range and handler.headers.get("If-Range", self.version) != self.version:
            start = 0
        if start and start >= len(self.content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        if self.length:
            handler.send_header("Content-Length", str(len(self.content) - start))
        if self.version:
            handler.send_header("ETag" if self.version.startswith(('"', "W/")) else "Last-Modified", self.version)
        handler.end_headers()
        sent = self.content[start : self.cut]
        size, pause = self.pace or (max(1, len(sent)), 0)
        for first in range(0, len(sent), size):
            try:
                handler.wfile.write(sent[first : first + size])
            except OSError:  # nobody listens any more
                return
            time.sleep(pause)
        # The connection closes here, early if it is cut.


@contextmanager
def serve(site: Site):
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            site.answer(self)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def content(tmp_path):
    return write(tmp_path / "source.hdf5", rows(500)).read_bytes()


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("D4RL_DATASET_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def published(monkeypatch, content):
    """Pretend that D4RL's file is `content`. Returns how to pretend something else about it."""

    def pretend(**changes):
        changed = replace(original, **changes)
        monkeypatch.setattr(download, "info", lambda name: changed)

    original = names.info(NAME)
    pretend(size=len(content), sha256=hashlib.sha256(content).hexdigest())
    return pretend


def test_a_path_comes_first_then_the_cache(tmp_path, cache, content, published):
    cache.mkdir()
    (cache / FILE).write_bytes(content)
    mine = write(tmp_path / "mine.hdf5", rows(50))
    assert download.find_dataset(NAME, mine) == mine
    assert download.find_dataset(NAME) == cache / FILE
    assert len(load_dataset(NAME).transitions.obs) == len(oracle(rows(500))["obs"])


def test_the_cache_is_where_the_d4rl_package_keeps_it(monkeypatch):
    monkeypatch.delenv("D4RL_DATASET_DIR", raising=False)
    assert download.cache_folder() == Path.home() / ".d4rl" / "datasets"


def test_a_broken_download_of_another_program_is_not_taken(cache, content, published):
    cache.mkdir()
    (cache / FILE).write_bytes(content[:1000])
    with pytest.raises(UserError, match="1000 bytes where D4RL's file has"):
        download.find_dataset(NAME)


def test_a_downloaded_file_is_whole_and_found_again(cache, content, published):
    with serve(Site(content)) as address:
        assert download.find_dataset(NAME, mirror=f"{address}/sets/").read_bytes() == content
    assert [path.name for path in cache.iterdir()] == [FILE]
    assert download.find_dataset(NAME).read_bytes() == content  # with the site gone


def test_a_download_cut_off_is_no_dataset_and_goes_on(cache, content, published):
    site = Site(content, cut=4000)
    with serve(site) as address:
        with pytest.raises(UserError, match=f"cut off after 4000 of {len(content)} bytes; run again"):
            download.find_dataset(NAME, mirror=address)
        assert {path.name for path in cache.iterdir()} == {FILE + ".part", FILE + ".part.url"}
        site.cut = None
        assert download.find_dataset(NAME, mirror=f"{address}/{FILE}").read_bytes() == content
    assert site.asked == [None, "bytes=4000-"]
    assert [path.name for path in cache.iterdir()] == [FILE]


def leave_part(cache, content, address):
    """What a download from `address` leaves that was cut off after `content`."""
    cache.mkdir(exist_ok=True)
    (cache / f"{FILE}.part").write_bytes(content)
    (cache / f"{FILE}.part.url").write_text(f"{address}/{FILE}\n{VERSION}\n")


def test_a_site_without_ranges_starts_over(cache, content, published):
    site = Site(content, ranges=False)
    with serve(site) as address:
        leave_part(cache, b"x" * 300, address)
        assert download.find_dataset(NAME, mirror=address).read_bytes() == content
    assert site.asked == ["bytes=300-"]


@pytest.mark.parametrize("url", ["http://elsewhere.example", None])
def test_what_came_from_another_address_is_not_gone_on_with(cache, content, published, url):
    published(size=None, sha256=None)  # nothing else would tell that the halves are of two files
    leave_part(cache, b"x" * 300, url)
    if url is None:
        (cache / f"{FILE}.part.url").unlink()
    site = Site(content)
    with serve(site) as address:
        assert download.find_dataset(NAME, mirror=address).read_bytes() == content
    assert site.asked == [None]
    assert [path.name for path in cache.iterdir()] == [FILE]


@pytest.mark.parametrize("known", [True, False])
def test_a_part_that_was_whole_already_is_taken_without_downloading(cache, content, published, known):
    if not known:
        published(size=None, sha256=None)
    with serve(Site(content)) as address:
        leave_part(cache, content, address)
        assert download.find_dataset(NAME, mirror=address).read_bytes() == content


@pytest.mark.parametrize(
    ("sent", "changes", "message"),
    [
        (lambda c: c[:-1], {}, "bytes where D4RL's file has"),
        (lambda c: c + b"x", {}, "bytes where D4RL's file has"),
        (lambda c: b"<html>", {"size": None, "sha256": None}, "is not a whole HDF5 file"),
        (lambda c: c[:4000], {"size": None, "sha256": None}, "is not a whole HDF5 file"),
    ],
)
def test_a_wrong_file_is_not_taken(cache, content, published, sent, changes, message):
    published(**{"size": len(content), "sha256": hashlib.sha256(content).hexdigest()} | changes)
    with serve(Site(sent(content))) as address, pytest.raises(UserError, match=message):
        download.find_dataset(NAME, mirror=address)
    assert not list(cache.iterdir())


def test_another_checksum_is_told_and_the_file_kept(cache, content, published, capsys):
    published(size=len(content), sha256="0" * 64)
    with serve(Site(content)) as address:
        assert download.find_dataset(NAME, mirror=address).read_bytes() == content
    found = hashlib.sha256(content).hexdigest()
    assert f"has SHA-256 {found} where our list has {'0' * 64}; taken all the same" in capsys.readouterr().err


def test_an_address_that_does_not_answer_costs_nothing(cache, content, published):
    with serve(Site(content)) as address:
        leave_part(cache, content[:3000], address)
        with pytest.raises(UserError, match="cannot download"):
            download.find_dataset(NAME, mirror="http://127.0.0.1:9")
        assert (cache / f"{FILE}.part").read_bytes() == content[:3000]
        assert download.find_dataset(NAME, mirror=address).read_bytes() == content


def test_a_page_host_or_address_that_is_not_there_is_one_line(cache, content, published):
    with serve(Site(content)) as address, pytest.raises(UserError, match=r"404|Not Found"):
        download.find_dataset(NAME, mirror=f"{address}/other.hdf5")
    for mirror in (address, "nonsense"):  # nobody listens there any more; not an address
        with pytest.raises(UserError, match=r"cannot download .*; give another address as env.mirror") as error:
            download.find_dataset(NAME, mirror=mirror)
        assert "\n" not in str(error.value)
    assert not list(cache.iterdir())


def test_one_process_downloads_at_a_time(cache, content, published):
    cache.mkdir()
    with download._alone(cache / f"{FILE}.part"), pytest.raises(UserError, match="another process"):
        download.find_dataset(NAME, mirror="http://127.0.0.1:9")


@pytest.mark.parametrize("version", [VERSION, "Thu, 01 Jan 2026 00:00:00 GMT"])
@pytest.mark.parametrize("if_range", [True, False])
def test_two_versions_are_never_spliced(cache, content, published, version, if_range):
    """The file changes at the site after the first half of it came; neither size nor checksum would tell."""
    published(size=None, sha256=None)
    site = Site(bytes(len(content)), cut=4000, version=version, if_range=if_range)
    with serve(site) as address:
        with pytest.raises(UserError, match="cut off after 4000"):
            download.find_dataset(NAME, mirror=address)
        site.content, site.cut, site.version = content, None, version.replace("first", "second").replace("01", "02")
        assert download.find_dataset(NAME, mirror=address).read_bytes() == content
    assert site.asked == [None, "bytes=4000-"] + [None] * (not if_range)


@pytest.mark.parametrize("version", [None, 'W/"weak"'])
def test_without_a_version_a_download_begins_anew(cache, content, published, version):
    site = Site(content, cut=4000, version=version)
    with serve(site) as address:
        with pytest.raises(UserError, match="cut off after 4000"):
            download.find_dataset(NAME, mirror=address)
        site.cut = None
        assert download.find_dataset(NAME, mirror=address).read_bytes() == content
    assert site.asked == [None, None]


def test_what_came_before_a_break_is_kept_to_the_last_byte(cache, content, published):
    site = Site(content, cut=3001, pace=(100, 0.001))
    with serve(site) as address, pytest.raises(UserError, match="cut off after 3001"):
        download.find_dataset(NAME, mirror=address)
    assert (cache / f"{FILE}.part").read_bytes() == content[:3001]


@pytest.mark.parametrize("length", [True, False])
def test_a_file_that_is_too_long_is_not_taken_in(cache, content, published, length):
    """Neither where the site says so nor where it goes on sending."""
    site = Site(content + bytes(1 << 24), length=length)
    with serve(site) as address, pytest.raises(UserError, match=r"bytes where D4RL's|more bytes than the") as error:
        download.find_dataset(NAME, mirror=address)
    assert "\n" not in str(error.value) and not list(cache.iterdir())


def test_a_dripping_download_is_given_up_and_can_go_on(cache, content, published, monkeypatch):
    monkeypatch.setattr(download, "PATIENCE", 0.3)
    monkeypatch.setattr(download, "SLOWEST", 10_000)
    site = Site(content, pace=(10, 0.05))
    with serve(site) as address:
        with pytest.raises(UserError, match=r"given up: it drips, \d+ bytes in .* run again to go on"):
            download.find_dataset(NAME, mirror=address)
        there = len((cache / f"{FILE}.part").read_bytes())
        assert 0 < there < 1000
        site.pace = None
        assert download.find_dataset(NAME, mirror=address).read_bytes() == content
    assert site.asked[-1] == f"bytes={there}-"


def test_a_dripping_answer_is_given_up(cache, published, monkeypatch):
    """A server that sends its first lines a byte at a time."""
    monkeypatch.setattr(download, "PATIENCE", 0.5)

    class Slow(Site):
        def answer(self, handler):
            for byte in b"HTTP/1.0 200 OK\r\n" * 5:
                try:
                    handler.wfile.write(bytes([byte]))
                except OSError:
                    return
                time.sleep(0.02)

    began = time.monotonic()
    with serve(Slow(b"")) as address, pytest.raises(UserError, match=r"no answer within 0.5 seconds"):
        download.find_dataset(NAME, mirror=address)
    assert time.monotonic() - began < 5


def test_what_a_server_says_is_one_line(cache, content, published):
    class Rude(Site):
        def answer(self, handler):
            handler.send_response_only(500, "no\tway  at\x0ball")
            handler.end_headers()

    with serve(Rude(content)) as address:
        for mirror in (address, f"{address}/a\nb", "http://exa\nmple"):
            with pytest.raises(UserError, match="cannot download") as error:
                download.find_dataset(NAME, mirror=mirror)
            assert len(str(error.value).splitlines()) == 1


def test_a_broken_note_beside_a_part_is_as_none(cache, content, published):
    site = Site(content)
    with serve(site) as address:
        leave_part(cache, b"x" * 300, address)
        (cache / f"{FILE}.part.url").write_bytes(b"\xff\xfe")
        assert download.find_dataset(NAME, mirror=address).read_bytes() == content
    assert site.asked == [None]
