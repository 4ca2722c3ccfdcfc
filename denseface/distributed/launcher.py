"""Start, show and end the scheduler, the servers and the workers of a distributed run together."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
import selectors
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from denseface.core.errors import InputError
from denseface.core.files import read_lines
from denseface.core.signals import SIGNALS, handled_by
from denseface.distributed.heartbeats import ARRIVAL_VARIABLE

_POLL_SECONDS = 0.1
_LAST_WORDS_SECONDS = 3  # for the others, after one has failed
_END_SECONDS = 30  # for the others, after one has ended well
_STOPPED = tuple(128 + number for number in SIGNALS)  # how train.py ends when it was asked to stop
_PR_SET_PDEATHSIG = 1
_CTRL_C = b"\x03"


@dataclass(frozen=True)
class Process:
    """One process of a run.

    Attributes
    ----------
    name : str
        The prefix of its lines: ``scheduler``, ``server 0``, ``worker 1``.
    host : str or None
        Its machine, for ssh; None for this machine.
    variables : dict of str to str
        Added to its environment.
    command : tuple of str
        Its command.
    folder : str
        Its working folder.
    """

    name: str
    host: str | None
    variables: Mapping[str, str]
    command: tuple[str, ...]
    folder: str

    @property
    def is_worker(self) -> bool:
        return self.name.startswith("worker")

    def arguments(self) -> list[str]:
        """Return the command line that starts it from here."""
        settings = [f"{name}={value}" for name, value in self.variables.items()]
        if self.host is None:
            return ["env", *settings, *self.command]
        remote = f"cd {shlex.quote(self.folder)} && exec {shlex.join(['env', *settings, *self.command])}"
        # With a terminal the remote process gets a hangup when ssh ends, however it ends.
        return ["ssh", "-tt", "-o", "BatchMode=yes", self.host, remote]


def plan(
    command: Sequence[str],
    workers: int,
    servers: int,
    hosts: Sequence[str] = (),
    arrival_seconds: int | None = None,
    root: str | None = None,
    port: int | None = None,
) -> list[Process]:
    """Lay out the processes of a run.

    Parameters
    ----------
    command : sequence of str
        The command of each process; ``DMLC_*`` variables tell it its role.
    workers, servers : int
        Numbers of processes, 1 or more.
    hosts : sequence of str
        Machines for ssh; workers and servers are assigned to them in turn, and the scheduler to the first. Without
        any, all processes are on this machine, and nothing leaves it.
    arrival_seconds : int, optional
        How long each waits for the others to arrive.
    root : str, optional
        Address of the scheduler for the others; the first host's name by default, 127.0.0.1 on this machine.
    port : int, optional
        The scheduler's port; on this machine a free one by default, with hosts 9091.

    Returns
    -------
    list of Process
        Scheduler, servers, workers.
    """
    if port is not None and not 1 <= port <= 65535:
        raise InputError(f"must be from 1 to 65535, not {port}", option="port")
    folder = str(Path.cwd())
    roles = [("scheduler", None), *(("server", i) for i in range(servers)), *(("worker", i) for i in range(workers))]
    common = {
        "DMLC_NUM_WORKER": str(workers),
        "DMLC_NUM_SERVER": str(servers),
        "DMLC_PS_ROOT_URI": root or (hosts[0].rpartition("@")[2] if hosts else "127.0.0.1"),
        "DMLC_PS_ROOT_PORT": str(port or 9091),
    }
    if arrival_seconds is not None:
        common[ARRIVAL_VARIABLE] = str(arrival_seconds)
    ports = [""] * len(roles)
    if hosts:
        common["DMLC_USE_KUBERNETES"] = "1"  # the scheduler listens at all addresses: it cannot at a name
    else:
        common.update(DMLC_INTERFACE="lo", DMLC_NODE_HOST="127.0.0.1")
        first, *ports[1:] = map(str, free_ports(len(roles)))
        common["DMLC_PS_ROOT_PORT"] = str(port or first)
    processes = []
    for (role, number), own_port in zip(roles, ports):
        variables = {"DMLC_ROLE": role, **common}
        if own_port:
            variables["PORT"] = own_port  # in ascending order, which is that of the ranks
        host = hosts[(number or 0) % len(hosts)] if hosts else None
        name = role if number is None else f"{role} {number}"
        processes.append(Process(name, host, variables, tuple(command), folder))
    return processes


def free_ports(count: int) -> list[int]:
    """Find free ports of this machine, in ascending order."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return sorted(each.getsockname()[1] for each in sockets)


def read_hosts(path: str | Path) -> list[str]:
    """Read a list of machines, one per line as ssh accepts them; empty lines and comments after a # are ignored.

    Raises
    ------
    InputError
        If there are none, or one is not the name of a host.
    """
    lines = [line.partition("#")[0].strip() for _, line in read_lines(path)]
    hosts = [line for line in lines if line]
    if not hosts:
        raise InputError("it names no host; write one per line, as in user@node1", path=path)
    for host in hosts:
        if host.startswith("-") or not all(c.isalnum() or c in "@.-_:[]" for c in host):
            raise InputError(f"{host!r} is not the name of a host; write one per line, as in user@node1", path=path)
    return hosts


def run(processes: Sequence[Process], output: IO[bytes] | None = None) -> int:
    """Run all processes to their end, which is that of the first one that fails.

    SIGINT, SIGTERM and SIGHUP are passed on to the workers, which save and stop; a second one ends everything at once.
    When this process is killed, its children get SIGTERM.

    Parameters
    ----------
    processes : sequence of Process
        From :func:`plan`.
    output : binary file, optional
        Receives their lines, each after the name of its process; stdout by default.

    Returns
    -------
    int
        0, or 128 + the number of the signal that stopped the run.

    Raises
    ------
    InputError
        If one failed; the message names it and says how it ended.
    """
    received: list[int] = []
    handler = handled_by(lambda number, frame: received.append(number))
    with handler, _Group(processes, output or sys.stdout.buffer) as group:
        return group.wait(received)


@dataclass
class _Child:
    process: Process
    popen: subprocess.Popen
    stdin: IO[bytes]
    stdout: IO[bytes]
    unfinished: bytes = b""

    def stop(self, number: int) -> None:
        """Ask it to stop: by the signal or, at the other end of ssh, by Ctrl-C."""
        if self.process.host is None:
            self.popen.send_signal(number)
        else:
            with contextlib.suppress(BrokenPipeError):
                self.stdin.write(_CTRL_C)
                self.stdin.flush()


@dataclass
class _Group:
    """The children and their output."""

    processes: Sequence[Process]
    output: IO[bytes]
    children: list[_Child] = field(default_factory=list)

    def __enter__(self) -> _Group:
        self._selector = selectors.DefaultSelector()
        try:
            for process in self.processes:
                self._start(process)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            with contextlib.suppress(ProcessLookupError):  # its group, with everything that it has started
                os.killpg(child.popen.pid, signal.SIGKILL)
        for child in self.children:
            child.popen.wait()
        self._show(0)
        for child in self.children:
            child.stdout.close()
            child.stdin.close()
        self._selector.close()

    def _start(self, process: Process) -> None:
        try:
            popen = subprocess.Popen(
                process.arguments(),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # so that a terminal's Ctrl-C comes only here
                preexec_fn=functools.partial(_stop_with_parent, os.getpid()),
            )
        except OSError as error:
            raise InputError(f"{process.command[0]}: it cannot be started ({error.strerror})") from error
        assert popen.stdin and popen.stdout  # pipes, as asked for
        child = _Child(process, popen, popen.stdin, popen.stdout)
        os.set_blocking(popen.stdout.fileno(), False)
        self._selector.register(popen.stdout, selectors.EVENT_READ, child)
        self.children.append(child)

    def wait(self, received: list[int]) -> int:
        """Wait until all have ended, one fails, or signals say otherwise."""
        forwarded, deadline = 0, None
        while True:
            self._show(_POLL_SECONDS)
            if len(received) > forwarded:
                forwarded = len(received)
                if forwarded > 1:
                    return 128 + received[-1]
                for child in self.children:
                    if child.process.is_worker and child.popen.poll() is None:
                        child.stop(received[0])
            codes = [child.popen.poll() for child in self.children]
            has_failed = any(code not in (None, 0, *_STOPPED) for code in codes)
            if has_failed:
                raise InputError(self._failure(codes))
            ended = [code for code in codes if code is not None]
            if len(ended) == len(codes):
                return max(ended)
            if ended:
                deadline = deadline or time.monotonic() + _END_SECONDS
                if time.monotonic() > deadline:
                    late = ", ".join(c.process.name for c, code in zip(self.children, codes) if code is None)
                    raise InputError(f"{late}: still running {_END_SECONDS} s after the others have ended; killed")

    def _failure(self, codes: Sequence[int | None]) -> str:
        """Name the process that failed, after the others have had time to report; killed ones come first."""
        failures = [(c.process.name, code) for c, code in zip(self.children, codes) if code not in (0, *_STOPPED)]
        name, code = min(((name, code) for name, code in failures if code is not None), key=lambda each: each[1] > 0)
        if code < 0:
            return f"{name} was killed by {signal.Signals(-code).name}; all others were ended; resume the run"
        self._show_until(time.monotonic() + _LAST_WORDS_SECONDS)
        return f"{name} failed with exit code {code}, as its lines say; all others were ended"

    def _show_until(self, deadline: float) -> None:
        while time.monotonic() < deadline and any(child.popen.poll() is None for child in self.children):
            self._show(_POLL_SECONDS)

    def _show(self, seconds: float) -> None:
        """Pass on new output, waiting for it up to so many seconds."""
        if not self._selector.get_map():
            time.sleep(seconds)
            return
        for key, _ in self._selector.select(seconds):
            child = key.data
            data = child.unfinished
            with contextlib.suppress(BlockingIOError):
                while block := os.read(key.fd, 1 << 16):
                    data += block
                self._selector.unregister(key.fileobj)  # the end of its output
                has_cut_line = data != b"" and not data.endswith(b"\n")
                if has_cut_line:
                    data += b"\n"
            *lines, child.unfinished = data.split(b"\n")
            for line in lines:
                self.output.write(f"{child.process.name} | ".encode() + line.rstrip(b"\r") + b"\n")
        self.output.flush()


def _stop_with_parent(parent: int) -> None:
    """Get SIGTERM when the launcher dies: workers save, servers and scheduler end unless the run has begun."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has died already
        os._exit(1)
