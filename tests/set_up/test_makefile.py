"""The Makefile's set-up: .venv is finished for the Python asked for, whatever state it is found in."""

import configparser
import fcntl
import os
import re
import shutil
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# A stand-in for an interpreter, of the version in the file beside it. It logs each step, and fails or interrupts the
# one that $STOP_AT matches.
INTERPRETER = """#!/bin/sh
version=$(cat "$(dirname "$0")/version")
case "$*" in
*"print("*) echo "$version"; exit ;;
*"version_info < (3, 9)"*) case "$version" in 2.*|3.[0-8]) exit 1 ;; *) exit 0 ;; esac ;;
*ensurepip*) step=ensurepip ;;
*venv*) step=venv; rm -rf .venv; mkdir -p .venv/bin; cp "$0" .venv/bin/python; echo "$version" > .venv/bin/version ;;
*pip*setuptools) step="pip setuptools" ;;
*pip*--editable*) step="pip denseface" ;;
*pip*--no-deps*mxnet==1.9.1) step="pip mxnet" ;;
*import*mxnet*) step=import ;;
*) step="$*" ;;
esac
echo "$step" >> steps
if [ "$step" = "$STOP_AT" ]; then
    if [ -n "$STOP_WITH" ]; then kill -"$STOP_WITH" 0; sleep 10; fi
    exit 1
fi
"""
EVERY_STEP = ["ensurepip", "venv", "pip setuptools", "pip denseface", "pip mxnet", "import"]
CHANGING_STEPS = EVERY_STEP[1:]
UPDATE = ["ensurepip", "pip setuptools", "pip denseface", "pip mxnet", "import"]


class Tree:
    """A copy of what set-up reads, with ``python3`` and other stand-ins for interpreters on the path."""

    def __init__(self, folder):
        self.folder = folder
        for name in ("Makefile", "setup.cfg", "constraints.txt"):
            shutil.copy(ROOT / name, folder)
        self.add_python("python3", "3.11")

    def add_python(self, name, version):
        """Put an interpreter into a folder of its own; return its path."""
        path = self.folder / "pythons" / name / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(INTERPRETER)
        path.chmod(0o755)
        (path.parent / "version").write_text(version + "\n")
        return path

    def start(self, *arguments, stop_at="", stop_with=""):
        clean = {key: value for key, value in os.environ.items() if not key.startswith("MAKE") and key != "PYTHON"}
        path = f"{self.folder / 'pythons' / 'python3'}:{os.environ['PATH']}"
        return subprocess.Popen(
            ["make", "set-up", *arguments],
            cwd=self.folder,
            env={**clean, "PATH": path, "STOP_AT": stop_at, "STOP_WITH": stop_with},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def set_up(self, *arguments, **stop):
        """Run ``make set-up``; return its exit code, its output and the steps that it took."""
        (self.folder / "steps").write_text("")
        with self.start(*arguments, **stop) as process:
            output = process.communicate(timeout=60)[0]
        return process.returncode, output, (self.folder / "steps").read_text().splitlines()


@pytest.fixture
def tree(tmp_path):
    return Tree(tmp_path)


@pytest.fixture
def finished(tree):
    assert tree.set_up()[0] == 0
    return tree


class TestStates:
    def test_nothing_is_made_in_every_step(self, tree):
        assert tree.set_up()[::2] == (0, EVERY_STEP)
        assert (tree.folder / ".venv" / "ready-3.11").exists()

    def test_a_finished_one_is_used_without_python_given_again(self, tree):
        python = tree.add_python("python3.13", "3.13")
        assert tree.set_up(f"PYTHON={python}")[::2] == (0, EVERY_STEP)
        assert tree.set_up() == (0, "", [])

    def test_another_python_makes_it_from_scratch(self, finished):
        assert finished.set_up(f"PYTHON={finished.add_python('python3.12', '3.12')}")[::2] == (0, EVERY_STEP)
        assert finished.set_up() == (0, "", [])

    @pytest.mark.parametrize("name", ["setup.cfg", "constraints.txt"])
    def test_changed_requirements_are_installed_into_it(self, finished, name):
        later = time.time() + 2
        os.utime(finished.folder / name, (later, later))
        assert finished.set_up()[::2] == (0, UPDATE)

    @pytest.mark.parametrize("state", ["upgraded", "removed", "broken"])
    def test_a_python_that_changed_below_it_makes_it_from_scratch(self, finished, state):
        python = finished.folder / ".venv" / "bin" / "python"
        if state == "upgraded":  # /usr/bin/python3, to which .venv/bin/python links, is another version now
            for version in (python.parent, finished.folder / "pythons" / "python3"):
                (version / "version").write_text("3.12\n")
        elif state == "removed":
            python.unlink()
        else:
            python.write_text("not a program")
        assert finished.set_up()[::2] == (0, EVERY_STEP)


class TestInterruptions:
    @pytest.mark.parametrize("signal", ["INT", "KILL"])
    @pytest.mark.parametrize("step", CHANGING_STEPS)
    def test_an_interrupted_one_is_made_from_scratch(self, tree, step, signal):
        code, _, steps = tree.set_up(stop_at=step, stop_with=signal)
        assert code != 0 and steps[-1] == step
        assert tree.set_up()[::2] == (0, EVERY_STEP)

    @pytest.mark.parametrize("step", UPDATE[1:])
    def test_so_is_one_interrupted_while_requirements_are_added(self, finished, step):
        later = time.time() + 2
        os.utime(finished.folder / "setup.cfg", (later, later))
        assert finished.set_up(stop_at=step, stop_with="INT")[2][-1] == step
        assert finished.set_up()[::2] == (0, EVERY_STEP)

    def test_a_failed_step_leaves_it_unfinished(self, tree):
        assert tree.set_up(stop_at="pip denseface")[0] != 0
        assert tree.set_up()[::2] == (0, EVERY_STEP)

    def test_a_second_set_up_waits_for_the_first(self, tree):
        with open(tree.folder / ".venv.lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            second = tree.start()
            assert second.stdout.readline() == "set-up: waiting for another set-up\n"
            assert not (tree.folder / ".venv").exists()
        assert second.communicate(timeout=60) and second.returncode == 0


class TestRefusals:
    @pytest.mark.parametrize("version", ["2.7", "3.8"])
    def test_a_python_too_old_is_refused_in_one_line_and_leaves_the_finished_one(self, finished, version):
        python = finished.add_python("old", version)
        code, output, steps = finished.set_up(f"PYTHON={python}")
        assert (code, steps) == (2, [])
        assert output.splitlines()[0] == (
            f"set-up: denseface needs one of Python 3.9 3.10 3.11 3.12 3.13; {python} is {version}: "
            "choose another with make PYTHON=python3.11"
        )
        assert finished.set_up() == (0, "", [])

    def test_a_python_newer_than_those_tested_is_warned_of(self, tree):
        code, output, steps = tree.set_up(f"PYTHON={tree.add_python('new', '3.14')}")
        assert (code, steps) == (0, EVERY_STEP)
        assert "set-up: denseface is tested on Python 3.9 3.10 3.11 3.12 3.13; this is 3.14\n" in output

    def test_a_python_without_ensurepip_names_the_package_to_install(self, tree):
        code, output, steps = tree.set_up(stop_at="ensurepip")
        assert (code, steps) == (2, ["ensurepip"])
        assert output.splitlines()[0] == (
            "set-up: python3 cannot make virtual environments: install python3.11-venv (apt install python3.11-venv)"
        )

    def test_an_mxnet_without_its_library_names_the_package_to_install(self, tree):
        assert "(libgomp.so.1: apt install libgomp1)" in tree.set_up(stop_at="import")[1]

    def test_a_missing_python_is_named(self, tree):
        code, output, steps = tree.set_up("PYTHON=python3.99")
        assert (code, steps) == (2, [])
        assert "python3.99 is missing: choose another" in output


class TestMakefile:
    TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")

    @pytest.fixture
    def config(self):
        config = configparser.ConfigParser(interpolation=None)
        config.read(ROOT / "setup.cfg", encoding="utf-8")
        return config

    def test_installs_every_extra(self, config):
        installed = set(re.search(r"EXTRAS := (.*)", self.TEXT)[1].split(","))
        assert installed == set(config["options.extras_require"]) - {"onnx-gpu"}  # which excludes onnx

    def test_another_mxnet_can_be_chosen(self, tree):
        assert "pip mxnet" not in tree.set_up("MXNET=mxnet-cu117==1.9.1", stop_at="import")[2]

    def test_names_the_pythons_that_the_package_names(self, config):
        tested = re.search(r"TESTED := (.*)", self.TEXT)[1].split()
        classifiers = config["metadata"]["classifiers"]
        assert re.findall(r"Language :: Python :: (3\.\d+)", classifiers) == tested
        assert config["options"]["python_requires"] == f">={tested[0]}"
