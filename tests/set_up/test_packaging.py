"""What ``pip install .`` puts into an environment, and what the tools around it are told."""

import configparser
import email
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import denseface

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """The wheel, built by setuptools without a network from a copy of the tree."""
    folder = tmp_path_factory.mktemp("packaging")
    tree = folder / "tree"
    tree.mkdir()
    for name in ("denseface", "symbol", "tests"):
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
    for file in ROOT.glob("*.*"):
        if file.suffix in (".py", ".cfg", ".toml", ".md"):
            shutil.copy(file, tree)
    shutil.copy(ROOT / "LICENSE", tree)
    build = "import setuptools.build_meta, sys; setuptools.build_meta.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", build, str(folder)], cwd=tree, check=True, capture_output=True, timeout=120)
    with zipfile.ZipFile(folder / f"denseface-{denseface.__version__}-py3-none-any.whl") as archive:
        yield archive


def metadata_of(wheel):
    return email.message_from_bytes(wheel.read(f"denseface-{denseface.__version__}.dist-info/METADATA"))


def test_wheel_installs_denseface_and_nothing_else(wheel):
    top_level = {name.split("/")[0] for name in wheel.namelist()}
    assert top_level == {"denseface", f"denseface-{denseface.__version__}.dist-info"}


def test_wheel_has_every_file_of_denseface(wheel):
    here = {path.relative_to(ROOT).as_posix() for path in (ROOT / "denseface").rglob("*") if path.is_file()}
    assert {name for name in here if "__pycache__" not in name} <= set(wheel.namelist())


def test_wheel_installs_the_command(wheel):
    points = wheel.read(f"denseface-{denseface.__version__}.dist-info/entry_points.txt").decode()
    assert points.split() == ["[console_scripts]", "denseface", "=", "denseface.__main__:main"]
    assert callable(pkgutil.resolve_name("denseface.cli:main"))


def test_wheel_says_what_it_is_and_needs(wheel):
    metadata = metadata_of(wheel)
    assert (metadata["Name"], metadata["Version"]) == ("denseface", denseface.__version__)
    assert metadata["Requires-Python"] == ">=3.9"
    needed = {re.match(r"\w+", text)[0] for text in metadata.get_all("Requires-Dist") if "extra ==" not in text}
    assert needed == {"numpy", "pillow", "easydict", "tqdm"}


def test_no_extra_brings_one_of_two_packages_that_share_a_folder(wheel):
    needed = [Requirement(text) for text in metadata_of(wheel).get_all("Requires-Dist")]
    assert not [each for each in needed if each.name.startswith("mxnet")]
    for extra in ("onnx-gpu", "detect", "train", "heic"):
        names = {each.name for each in needed if each.marker is None or each.marker.evaluate({"extra": extra})}
        assert "onnxruntime" not in names, extra


def test_every_pin_has_its_reason_above_it():
    text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
    lines = re.findall(r"^    (.*)$", text, flags=re.MULTILINE)
    pins = [(above, line) for above, line in zip(lines, lines[1:]) if re.match(r"[\w-]+[<>=]", line)]
    assert len(pins) > 5
    assert [line for above, line in pins if not above.startswith("#")] == []


def requirements_of(lines, python):
    """Return the requirements that hold for one Python on Linux, by name."""
    environment = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    found = {}
    for line in lines:
        requirement = Requirement(line)
        if requirement.marker is None or requirement.marker.evaluate(environment):
            found[canonicalize_name(requirement.name)] = requirement
    return found


@pytest.mark.parametrize("python", ["3.9", "3.10", "3.11", "3.12", "3.13"])
def test_constraints_pin_every_requirement_of_setup_cfg(python):
    """Where this fails, setup.cfg was changed: CONTRIBUTING.md says how to bring constraints.txt up to date."""
    config = configparser.ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    blocks = [config["options"]["install_requires"], *config["options.extras_require"].values()]
    wanted = requirements_of([line for block in blocks for line in block.split("\n") if line], python)
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = requirements_of([line for line in lines if not line.startswith("#")], python)
    assert len(wanted) > 10
    for name, requirement in wanted.items():
        (pin,) = pins[name].specifier
        assert pin.operator == "==" and requirement.specifier.contains(pin.version), requirement


def test_ci_runs_make_test_and_nothing_else():
    script = ROOT / ".ci" / "run"
    assert os.access(script, os.X_OK)
    assert re.findall(r"\bmake\b.*|\bpython.*", script.read_text(encoding="utf-8")) == ["make test"]
    workflow = (ROOT / ".github" / "workflows" / "test.yml").read_text(encoding="utf-8")
    assert re.findall(r"\brun: (.*)", workflow) == ["make test"]
