"""Let system calls of commands fail one by one, and see what the commands say and leave.

    LD_PRELOAD=faults.so python tests/support/fault_runs.py FOLDER SECONDS CALLS

runs every command with its n-th open, read, write and so on failing, for up to CALLS different n of each kind, drawn
from all there are. It is a program of its own because it forks. Its last line is what it has counted, as JSON.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import random
import re
import shutil
import sys
import time
from pathlib import Path

import numpy as np

import denseface  # noqa: F401  makes MXNet importable
import train
from denseface.cli import main
from denseface.data.pairs import write_pairs
from denseface.data.records import write_face_records
from denseface.datasets import orl
from support.photographs import orl_faces
from support.tiny_models import encode, pictures, save_model, tiny_model

import mxnet  # noqa: F401  so that children need not import it

ON_MODEL = ("--model", "m.onnx")
FACES = ("--size", "32", "--processes", "1", "--aligned")
CHECKED = ("--check", "faces", *ON_MODEL, "--aligned")
TRAIN = (
    "train.py", "--network", "pretrained", "--pretrained", "m,1", "--dataset", "set", "--loss", "arcface", "--resume",
    "--set", "val_targets=faces", "--max-steps", "2", "--per-batch-size", "4", "--frequent", "1",
)  # fmt: skip
RUN = "run/pretrained-arcface-set/model"
COMMANDS = {
    "embed": ("embed", "faces", *ON_MODEL, "--aligned", "-o", "out.npz"),
    "gallery merge": ("gallery", "merge", "part-1.npz", "part-2.npz", "-o", "out.npz"),
    "verify": ("verify", "faces.bin", "--model", "m", "--image-size", "16,16"),
    "verify of ONNX": ("verify", "faces.bin", *ON_MODEL),
    "search": ("search", "part-1.npz", "faces/p00/0.png", *ON_MODEL, "--aligned"),
    "match": ("match", "faces/p00", "faces/p01", *ON_MODEL, "--aligned", "--threshold", "0.5"),
    "identify": ("identify", "--gallery", "faces", "--probes", "probes", *ON_MODEL, "--aligned", "-o", "out.png"),
    "compare": ("compare", "--models", "m", "--size", "16", "--no-training"),
    "plot-run": ("plot-run", str(Path(RUN).parent), "-o", "out.png"),
    "export": ("export", "--model", "m", "--image-size", "16,16", "-o", "out.onnx"),
    "dataset folder": ("dataset", "folder", "faces", "out", "--holdout", "3", *FACES),
    "dataset pairs": ("dataset", "pairs", "pairs.txt", "faces.bin", "--images", "faces", *FACES),
    "dataset unpack": ("dataset", "unpack", "set", "out"),
    "dataset info": ("dataset", "info", "set", "--sheet", "out.png"),
    "dataset audit": ("dataset", "audit", "set", *ON_MODEL, "-o", "out", "--apply", "clean"),
    "dataset audit of a run": ("dataset", "audit", "set", "--run", RUN, "-o", "out", "--apply", "clean"),
    "dataset orl": ("dataset", "orl", "out", "--holdout", "3-4", "--processes", "1"),
    "detect": ("detect", "orl/s1", "-o", "out.txt", "--sheet", "out.png", "--processes", "1"),
    "cluster": ("cluster", "faces.npz", "-o", "out.csv", "--sheet", "out.png", "--threshold", "0.1"),
    "gallery import": ("gallery", "import", "old.npy", "--names", "old.txt", *CHECKED, "-o", "out.npz"),
    "summary": ("summary", "--model", "m", "--size", "16"),
    "summary of ONNX": ("summary", *ON_MODEL),
    "plot": ("plot", "--model", "m", "--size", "16", "-o", "out.png"),
    "report": ("report", "faces.bin", *ON_MODEL, "-o", "out.html", "--card", "out.md"),
    "train.py": TRAIN,
}
FAULTS = {
    "write": errno.ENOSPC, "read": errno.EIO, "open": errno.EMFILE, "rename": errno.EIO, "unlink": errno.EIO,
    "fsync": errno.EIO, "flock": errno.ENOLCK, "truncate": errno.ENOSPC, "mkdir": errno.ENOSPC, "rmdir": errno.EIO,
    "opendir": errno.EIO, "mmap": errno.ENOMEM,
}  # fmt: skip
# A picture that cannot be read is a crossed box in a sheet, and has no label in the list of what was left out; the hash
# of what was audited then only decides that it is audited again.
SIDELINES = (".png", "clean/dropped.csv", "out/embeddings.json")
UNREAD = "cannot be read ("  # a line may be broken behind it
GUESSES = ("again", "broken", "damaged", "not a file that", "not an ONNX")


def prepare(folder: Path) -> None:
    """Make what the commands read."""
    os.chdir(folder)
    images = [encode(picture) for picture in pictures(40)]
    for number, image in enumerate(images[:30]):
        person = Path("faces" if number < 24 else "probes", f"p{number // 4 % 6:02d}")
        person.mkdir(parents=True, exist_ok=True)
        (person / f"{number % 4}.png").write_bytes(image)
    write_pairs("faces.bin", images, [True, False] * 10, [f"p{i // 4}" if i % 4 < 2 else f"{i}" for i in range(40)])
    write_face_records("set", [(number // 4, image) for number, image in enumerate(images)], (16, 16))
    Path("pairs.txt").write_text(
        "".join(f"p{n:02d}/0.png p{n:02d}/1.png 1\np{n:02d}/2.png p00/3.png 0\n" for n in range(1, 6))
    )
    shutil.copy("faces.bin", "set")
    for face in [face for face in orl_faces() if face.stem in "12" and face.parent.name[1:] in "1234"]:
        person = Path("orl", face.parent.name)
        person.mkdir(parents=True, exist_ok=True)
        shutil.copy(face, person)
    save_model(tiny_model(), "m")
    commands = [("export", "--model", "m", "--image-size", "16,16", "-o", "m.onnx"), (*TRAIN, "--models-root", "run")]
    commands.append(("embed", "faces", *ON_MODEL, "--aligned", "-o", "faces.npz"))
    commands += [("embed", "faces", *ON_MODEL, "--aligned", "--part", f"{n}/2", "-o", f"part-{n}.npz") for n in (1, 2)]
    for command in commands:
        assert in_child(folder, command)[0] == 0, command
    with np.load("faces.npz") as gallery:
        np.save("old.npy", gallery["embeddings"])
        Path("old.txt").write_text("".join(f"{name}\n" for name in gallery["names"]))


def in_child(place: Path, command: tuple[str, ...], kind: str = "", nth: int = 0) -> tuple[int, str, dict[str, int]]:
    """Run a command in a folder; return its exit code, what it said, and how many calls of each kind it made.

    The n-th call of one kind fails, or none.
    """
    said, calls = place.parent / "said", place.parent / "calls"
    child = os.fork()
    if child == 0:
        os.chdir(place)
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND), 2)
        os.dup2(2, 1)
        code = 99
        orl.find_faces = lambda: Path("orl")  # a few of those in the package
        try:
            shim = ctypes.CDLL(os.environ["LD_PRELOAD"])
            shim.plan(os.fsencode(place), kind.encode(), nth, FAULTS.get(kind, 0))
            code = train.main(command[1:]) if command[0] == "train.py" else main(command)
        except SystemExit as end:
            code = end.code
        except BaseException as error:
            print(f"Traceback: {error!r}", file=sys.stderr)
            raise
        finally:
            calls.write_text(json.dumps({kind: shim.counted(kind.encode()) for kind in FAULTS}))
            shim.plan(b"", b"", 0, 0)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, said.read_text(errors="replace"), json.loads(calls.read_text())


def content(folder: Path) -> dict[str, bytes]:
    """Every file with what is in it, but for lock files, which keep nobody away, and what times change."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock")
    return {str(path.relative_to(folder)): comparable(path) for path in files}


def comparable(path: Path) -> bytes:
    """What is in a file, without measured times and the charts beside them."""
    is_timed = path.suffix in (".html", ".md") or path.name.endswith("-training.csv")
    return re.sub(rb"base64,[^\"]+|[0-9.e-]+", b"", path.read_bytes()) if is_timed else path.read_bytes()


def fault_of(place: Path, kind: str, code: int, said: str, usual: int) -> str:
    """What is wrong with how a command in a folder ended, or nothing."""
    errors = [line for line in said.splitlines() if line.startswith(("denseface: error: ", "train.py: error: "))]
    if code not in (0, 1):
        return f"exit code {code}"
    if "Traceback" in said or "[Errno" in said:
        return "a traceback, or an error without a file"
    is_told = errors or "skipped: " in said or "no face: " in said or UNREAD in said or [*place.rglob("*bad.csv")]
    if code == 1 != usual and not is_told:
        return "no reason is given"
    if kind in ("open", "mmap") and any(guess in line for line in errors for guess in GUESSES):
        return "a lack is told as damage"
    return ""


def run_all(folder: Path, seconds: float, most: int) -> dict:
    """Run all commands with all faults, in an order drawn by a seed, for some time."""
    material, place = folder / "material", folder / "place"
    material.mkdir()
    prepare(material)
    counts = {"faults": 0, "said in one line": 0, "without effect": 0, "commands": 0, "wrong": []}
    end, moments = time.monotonic() + seconds, random.Random(0)
    whole: dict[str, tuple[int, dict[str, int], dict[str, bytes]]] = {}
    planned = [(name, kind) for name in COMMANDS for kind in FAULTS]
    for name, kind in moments.sample(planned, len(planned)):
        command = COMMANDS[name]
        if name not in whole and time.monotonic() < end:
            shutil.copytree(material, place)
            usual, said, totals = in_child(place, command)
            assert usual == 0, (name, said)
            whole[name] = usual, totals, content(place)
            shutil.rmtree(place)
            counts["commands"] += 1
        usual, totals, expected = whole.get(name, (0, {}, {}))
        total = totals.get(kind, 0)
        for nth in sorted(moments.sample(range(1, total + 1), min(most, total))):
            if time.monotonic() > end:
                return counts
            shutil.copytree(material, place)
            code, said, _ = in_child(place, command, kind, nth)
            wrong = fault_of(place, kind, code, said, usual)
            if not wrong:
                if code != usual:
                    in_child(place, command)
                left = content(place)
                # A picture that could not be read is named, or listed with the reason; verify has printed what it says
                # it could not save.
                reason = os.strerror(FAULTS[kind]).encode()
                listed = any(reason in found for path, found in left.items() if path.endswith(".csv"))
                differs = [key for key in {*left, *expected} if left.get(key) != expected.get(key)]
                told = listed or (code == usual and UNREAD in said) or "are not saved" in said
                if not told and not (kind in ("read", "open") and all(key.endswith(SIDELINES) for key in differs)):
                    wrong = f"what is left differs at the end: {differs[:4]}" if differs else ""
            counts["faults"] += 1
            counts["said in one line" if code else "without effect"] += 1
            if wrong:
                counts["wrong"].append([name, kind, nth, wrong, said[-300:]])
            shutil.rmtree(place)
    return counts


if __name__ == "__main__":
    where, seconds, most = sys.argv[1:]
    print(json.dumps(run_all(Path(where).resolve(), float(seconds), int(most))))
