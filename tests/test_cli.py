import os
import subprocess
import sys

import pytest

from denseface import cli
from denseface.errors import InputError


def run(capsys, *arguments):
    """Exit code, stdout and stderr of a command."""
    code = cli.main([str(argument) for argument in arguments])
    return (code, *capsys.readouterr())


def test_help_imports_nothing_heavy():
    code = (
        "import contextlib, sys; from denseface.cli import main\n"
        "with contextlib.suppress(SystemExit): main(['--help'])\n"
        "print(*sys.modules)"
    )
    finished = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    *text, modules = finished.stdout.splitlines()
    assert any("verify" in line for line in text)
    assert "denseface.cli.verify" in modules.split()
    assert not {"numpy", "mxnet", "PIL", "tqdm"} & set(modules.split())


@pytest.mark.parametrize("command", [[name] for name in cli.COMMANDS if name != "dataset"] + [["dataset", "orl"]])
def test_every_command_has_help_with_an_example(command, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--help"])
    assert caught.value.code == 0
    example = capsys.readouterr().out.split("example")[-1]
    assert f"  denseface {' '.join(command)} " in example


@pytest.mark.parametrize(
    "arguments", [[], ["fly"], ["verify"], ["dataset"], ["verify", "x.bin", "--model", "m", "--gpu"]]
)
def test_bad_usage_is_exit_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        cli.main(arguments)
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("usage: denseface")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("x.bin: it is\nbroken"), "denseface: error: x.bin: it is broken"),
        (OSError(28, "No space left on device", "out.npz"), "denseface: error: out.npz: No space left on device"),
        (ModuleNotFoundError("MXNet is not installed"), "denseface: error: MXNet is not installed"),
    ],
)
def test_errors_are_one_line_and_exit_code_1(monkeypatch, capsys, error, line):
    monkeypatch.setattr("denseface.cli.dataset.run_orl", raising(error))
    assert run(capsys, "dataset", "orl", "out") == (1, "", line + "\n")


def test_an_interrupt_is_one_line_and_exit_code_130(monkeypatch, capsys):
    monkeypatch.setattr("denseface.cli.dataset.run_orl", raising(KeyboardInterrupt()))
    assert run(capsys, "dataset", "orl", "out") == (130, "", "denseface: interrupted\n")


def test_a_reader_that_has_seen_enough_gets_no_traceback(tmp_path, capsys):
    command = ["dataset", "orl", str(tmp_path), "--holdout", "39,40"]
    run(capsys, *command)
    read_end, write_end = os.pipe()
    os.close(read_end)
    finished = subprocess.run([sys.executable, "-m", "denseface", *command], stdout=write_end, stderr=subprocess.PIPE)
    os.close(write_end)
    assert (finished.returncode, finished.stderr) == (1, b"")


def raising(error):
    def run(args):
        raise error

    return run


def test_dataset_orl_is_built_once(tmp_path, capsys):
    folder = tmp_path / "orl"
    command = ("dataset", "orl", folder, "--holdout", "39,40")
    code, out, err = run(capsys, *command)
    assert (code, err) == (0, "")
    assert "380 pictures of 38 people" in out
    assert "90 pairs of one person and 100 of two" in out
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    code, out, err = run(capsys, *command)
    assert (code, out) == (0, f"{folder}: already there, with people 39,40 held out\n")
    assert {path.name: path.stat().st_mtime_ns for path in folder.iterdir()} == before


@pytest.mark.parametrize("damage", ["other people", "changed", "missing", "recipe"])
def test_dataset_orl_replaces_any_other_set(tmp_path, capsys, damage):
    command = ["dataset", "orl", tmp_path, "--holdout", "39,40"]
    run(capsys, *command)
    contents = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    if damage == "other people":
        run(capsys, *command[:-1], "1,2")
    elif damage == "changed":
        (tmp_path / "train.rec").write_bytes(contents["train.rec"][:-1] + b"x")
    elif damage == "missing":
        (tmp_path / "orl.bin").unlink()
    else:
        (tmp_path / "orl.json").write_text('{"sha256": ["x"]')
    code, out, _ = run(capsys, *command)
    assert code == 0
    assert "380 pictures" in out
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == contents


def test_dataset_orl_names_people_who_are_not_there(tmp_path, capsys):
    code, _, err = run(capsys, "dataset", "orl", tmp_path, "--holdout", "41")
    assert (code, err) == (1, "denseface: error: --holdout: there is no person 41; they are 1 to 40\n")
