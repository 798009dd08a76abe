"""Takes the documentation's pictures of TensorBoard, in a real browser without a window: `python docs/pictures.py`.

What is shown are the kept results of `results/beer` and `results/dred`, written as event streams by rlreg's own logger.
Needs Chromium (Debian's package `chromium`).
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from rlreg.by_seed import write_seeds, write_stream  # noqa: E402
from rlreg.errors import UserError  # noqa: E402
from rlreg.naming import folder_name, run_folders  # noqa: E402
from rlreg.run_folder import RunFolder  # noqa: E402

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
TABS = {"timeseries": "timeseries", "dashboard": "custom_scalars", "hparams": "hparams"}


@contextmanager
def tensorboard(logdir: Path) -> Iterator[str]:
    """Its address, while it runs."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", f"--logdir={logdir}", f"--port={port}", "--host=127.0.0.1"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}"
    try:
        for _ in range(240):
            try:
                if b"[]" not in urllib.request.urlopen(f"{address}/data/runs", timeout=5).read():
                    break
            except OSError:
                pass
            time.sleep(0.5)
        yield address
    finally:
        server.terminate()
        server.wait()


def browser() -> str | None:
    """The browser's program, if there is one."""
    return next((found for name in BROWSERS if (found := shutil.which(name))), None)


def shoot(address: str, path: Path, size: tuple[int, int] = (1400, 900), seconds: int = 40) -> None:
    """A picture of a page after `seconds` of the page's own time."""
    with tempfile.TemporaryDirectory() as profile:
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
        flags += ["--disable-component-update", "--disable-sync", f"--user-data-dir={profile}", "--hide-scrollbars"]
        flags += [f"--window-size={size[0]},{size[1]}", f"--virtual-time-budget={1000 * seconds}"]
        command = [browser(), *flags, f"--screenshot={path}", address]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=300)


def main() -> None:
    if browser() is None:
        sys.exit(f"no browser found ({', '.join(BROWSERS)}); on Debian: apt-get install chromium")
    pictures = ROOT / "docs" / "pictures"
    for name in ("beer", "dred"):
        kept = ROOT / "results" / name
        with tempfile.TemporaryDirectory() as folder:
            means, seeds = Path(folder) / "means", Path(folder) / "seeds"
            for run in (run for run in run_folders(kept) if "before" not in run.parts):
                cfg = RunFolder(run).read_config()
                place = Path(cfg.env.name) / folder_name(cfg)  # as the run would be called today
                try:
                    write_stream(run, means / place)
                    write_seeds(run, seeds / place)
                except UserError as error:  # such as a run without evaluations
                    print(error, file=sys.stderr)
            for logdir, tabs in ((means, TABS), (seeds, {"seeds": "hparams"})):
                with tensorboard(logdir) as address:
                    for tab, anchor in tabs.items():
                        shoot(f"{address}/#{anchor}", pictures / f"{name}_{tab}.png")
                        print(pictures / f"{name}_{tab}.png", flush=True)


if __name__ == "__main__":
    main()
