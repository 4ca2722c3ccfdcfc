"""The launcher: what it would run, and that its processes begin, speak and end as one."""

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from denseface import cli
from denseface.core.errors import InputError
from denseface.distributed import launcher
from denseface.distributed.launcher import Process
from support.launched import python
from support.processes import is_running
from support.refusals import refused

ROOT = Path(cli.__file__).parents[2]
SLEEP = "import time; time.sleep(60)"


def run(processes, tmp_path):
    path = tmp_path / "output"
    with open(path, "wb") as file:
        try:
            return launcher.run(processes, file), path
        except InputError as error:
            return str(error), path


def test_one_machine_gets_ports_of_its_own_and_ranks_in_the_order_of_the_names():
    processes = launcher.plan(["python", "train.py"], 3, 2, arrival_seconds=7)
    names = ["scheduler", "server 0", "server 1", "worker 0", "worker 1", "worker 2"]
    assert [process.name for process in processes] == names
    assert [process.variables["DMLC_ROLE"] for process in processes] == ["scheduler", *["server"] * 2, *["worker"] * 3]
    for process in processes:
        assert process.variables["DMLC_NUM_WORKER"] == "3" and process.variables["DMLC_NUM_SERVER"] == "2"
        assert process.variables["DMLC_PS_ROOT_URI"] == process.variables["DMLC_NODE_HOST"] == "127.0.0.1"
        assert process.variables["DENSEFACE_ARRIVAL_TIMEOUT"] == "7" and process.host is None
    ports = [int(process.variables["PORT"]) for process in processes[1:]]
    assert ports == sorted(set(ports)) and processes[0].variables["DMLC_PS_ROOT_PORT"] not in map(str, ports)


def test_hosts_take_turns_and_the_command_reaches_them_as_it_was_given(tmp_path):
    command = ["python", "train.py", "--set", "dataset_path=/data/my $faces", "it's", 'a "b"', ""]
    processes = launcher.plan(command, 3, 2, ["me@one", "two"])
    assert [process.host for process in processes] == ["me@one", "me@one", "two", "me@one", "two", "me@one"]
    for process in processes:
        assert process.variables["DMLC_PS_ROOT_URI"] == "one" and process.variables["DMLC_PS_ROOT_PORT"] == "9091"
        *ssh, remote = process.arguments()
        assert ssh == ["ssh", "-tt", "-o", "BatchMode=yes", process.host]
        printing = remote.replace("exec env", "printf '%s\\n'")
        shell = subprocess.run(["sh", "-c", printing], capture_output=True, text=True)
        assert shell.stdout.splitlines()[-len(command) :] == command
    assert launcher.plan(command, 1, 1, ["one"], root="10.0.0.1", port=5)[1].variables["DMLC_PS_ROOT_URI"] == "10.0.0.1"


def test_a_dry_run_prints_commands_for_a_shell(tmp_path, capsys):
    hosts = tmp_path / "hosts"
    hosts.write_text("# nodes\n\nnode1  # the first\nme@node2\n")
    arguments = ["launch", "--workers", "2", "--servers", "2", "--dry-run", "--hosts", str(hosts), "--"]
    assert cli.main([*arguments, "python", "train.py", "--set", "a=b c"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [shlex.split(line)[4] for line in lines] == ["node1", "node1", "me@node2", "node1", "me@node2"]
    assert all(shlex.split(shlex.split(line)[-1])[-1] == "a=b c" for line in lines)
    assert cli.main(["launch", "--workers", "1", "--dry-run", "--", "python", "train.py"]) == 0
    assert [line.split()[:2] for line in capsys.readouterr().out.splitlines()] == [
        ["env", f"DMLC_ROLE={role}"] for role in ("scheduler", "server", "worker")
    ]


@pytest.mark.parametrize(
    "content, fact", [("\n# none\n", "no host"), ("-oProxyCommand=x\n", "'-oProxyCommand=x'"), ("a b\n", "'a b'")]
)
def test_lists_of_hosts_that_are_none(tmp_path, content, fact):
    path = tmp_path / "hosts"
    path.write_text(content)
    with refused(fact, path=path):
        launcher.read_hosts(path)


def test_nothing_to_run_is_one_line(capsys):
    assert cli.main(["launch", "--workers", "2"]) == 1
    assert "launch: give what to run after --" in capsys.readouterr().err


def test_lines_bear_names_and_all_well_is_0(tmp_path):
    code = "import sys; print('one\\ntwo'); print('three', end='', file=sys.stderr)"
    result, path = run([python("server 0", code), python("worker 0", "print('four')")], tmp_path)
    assert result == 0
    lines = path.read_text().splitlines()
    of_server = [line for line in lines if line.startswith("server 0")]
    assert of_server == ["server 0 | one", "server 0 | two", "server 0 | three"]
    assert "worker 0 | four" in lines


@pytest.mark.parametrize("victim", ["scheduler", "server 0", "worker 1"])
def test_one_that_is_killed_is_named_and_ends_all(tmp_path, victim):
    die = "import os, signal, time; time.sleep(0.2); os.kill(os.getpid(), signal.SIGKILL)"
    names = ("scheduler", "server 0", "worker 0", "worker 1")
    started = time.monotonic()
    result, _ = run([python(name, die if name == victim else SLEEP) for name in names], tmp_path)
    assert result == f"{victim} was killed by SIGKILL; all others were ended; resume the run"
    assert time.monotonic() - started < 20


def test_one_that_fails_is_named_after_its_last_words_and_those_of_others(tmp_path):
    slow = "import time; time.sleep(1); print('me too')"
    result, path = run([python("worker 0", slow), python("worker 1", "import sys; sys.exit('no such file')")], tmp_path)
    assert result == "worker 1 failed with exit code 1, as its lines say; all others were ended"
    assert "worker 1 | no such file" in path.read_text() and "worker 0 | me too" in path.read_text()


def test_what_a_process_has_started_ends_with_it(tmp_path):
    pid = tmp_path / "pid"
    begin = (
        "import pathlib, subprocess, sys; p = subprocess.Popen(['sleep', '60'])\n"
        "pathlib.Path(sys.argv[1]).write_text(str(p.pid)); p.wait()"
    )
    fail = (
        "import pathlib, sys, time; path = pathlib.Path(sys.argv[1])\n"
        "while not path.exists() or not path.read_text(): time.sleep(0.05)\n"
        "sys.exit(3)"
    )
    run([python("server 0", begin, str(pid)), python("worker 0", fail, str(pid))], tmp_path)
    deadline = time.monotonic() + 20  # a busy machine takes a while to end what was killed
    while is_running(int(pid.read_text())) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(int(pid.read_text()))


def test_a_command_that_is_none_is_one_line(tmp_path):
    result, path = run([Process("worker 0", None, {}, ("no-such-program",), ".")], tmp_path)
    assert "worker 0 failed with exit code 127" in result and "no-such-program" in path.read_text()


def start(processes_code, tmp_path, **environment):
    """A launcher as a process of its own; returns when both workers are at work."""
    script = f"""
import sys
sys.path[:0] = [{str(ROOT)!r}, {str(ROOT / "tests")!r}]
from support import launched as t
from denseface.distributed import launcher
try:
    sys.exit(launcher.run({processes_code}))
except Exception as error:
    sys.exit(str(error))
"""
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **environment},
    )  # fmt: skip
    seen = 0
    for line in process.stdout:
        seen += "at work" in line
        if seen == 2:
            break
    return process


HERE = """[
    t.python("server 0", t.SERVER, sys.argv[1]),
    t.python("worker 0", t.WORKER, sys.argv[1]),
    t.python("worker 1", t.WORKER, sys.argv[1]),
]"""
THERE = HERE.replace("sys.argv[1])", "sys.argv[1], host='node')")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_reaches_the_workers_which_end_well(tmp_path, number):
    with start(HERE, tmp_path) as process:
        process.send_signal(number)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 128 + number, errors
    assert [path.name for path in tmp_path.iterdir()] == [f"stopped by {int(number)}"]


def test_a_second_signal_ends_all_at_once(tmp_path):
    deaf = HERE.replace("t.WORKER", "t.WORKER.replace('sys.exit', 'print')")
    with start(deaf, tmp_path) as process:
        process.send_signal(signal.SIGTERM)
        while not list(tmp_path.iterdir()):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 130, errors


def test_a_launcher_that_is_killed_takes_the_workers_with_it(tmp_path):
    with start(HERE, tmp_path) as process:
        process.kill()
        process.communicate(timeout=30)
    deadline = time.monotonic() + 20
    while not list(tmp_path.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [path.name for path in tmp_path.iterdir()] == ["stopped by 15"]


def test_a_launcher_that_is_killed_before_all_have_met_leaves_nobody(tmp_path):
    """A scheduler and a server of MXNet, and a worker that never comes."""
    training = [
        sys.executable,
        "-c",
        "import os, time, denseface\nif os.environ['DMLC_ROLE'] == 'worker': time.sleep(99)\nimport mxnet",
    ]
    process = subprocess.Popen(
        [sys.executable, "-m", "denseface", "launch", "--workers", "1", "--", *training],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 60
    while len(children := children_of(process.pid)) < 3 or not any(has_loaded_mxnet(pid) for pid in children):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.05)
    process.kill()
    process.wait()
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def children_of(parent):
    path = Path(f"/proc/{parent}/task/{parent}/children")
    return [int(pid) for pid in path.read_text().split()]


def has_loaded_mxnet(pid):
    return "libmxnet" in Path(f"/proc/{pid}/maps").read_text()


@pytest.mark.parametrize("port", ["70000", "65536"])
def test_a_port_that_is_none_is_refused(capsys, port):
    assert cli.main(["launch", "--workers", "1", "--port", port, "--dry-run", "--", "true"]) == 1
    assert f"--port: must be from 1 to 65535, not {port}" in capsys.readouterr().err


def test_a_signal_reaches_workers_at_the_other_end_of_ssh(tmp_path):
    tools = tmp_path / "tools"
    tools.mkdir()
    ssh = tools / "ssh"  # with a terminal, as by -tt
    ssh.write_text(
        f"#!{sys.executable}\n"
        "import os, pty, sys\n"
        "sys.exit(os.waitstatus_to_exitcode(pty.spawn(['sh', '-c', sys.argv[-1]])))\n"
    )
    ssh.chmod(0o755)
    place = tmp_path / "place"
    place.mkdir()
    with start(THERE, place, PATH=f"{tools}:{os.environ['PATH']}") as process:
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130, errors
    assert [path.name for path in place.iterdir()] == ["stopped by 2"]
