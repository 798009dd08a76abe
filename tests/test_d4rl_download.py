"""A D4RL file found where the user says, in the cache, or downloaded whole or not at all."""

from __future__ import annotations

import hashlib
import threading
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


class Site:
    """A web site with one file, on this machine only. Keeps what it was asked for."""

    def __init__(self, content: bytes, cut: int | None = None, ranges: bool = True):
        self.content, self.cut, self.ranges = content, cut, ranges
        self.asked: list[str | None] = []

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.headers.get("Range"))
        if not handler.path.endswith(FILE):
            handler.send_error(404)
            return
        start = int(self.asked[-1][6:].rstrip("-")) if self.asked[-1] and self.ranges else 0
        if start and start >= len(self.content):
            handler.send_error(416)
            return
        handler.send_response(206 if start else 200)
        if start:
            handler.send_header("Content-Range", f"bytes {start}-{len(self.content) - 1}/{len(self.content)}")
        handler.send_header("Content-Length", str(len(self.content) - start))
        handler.end_headers()
        handler.wfile.write(self.content[start : self.cut])  # the connection closes here, early if it is cut


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


def test_download(cache, content, published):
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
    (cache / f"{FILE}.part.url").write_text(f"{address}/{FILE}")


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
def test_a_part_that_was_whole_already(cache, content, published, known):
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


def test_no_such_page_no_such_host_no_address(cache, content, published):
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
