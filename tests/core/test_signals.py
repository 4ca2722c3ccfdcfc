"""Ctrl-C and SIGTERM at any moment of a long command: one line, an exit code, and nothing half done."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from denseface.core import signals
from denseface.data.pairs import write_pairs
from denseface.data.records import write_face_records
from denseface.models import checkpoint
from denseface.models.checkpoint import TrainingState
from support.tiny_models import encode, pictures, tiny_model

ROOT = Path(__file__).parents[2]
PEOPLE, PICTURES = 50, 4
ON_MODEL = ("--model", "m", "--image-size", "16,16")
FACES = ("--size", "200", "--processes", "2", "--aligned")
COMMANDS = {
    "embed": ("embed", "faces", *ON_MODEL, "--aligned", "-o", "out.npz"),
    "embed with ONNX Runtime": ("embed", "faces", *ON_MODEL, "--aligned", "--engine", "onnxruntime", "-o", "out.npz"),
    "embed with OpenVINO": ("embed", "faces", *ON_MODEL, "--aligned", "--engine", "openvino", "-o", "out.npz"),
    "verify": ("verify", "faces.bin", *ON_MODEL),
    "export": ("export", *ON_MODEL, "-o", "out.onnx"),
    "search": (
        "search",
        "all.npz",
        *[f"faces/p{n:03d}/p{n:03d}_0001.png" for n in range(PEOPLE)],
        *ON_MODEL,
        "--aligned",
    ),
    "folder": ("dataset", "folder", "faces", "out", "--holdout", "5", *FACES),
    "pairs": ("dataset", "pairs", "pairs.txt", "out.bin", "--images", "faces", *FACES),
    "unpack": ("dataset", "unpack", "set", "out"),
}
# What the next run of the same command goes on from.
RESUMABLE = {"out.npz.partial"}


def test_an_interrupt_that_becomes_another_error_is_one_still():
    class Interrupting:
        def __set_name__(self, owner, name):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(signals.Interrupted, match="SIGTERM"), signals.raise_on_signals():
        type("Made", (), {"attribute": Interrupting()})
    with pytest.raises(signals.Interrupted, match="SIGTERM"), signals.raise_on_signals():
        try:
            signal.raise_signal(signal.SIGTERM)
        except KeyboardInterrupt as error:
            raise ImportError("a package cannot be imported") from error


def test_an_interrupt_that_python_drops_comes_again():
    class Finalized:
        def __del__(self):
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(signals.Interrupted, match="SIGTERM"), signals.raise_on_signals():
        Finalized()
        time.sleep(30)


@pytest.fixture(scope="module")
def material(tmp_path_factory):
    """A folder with a model and pictures."""
    folder = tmp_path_factory.mktemp("material")
    files = [encode(picture) for picture in pictures(PEOPLE * PICTURES, (60, 60, 3))]
    for number, file in enumerate(files):
        name = f"p{number // PICTURES:03d}"
        (folder / "faces" / name).mkdir(parents=True, exist_ok=True)
        (folder / "faces" / name / f"{name}_{number % PICTURES + 1:04d}.png").write_bytes(file)
    write_pairs(folder / "faces.bin", files, [True, False] * (len(files) // 4))
    write_face_records(folder / "set", [(number // PICTURES, file) for number, file in enumerate(files)], (60, 60))
    people = [f"p{number:03d}" for number in range(1, PEOPLE)]
    (folder / "pairs.txt").write_text("\n".join(f"{name} 1 2\n{name} 3 p000 1" for name in people))
    model = tiny_model()
    checkpoint.save(folder / "m", model.symbol, TrainingState(1, model.arguments, model.auxiliary, {}, {}))
    assert finished(start(("embed", "faces", *ON_MODEL, "--aligned", "-o", "all.npz"), folder)) == (0, [])
    return folder


def start(arguments, folder):
    return subprocess.Popen(
        [sys.executable, "-m", "denseface", *arguments], cwd=folder, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
    )  # fmt: skip


def finished(process):
    """Exit code, and the lines on stderr."""
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors.splitlines()


def content(folder):
    """Every file with what is in it."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize(
    ("name", "count"),
    [("embed", 2), ("folder", 2), *(pytest.param(name, 10, marks=pytest.mark.torture) for name in COMMANDS)],
)
def test_a_command_interrupted_at_random_moments(material, tmp_path, name, count):
    """Ctrl-C goes to all processes, as from a terminal; SIGTERM to the first."""
    command, place = COMMANDS[name], tmp_path / "place"  # one place, since verify writes a digest of its path
    shutil.copytree(material, place)
    before = {path.name for path in place.iterdir()}
    started = time.monotonic()
    assert finished(start(command, place)) == (0, [])
    seconds = time.monotonic() - started
    expected, made, moments = content(place), {path.name for path in place.iterdir()}, random.Random(name)
    shutil.rmtree(place)
    counts = {"before it began": 0, "told": 0, "after it ended": 0, "gone on from": 0}
    shutil.copytree(material, place)
    for turn in range(count):
        number = (signal.SIGINT, signal.SIGTERM)[turn % 2]
        process = start(command, place)
        time.sleep(moments.uniform(0, seconds))
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        code, errors = finished(process)
        left = {path.name for path in place.iterdir()} - before
        if code == 128 + number:
            assert errors[-1] == f"denseface: interrupted by {number.name}"
            assert all("the same command resumes after" in line for line in errors[:-1]) and len(errors) <= 2
            assert left <= RESUMABLE or content(place) == expected
            counts["told"] += 1
            counts["gone on from"] += bool(left & RESUMABLE)
        else:
            # What comes while Python itself starts is a traceback of Python's.
            begun = not errors or any("/cli/" in line for line in errors)
            assert not begun or (code in (0, -number) and not errors), (code, errors)
            counts["after it ended" if content(place) == expected else "before it began"] += 1
            assert not left - RESUMABLE or content(place) == expected
        if left & made:
            shutil.rmtree(place)
            shutil.copytree(material, place)
    print(name, counts)
    assert finished(start(command, place)) == (0, []) and content(place) == expected
