"""Starting the runs of a table: as processes of this machine, or as Ray tasks on a cluster.

Both go on when a run fails, and return the runs that did. Ctrl-C and SIGTERM reach the runs, which save and stop; so
does the end of the minutes that they are given.
"""

from __future__ import annotations

import importlib
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rlreg.errors import UserError
from rlreg.interrupts import Interrupted, interrupts

POLL_SECONDS = 0.2
NEWS_SECONDS = 30.0
WAIT = "RLREG_WAIT"
"""Set for the runs of tables and sweeps: where another process is in a run's folder, they wait for it."""
STOPPED = 130  # the status of a run that was told to stop


@dataclass(frozen=True)
class Job:
    """A command to start, and what it needs."""

    name: str
    """What progress lines call it."""
    command: list[str]
    log: Path
    """Where its output goes, stdout and stderr together."""
    threads: int = 1
    """CPU threads that it uses: what it asks of Ray."""
    gpus: float = 0.0
    """GPUs that it asks of Ray; 0.25 lets four runs share one."""
    seconds: float | None = None
    """How long it is going to take, by the speeds measured so far; None where nothing is known."""


class TimeIsUp(Interrupted):
    """The minutes are over: `stopped` runs have saved what they had, and `left` were not started."""

    def __init__(self, minutes: float, stopped: Sequence[Job], left: Sequence[Job], failed: Sequence[Job]) -> None:
        self.stopped, self.left, self.failed = list(stopped), list(left), list(failed)
        parts = [f"{len(stopped)} stopped" if stopped else "", f"{len(left)} not started" if left else ""]
        parts.append(f"{len(failed)} failed" if failed else "")
        said = ", ".join(filter(None, parts))
        super().__init__(f"launcher.minutes={minutes:g}: {said}; the same command goes on from there")


class Backend(Protocol):
    """Where runs go. A handle stands for a run that was started."""

    def start(self, run: Job) -> Any: ...
    def status(self, handle: Any) -> int | None:
        """The exit status; None while it runs."""

    def stop(self, handle: Any) -> None:
        """Have it save and stop."""

    def kill(self, handle: Any) -> None:
        """End it at once; it goes on from its last checkpoint when started again."""


def local(runs: Sequence[Job], jobs: int, minutes: float | None = None) -> list[Job]:
    """Run all as processes of this machine, `jobs` at a time. Returns those that failed.

    Raises `Interrupted` after Ctrl-C or SIGTERM, once the runs have saved and stopped. With `minutes`, no run is
    started that would take longer than what is left of them, and `TimeIsUp` is raised where not all could be done.
    """
    return _drive(runs, jobs, Processes(), minutes)


def ray(runs: Sequence[Job], jobs: int, minutes: float | None = None) -> list[Job]:
    """As `local` on Ray, at most `jobs` at a time: on the cluster that `ray.init` finds, else on this machine.

    The machines must share the working folder and have the same Python. A run whose machine is lost goes on elsewhere
    from its last checkpoint, up to three times, Ray's default. Raises `UserError` without Ray.
    """
    return _drive(runs, jobs, RayTasks(max(run.gpus for run in runs)), minutes)


class Processes:
    """Runs as child processes."""

    def start(self, run: Job) -> subprocess.Popen:
        return _start(run.command, run.log)

    def status(self, handle: subprocess.Popen) -> int | None:
        return handle.poll()

    def stop(self, handle: subprocess.Popen) -> None:
        handle.send_signal(signal.SIGTERM)

    def kill(self, handle: subprocess.Popen) -> None:
        if handle.poll() is None:
            os.killpg(handle.pid, signal.SIGKILL)  # with the processes of its worlds
            handle.wait()


class RayTasks:
    """Runs as Ray tasks, each of which watches over one child process."""

    def __init__(self, gpus: float) -> None:
        try:
            self.ray = importlib.import_module("ray")
        except ImportError:
            raise UserError("launcher=ray needs Ray: pip install 'rlreg[ray]', or give launcher=local") from None
        try:
            self.ray.init(ignore_reinit_error=True, log_to_driver=False)
        except ConnectionError as error:
            raise UserError(f"launcher=ray: no connection to the cluster ({error})") from None
        there = self.ray.cluster_resources().get("GPU", 0.0)
        if gpus > there:  # not an error: a cluster may grow on demand
            print(f"warning: a run asks for {gpus:g} GPUs, Ray has {there:g} now; it waits until there are more")

    def start(self, run: Job) -> Any:
        task = self.ray.remote(num_cpus=run.threads, num_gpus=run.gpus)(_watch)
        return task.remote(run.command, run.log.resolve(), Path.cwd())

    def status(self, handle: Any) -> int | None:
        ready, _ = self.ray.wait([handle], timeout=0)
        if not ready:
            return None
        try:
            return self.ray.get(handle)
        except self.ray.exceptions.TaskCancelledError:
            return STOPPED
        except self.ray.exceptions.RayError as error:  # such as a machine that was lost for good
            print(f"Ray: {str(error).strip().splitlines()[0]}", flush=True)
            return -1

    def stop(self, handle: Any) -> None:
        self.ray.cancel(handle)

    def kill(self, handle: Any) -> None:
        self.ray.cancel(handle, force=True)


def _start(command: Sequence[str], log: Path, folder: Path | None = None) -> subprocess.Popen:
    # A process group of its own: the terminal's Ctrl-C would else reach the run beside our signal, and a second
    # signal tells a run not to save.
    log.unlink(missing_ok=True)  # an orphan of a table that was killed may still write into the one before
    with log.open("w") as file:
        return subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            env=os.environ | {WAIT: "1"},
            process_group=0,
        )


# What a process is that ends when the one ends that started it, by Linux's doing. Else a run would go on whose Ray
# worker was lost, and be in the way of the one that Ray starts in its place.
TETHERED = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):  # it has ended already
    sys.exit(1)
os.execvp(sys.argv[2], sys.argv[2:])
"""


def _watch(command: Sequence[str], log: Path, folder: Path) -> int:
    """The Ray task: the exit status of a process; a cancelled task stops it first, and waits while it saves.

    A task that was lost with its machine is started again by Ray elsewhere, and the run goes on from its checkpoint.
    """
    if sys.platform == "linux":
        command = [sys.executable, "-S", "-c", TETHERED, str(os.getpid()), *command]
    # Ray cancels by Python's handler of SIGINT, of which there is none where the signal was ignored when Ray was
    # started: by a script in the background, say.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    process = _start(command, log, folder)
    try:
        while process.poll() is None:  # not wait(): Ray's cancellation is seen between Python instructions only
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        process.send_signal(signal.SIGTERM)  # not SIGINT, which may be ignored
        process.wait()
        raise
    return process.returncode


def _drive(runs: Sequence[Job], jobs: int, backend: Backend, minutes: float | None = None) -> list[Job]:
    waiting = dict(enumerate(runs, start=1))
    going: dict[int, tuple[Job, Any, float]] = {}
    failed: list[tuple[Job, int]] = []
    stopped: list[Job] = []
    end = math.inf if minutes is None else time.monotonic() + 60 * minutes
    news = LogTail()

    def say(number: int, run: Job, what: str) -> None:
        print(f"[{number}/{len(runs)}] {run.name}: {what}", flush=True)

    def next_that_fits() -> int | None:
        left = end - time.monotonic()
        return next((number for number, run in waiting.items() if (run.seconds or 0.0) <= left), None)

    def collect(stopping: bool = False) -> None:
        for number, (run, handle, started) in list(going.items()):
            status = backend.status(handle)
            if status is not None:
                del going[number]
                if stopping and status in (STOPPED, -signal.SIGTERM):  # the latter while it was starting
                    stopped.append(run)
                elif status:
                    failed.append((run, status))
                took = f"after {time.monotonic() - started:.0f} s"
                say(number, run, f"ended with status {status} {took}" if status else f"done {took}")

    def stop_all() -> None:
        for _, handle, _ in going.values():
            backend.stop(handle)
        while going:
            time.sleep(POLL_SECONDS)
            collect(stopping=True)

    with interrupts() as interrupted:
        try:
            while not interrupted() and time.monotonic() < end:
                while len(going) < jobs and (number := next_that_fits()) is not None:
                    run = waiting.pop(number)
                    say(number, run, f"started; log: {run.log}")
                    going[number] = (run, backend.start(run), time.monotonic())
                if not going:
                    break
                time.sleep(POLL_SECONDS)
                collect()
                for number, line in news.of({number: run.log for number, (run, *_) in going.items()}):
                    say(number, going[number][0], line)
            if interrupted():
                print("stopping; a second Ctrl-C does not wait for the runs to save", flush=True)
                stop_all()
                raise Interrupted("stopped; the same command goes on from there")
            if going:
                print(f"the {minutes:g} minutes are over: stopping what still runs", flush=True)
                stop_all()
        except KeyboardInterrupt:
            for _, handle, _ in going.values():
                backend.kill(handle)
            raise
    for number, run in waiting.items():
        if run.seconds:
            say(number, run, f"not started: it would take some {run.seconds / 60:.1f} minutes more")
    for run, status in failed:
        print(f"failed: {run.name} (status {status}): {last_line(run.log)}; log: {run.log}", flush=True)
    broken = [run for run, _ in failed]
    if stopped or waiting:
        raise TimeIsUp(minutes, stopped, list(waiting.values()), broken)
    return broken


class LogTail:
    """The last lines of logs, where they changed since last told; looked at every `NEWS_SECONDS`."""

    def __init__(self) -> None:
        self.next = time.monotonic() + NEWS_SECONDS
        self.told: dict[int, str] = {}

    def of(self, logs: dict[int, Path]) -> Iterable[tuple[int, str]]:
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + NEWS_SECONDS
        for number, log in logs.items():
            line = last_line(log)
            if line and line != self.told.get(number):
                self.told[number] = line
                yield number, line


def last_line(log: Path) -> str:
    """The last line of a log that is not empty; '' where there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 4096))
            lines = file.read().decode(errors="replace").split("\n")
    except OSError:
        return ""
    return next((line.strip() for line in reversed(lines) if line.strip()), "")
