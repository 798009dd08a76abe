"""`python run.py ...` without its imports: forks of a process that made them once.

A process that starts anew spends some four seconds on importing PyTorch, MuJoCo and Hydra. A fork of one that has them
is a process of its own all the same: it has its own memory, process group, signals and exit status, and is killed like
any other. Nothing but imports has happened in the one that it is forked from, which has one thread.

    server = Server()
    process = server.start([sys.executable, "run.py", "agent=beer"], cwd=folder, stdout=file)   # a `Fork`
    process.wait()
    server.close()

A script may call `server.client` in place of `python`: it passes signals on, and ends with the fork's status.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import IO, Any

ROOT = Path(__file__).parent.parent
RUN_PY = str(ROOT / "run.py")


class Fork:
    """A process that was forked; what `subprocess.Popen` has of it. Of a pipe there is all at once, when it has ended.

    Its status comes over `connection`, since it is no child of this process.
    """

    def __init__(self, connection: socket.socket, args: Sequence[str], captured: dict[str, IO[bytes]]) -> None:
        self.args, self.returncode = list(args), None
        self._connection, self._captured = connection, captured
        self._lines = connection.makefile("r")
        self.pid = int(self._lines.readline())

    def poll(self) -> int | None:
        if self.returncode is None and select.select([self._connection], [], [], 0)[0]:
            self.returncode = int(self._lines.readline())
            self._connection.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None and not select.select([self._connection], [], [], timeout)[0]:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.poll()

    def communicate(self, timeout: float | None = None) -> tuple[str | None, str | None]:
        self.wait(timeout)
        return tuple(self._said(name) for name in ("stdout", "stderr"))

    def _said(self, name: str) -> str | None:
        if name not in self._captured:
            return None
        self._captured[name].seek(0)
        return self._captured[name].read().decode()

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)


class Server:
    """Starts the process that is forked, when it is first needed."""

    def __init__(self, path: Path | None = None) -> None:
        """With `path`, the socket of one that is there already."""
        self._process: subprocess.Popen | None = None
        self._folder = None if path else Path(tempfile.mkdtemp(prefix="forks-"))  # pytest's are too long for sockets
        self.path = path or self._folder / "socket"

    @property
    def client(self) -> Path:
        """A program that stands for `python` in a shell script."""
        self._begin()
        path = self._folder / "python"
        path.write_text(f"#!{sys.executable} -ISB\n{CLIENT.replace('SOCKET', repr(str(self.path)))}")
        path.chmod(0o755)
        return path

    def _begin(self) -> None:
        """Have it ready. It ends when its stdin does: with this process, whatever becomes of that."""
        if self._folder is None or self._process is not None:
            return
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        command = [sys.executable, __file__, str(self.path)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, cwd=ROOT, env=environment, start_new_session=True
        )
        deadline = time.monotonic() + 300
        while not self.path.exists():
            assert self._process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)

    def start(
        self,
        args: Sequence[str],
        *,
        cwd: str | Path | None = None,
        env: dict[str, str] | None = None,
        stdin: int | None = None,
        stdout: Any = None,
        stderr: Any = None,
        process_group: int | None = None,
        start_new_session: bool = False,
    ) -> Fork:
        """`subprocess.Popen(args, ...)` of `[sys.executable, "<a Python script>", ...]`."""
        self._begin()
        captured = {}
        places = {"stdout": stdout, "stderr": stderr}
        for name, place in places.items():
            if place == subprocess.PIPE:
                places[name] = captured[name] = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
            elif place is None:
                places[name] = {"stdout": 1, "stderr": 2}[name]
        if places["stderr"] == subprocess.STDOUT:
            places["stderr"] = places["stdout"]
        with open(os.devnull, "r+b") as nothing:
            given = [nothing, *(nothing if place == subprocess.DEVNULL else place for place in places.values())]
            own = "session" if start_new_session else "group" if process_group == 0 else ""
            connection = connect(self.path, list(args[1:]), cwd or os.getcwd(), env or dict(os.environ), own, given)
        return Fork(connection, args, captured)

    def popen(self, args: Sequence[str], **settings: Any) -> Fork | subprocess.Popen:
        """`subprocess.Popen`, which forks what would start `python run.py` of this repository."""
        if list(args[:2]) == [sys.executable, RUN_PY]:
            settings.pop("text", None)
            return self.start(args, **settings)
        return subprocess.Popen(args, **settings)

    def run(self, args: Sequence[str], timeout: float = 300, **settings: Any) -> subprocess.CompletedProcess:
        """`subprocess.run(args, capture_output=True, text=True)`."""
        process = self.start(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **settings)
        try:
            said = process.communicate(timeout)
        except BaseException:
            process.kill()
            raise
        return subprocess.CompletedProcess(process.args, process.returncode, *said)

    def close(self) -> None:
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait(timeout=10)
        shutil.rmtree(self._folder)


def connect(
    path: str | Path, argv: list[str], cwd: str | Path, env: dict[str, str], own: str, files: list[Any]
) -> socket.socket:
    """Ask for a fork. What comes back over the socket is a line with its pid, and one with its status at the end."""
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    asked = json.dumps({"argv": argv, "cwd": str(cwd), "env": env, "own": own}) + "\n"
    descriptors = [f if isinstance(f, int) else f.fileno() for f in files]
    socket.send_fds(connection, [asked[:1].encode()], descriptors)
    connection.sendall(asked[1:].encode())
    return connection


# What stands for `python` in a shell script. It imports nothing that takes time.
CLIENT = """
import json, os, signal, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.connect(SOCKET)
asked = json.dumps({"argv": sys.argv[1:], "cwd": os.getcwd(), "env": dict(os.environ), "own": ""}) + "\\n"
early = []
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: early.append(number))
socket.send_fds(connection, [asked[:1].encode()], [0, 1, 2])
connection.sendall(asked[1:].encode())
lines = connection.makefile("r")
pid = int(lines.readline())
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, lambda number, _: os.kill(pid, number))
for number in early:
    os.kill(pid, number)
status = int(lines.readline())
sys.exit(status if status >= 0 else 128 - status)
"""


# ------------------------------------------------------------------ in the process that is forked


def serve(path: str) -> list[str]:
    """Fork whatever is asked for until stdin ends. Returns in a fork: what it is to run."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path + ".new")
    listener.listen(64)
    os.rename(path + ".new", path)  # it is there once it is listened to
    ended: dict[int, tuple[int, socket.socket]] = {}  # a fork's descriptor -> it, and who waits for it
    while True:
        ready, _, _ = select.select([0, listener, *ended], [], [])
        if 0 in ready:
            os._exit(0)
        for descriptor in ready:
            if descriptor in ended:
                pid, connection = ended.pop(descriptor)
                os.close(descriptor)
                tell(connection, os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
                connection.close()
        if listener in ready:
            connection, _ = listener.accept()
            asked, descriptors = receive(connection)
            pid = os.fork()
            if pid == 0:
                for file in (listener, connection, *(c for _, c in ended.values())):
                    file.close()
                for descriptor in ended:
                    os.close(descriptor)
                return become(asked, descriptors)
            for descriptor in descriptors:
                os.close(descriptor)
            ended[os.pidfd_open(pid)] = pid, connection
            tell(connection, pid)


def receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    text, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
    while not text.endswith(b"\n"):
        text += connection.recv(1 << 16)
    return json.loads(text), descriptors


def tell(connection: socket.socket, number: int) -> None:
    with contextlib.suppress(OSError):  # who asked has ended
        connection.sendall(f"{number}\n".encode())


def become(asked: dict[str, Any], descriptors: list[int]) -> list[str]:
    """What a process is that was started as `asked`."""
    if asked["own"] == "session":
        os.setsid()
    elif asked["own"] == "group":
        os.setpgid(0, 0)
    for place, descriptor in enumerate(descriptors):
        os.dup2(descriptor, place)
        os.close(descriptor)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["env"])
    return asked["argv"]


def run(argv: list[str], server: str) -> None:
    """As `python <script> ...`. The runs that this one starts, as those of a table, are forks too."""
    own = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p]
    sys.path[:] = [os.path.dirname(os.path.abspath(argv[0])), *own, *sys.path[1:]]
    sys.argv = argv
    share(Server(Path(server)))
    status: Any = 0
    try:
        runpy.run_path(argv[0], run_name="__main__")
    except SystemExit as stop:
        status = stop.code
    if status is None or isinstance(status, int):
        threading._shutdown()
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status or 0)  # taking PyTorch's modules apart takes 0.7 s, and nothing more comes of it
    sys.exit(status)


def share(server: Server, change: Callable[[Any, str, Any], None] = setattr) -> None:
    """Have this process's tables and sweeps fork their runs."""
    from rlreg import launchers

    given = SimpleNamespace(Popen=server.popen, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    change(launchers, "subprocess", given)


LOADED = "agents", "envs.registry", "rlreg.command", "rlreg.describe", "rlreg.sweep", "torch.utils.tensorboard"
"""What a fork has imported before it begins."""

if __name__ == "__main__":
    sys.path[0] = str(ROOT)
    for module in LOADED:
        importlib.import_module(module)
    gc.collect()
    gc.freeze()  # forks share what is there: their collections need not look at it
    run(serve(sys.argv[1]), sys.argv[1])
