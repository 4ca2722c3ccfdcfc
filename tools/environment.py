"""The virtual environment that the Makefile's targets run in: tell whether it is good, make it, fill it.

``.venv/ready`` is removed before anything is changed and written last, and holds what the environment was made for.  So
one without it was left half-made and is made from nothing, and no state that an interruption leaves is ever trusted.
"""

from __future__ import annotations

import configparser
import contextlib
import fcntl
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("onnx", "openvino", "insightface", "plots", "tensorboard", "demo", "test")


class SetUpError(Exception):
    """Set-up cannot go on; the message is one line that says what to do."""


def set_up() -> None:
    """Make ``.venv`` ready, or end with one line that says why not."""
    environment = Environment(ROOT / ".venv", read_requirements(ROOT / "setup.cfg", EXTRAS))
    if environment.is_ready():
        return
    try:
        with one_at_a_time(ROOT / ".venv.lock"):
            if not environment.is_ready():
                environment.make()
    except (SetUpError, OSError) as error:
        sys.exit(f"set-up: {error}")
    except KeyboardInterrupt:
        sys.exit("\nset-up: interrupted; the same command starts it again")


def read_requirements(setup_cfg: Path, extras: tuple[str, ...]) -> list[str]:
    """Return the requirements of the project and of some of its extras, as they stand in setup.cfg."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(setup_cfg, encoding="utf-8")
    blocks = [config["options"]["install_requires"]]
    blocks += [config["options.extras_require"][extra] for extra in extras]
    return [line for block in blocks for line in block.splitlines() if line]


def split_by_marker(requirements: list[str], version: tuple[int, int]) -> tuple[list[str], list[str]]:
    """Split requirements into what pip can resolve and what it cannot on this Python.

    The second are those that a marker ``python_version < "3.N"`` keeps away, because their own metadata asks for what
    this Python cannot have.  They come without the marker, to be installed without their dependencies.
    """
    resolvable, alone = [], []
    for requirement in requirements:
        pin, _, marker = requirement.partition(";")
        limit = re.fullmatch(r'\s*python_version < "3\.(\d+)"\s*', marker)
        if limit and version >= (3, int(limit[1])):
            alone.append(pin.strip())
        else:
            resolvable.append(requirement)
    return resolvable, alone


class Environment:
    """A virtual environment for the Python that runs this, and the requirements that it has to hold."""

    def __init__(self, folder: Path, requirements: list[str]) -> None:
        self.folder = folder
        self.requirements = requirements
        self.version = sys.version_info[:2]
        self.python = str(folder / "bin" / "python")
        self.stamp = folder / "ready"

    def is_ready(self) -> bool:
        """Whether it was finished, for this Python and these requirements, and still runs."""
        return self._read_stamp() == self._wanted() and self._runs()

    def make(self) -> None:
        """Bring it to ready from whatever state it is in; a finished one that runs is only added to."""
        start = time.monotonic()
        reusable = self._read_stamp()[:1] == self._wanted()[:1] and self._runs()
        self.stamp.unlink(missing_ok=True)
        if not reusable:
            self._create()
        self._install()
        self._check()
        self._write_stamp()
        say(f"ready in {time.monotonic() - start:.0f} s")

    def _wanted(self) -> list[str]:
        return ["Python {}.{}".format(*self.version), *self.requirements]

    def _read_stamp(self) -> list[str]:
        try:
            return self.stamp.read_text(encoding="utf-8").splitlines()
        except OSError:
            return []

    def _write_stamp(self) -> None:
        aside = self.stamp.with_suffix(".new")
        aside.write_text("\n".join(self._wanted()) + "\n", encoding="utf-8")
        aside.replace(self.stamp)

    def _runs(self) -> bool:
        """Whether its Python starts and is the version that it was made with: an upgrade of the system breaks both."""
        try:
            question = [self.python, "-c", "import sys; print(*sys.version_info[:2])"]
            answer = subprocess.run(question, capture_output=True, text=True)
        except OSError:
            return False
        return answer.stdout.split() == [str(part) for part in self.version]

    def _create(self) -> None:
        if importlib.util.find_spec("ensurepip") is None:
            package = "python{}.{}-venv".format(*self.version)
            raise SetUpError(
                f"{sys.executable} cannot make virtual environments: install {package} (apt install {package}), "
                "or give another Python with make PYTHON=python3.11"
            )
        say("making .venv with Python {}.{}.{}".format(*sys.version_info[:3]))
        # The real file, because sys.executable may be the very .venv/bin/python that is about to be replaced.
        run(
            [os.path.realpath(sys.executable), "-m", "venv", "--clear", str(self.folder)],
            "making .venv failed: see the lines above, then run the same command again",
        )

    def _install(self) -> None:
        say(f"installing {len(self.requirements)} requirements and what they need")
        resolvable, alone = split_by_marker(self.requirements, self.version)
        self._pip(resolvable)
        if alone:
            self._pip(["--no-deps", *alone])

    def _pip(self, arguments: list[str]) -> None:
        quietly = ["--no-input", "--disable-pip-version-check", "--progress-bar", "off"]
        run(
            [self.python, "-m", "pip", "install", *quietly, *arguments],
            "pip failed, see its lines above: mind the network, the disk and pip's configuration, "
            "then run the same command again",
        )

    def _check(self) -> None:
        run(
            [self.python, "-c", "import denseface, mxnet"],
            "MXNet does not import, see the lines above: install the system library that it misses "
            "(libgomp.so.1: apt install libgomp1), then run the same command again",
        )


def run(command: list[str], advice: str) -> None:
    """Run one step, its latest line passing by on a terminal; if it fails, show its last lines and raise the advice."""
    lines = []
    with subprocess.Popen(
        command,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        close_fds=False,
    ) as step:
        for line in step.stdout:
            lines.append(line.rstrip())
            show(lines[-1])
    show("")
    if step.returncode:
        print(*lines[-12:], sep="\n", file=sys.stderr)
        raise SetUpError(advice)


def say(message: str) -> None:
    """Print a line that stays."""
    print(f"set-up: {message}", flush=True)


def show(line: str) -> None:
    """Print a line that the next one takes the place of; nothing where there is no terminal."""
    if sys.stdout.isatty():
        width = shutil.get_terminal_size().columns - 1
        print(f"\r\033[K{line[:width]}", end="", flush=True)


@contextlib.contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Hold a lock file, once another set-up that holds it has ended."""
    with open(path, "w") as file:
        # Steps inherit the lock: one that outlives a killed set-up keeps the next from starting beside it.
        os.set_inheritable(file.fileno(), True)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another one is under way, waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield
