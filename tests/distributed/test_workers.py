"""Several workers over the parameter server, on this machine: the same as one worker with all their pictures."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from denseface.core.errors import InputError
from denseface.data.records import write_face_records
from denseface.distributed import heartbeats, launcher
from denseface.distributed.workers import connect
from denseface.models import checkpoint
from support import distributed_run
from support.distributed_run import CLASSES, SIZE
from support.launched import children
from support.processes import is_running
from support.refusals import refused
from support.tiny_models import as_ndarrays, encode, pictures, tiny_model

import mxnet as mx

SCRIPT = Path(distributed_run.__file__)


@pytest.fixture(autouse=True)
def found(monkeypatch):
    """Let processes find the package, and not take each other's processors."""
    monkeypatch.setenv("PYTHONPATH", str(SCRIPT.parents[2]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    folder = tmp_path_factory.mktemp("records")
    faces = pictures(10 * CLASSES, (SIZE, SIZE, 3))
    write_face_records(folder, [(i // 10, encode(face)) for i, face in enumerate(faces)], (SIZE, SIZE))
    return folder


def command(records, prefix, **settings):
    return [sys.executable, "-u", str(SCRIPT), str(records), str(prefix), json.dumps(settings)]


def launch(records, prefix, workers=2, output=None, **settings):
    """Run workers to their end; gives the exit code. What they have said is shown if one fails."""
    output = output or Path(f"{prefix}.txt")
    try:
        with open(output, "wb") as file:
            return launcher.run(launcher.plan(command(records, prefix, **settings), workers, 1), file)
    except InputError:
        print(output.read_text(encoding="utf-8", errors="replace"))
        raise


def alone(records, prefix, **settings):
    return distributed_run.main(str(records), str(prefix), kvstore="local", **settings)


def places(folder, *names):
    """Prefixes in folders of their own."""
    for name in names:
        (folder / name).mkdir()
    return [folder / name / "model" for name in names]


def assert_same_ends(one, other, step, tolerance):
    ours, theirs = (checkpoint.Checkpoint.newest(prefix).load() for prefix in (one, other))
    kinds = [(getattr(ours, kind), getattr(theirs, kind)) for kind in ("arguments", "auxiliary", "momenta")]
    for first, second in (*kinds, *zip(ours.averages or (), theirs.averages or ())):
        assert first.keys() == second.keys()
        for name in first:
            np.testing.assert_allclose(first[name], second[name], rtol=tolerance, atol=tolerance, err_msg=name)
    return ours, theirs


def log_of(prefix, column):
    with open(f"{prefix}-training.csv", newline="") as file:
        return [float(row[column]) for row in csv.DictReader(file)]


def test_two_workers_end_where_one_with_their_pictures_does_after_a_stop_too(records, tmp_path):
    """Taught, and with fixed statistics of batch normalization, which a worker otherwise has of its pictures alone."""
    two, one, teacher = places(tmp_path, "two", "one", "teacher")
    model = tiny_model((SIZE, SIZE, 3), 7)
    mx.model.save_checkpoint(str(teacher), 1, model.symbol, *as_ndarrays(model))
    log, settings = tmp_path / "log", {"fixed": True, "clip_norm": 20, "ema": 0.9, "teacher": f"{teacher},1"}
    assert launch(records, two, output=log, batch=4, **settings, signal_at=8) == 143
    assert checkpoint.complete_steps(two) == [8]
    assert log.read_text().count("taking step 8") == 2 and "taking step 9" not in log.read_text()
    assert launch(records, two, batch=4, **settings, resume=True) == 0
    assert alone(records, one, batch=8, **settings) == 0
    assert_same_ends(one, two, 20, 1e-4)
    np.testing.assert_allclose(log_of(one, "loss"), log_of(two, "loss"), rtol=1e-4)
    norms = log_of(one, "gradient_norm")
    np.testing.assert_allclose(norms, log_of(two, "gradient_norm"), rtol=1e-4)
    assert min(norms) < settings["clip_norm"] < max(norms)


def test_two_workers_measure_the_lengths_of_adaface_as_two_devices_do_after_a_stop_too(records, tmp_path):
    """A worker measures its own pictures alone, so one worker sees the same with two devices."""
    parts, whole, one = places(tmp_path, "parts", "whole", "one")
    assert launch(records, parts, batch=4, loss="adaface", signal_at=8) == 143
    assert launch(records, parts, batch=4, loss="adaface", resume=True) == 0
    assert launch(records, whole, batch=4, loss="adaface") == 0
    assert alone(records, one, batch=8, loss="adaface", devices=2) == 0
    assert_same_ends(parts, whole, 20, 0)
    _, state = assert_same_ends(one, whole, 20, 1e-4)
    mean, deviation = (state.auxiliary[f"adaface_norm_{name}"].item() for name in ("mean", "deviation"))
    assert 1 < mean < 90 and 1 < deviation < 10  # they begin at 20 and 100; lengths are cut at 100


def test_two_workers_go_on_with_the_run_of_one_and_its_sampled_classes(records, tmp_path):
    both, one = places(tmp_path, "both", "one")
    settings = {"fixed": True, "sample": 10, "clip_norm": 20, "freeze": ["conv_weight", "bn_moving_mean"]}
    assert alone(records, both, batch=8, steps=8, **settings) == 0
    assert launch(records, both, batch=4, resume=True, **settings) == 0
    assert alone(records, one, batch=8, **settings) == 0
    assert_same_ends(one, both, 20, 1e-4)


def test_workers_with_devices_triplets_and_accumulation_see_what_one_does(records, tmp_path):
    one, two = places(tmp_path, "one", "two")
    settings = {"loss": "triplet", "accumulate": 2, "steps": 3, "fixed": True}
    assert launch(records, two, batch=6, devices=2, **settings) == 0
    assert alone(records, one, batch=12, devices=4, **settings) == 0
    one, two = assert_same_ends(one, two, 3, 1e-4)
    assert one.progress["loader"] == two.progress["loader"]


def test_workers_stop_together_when_the_loss_of_one_is_none_any_more(records, tmp_path):
    prefix, log = tmp_path / "model", tmp_path / "log"
    with refused("exit code 1"):
        launch(records, prefix, output=log, dropout=0.3, diverge_at=7, verbose=5)
    assert log.read_text().count("step 7: the loss is no longer finite") == 2
    assert log.read_text().count("checkpoint at step 5 is kept") == 2
    assert checkpoint.complete_steps(prefix) == [5]


@pytest.mark.torture
@pytest.mark.parametrize("workers, tolerance", [(2, 0), (3, 1e-3)])
def test_a_run_repeats_itself(records, tmp_path, workers, tolerance):
    """With batch statistics and dropout; a server adds the gradients of three workers in the order of their arrival."""
    one, other = places(tmp_path, "one", "other")
    for prefix in (one, other):
        assert launch(records, prefix, workers=workers, dropout=0.3) == 0
    assert_same_ends(one, other, 20, tolerance)


def test_one_worker_needs_no_server_and_answers_for_all():
    with connect("device") as workers:
        assert (workers.rank, workers.size, workers.is_first) == (0, 1, True)
        assert workers.sum([[1, 2]]).tolist() == [[1, 2]]
        assert workers.from_first(lambda: {"a": 1}) == {"a": 1}
        workers.check(None)
        with refused("mine"):
            workers.check(InputError("mine"))


def test_kvstore_and_variables_have_to_agree(monkeypatch):
    with refused("dist_sync", "DMLC_ROLE is not set", option="kvstore"):
        connect("dist_sync")
    monkeypatch.setenv("DMLC_ROLE", "worker")
    with refused("device", "DMLC_ROLE", "dist_sync", option="kvstore"):
        connect("device")
    with refused("DMLC_PS_ROOT_URI is not set", option="kvstore"):
        connect("dist_sync")


@pytest.mark.parametrize(
    "name, value",
    [
        ("DMLC_ROLE", "boss"),
        *(("DMLC_NUM_WORKER", value) for value in ("0", "-1", "x", "1.5", "9" * 30)),
        ("DMLC_NUM_SERVER", "0"),
        *(("DMLC_PS_ROOT_PORT", value) for value in ("x", "0", "99999", "-1")),
    ],
)
@pytest.mark.parametrize("role", ["worker", "server"])
def test_variables_that_mxnet_would_wait_on_are_named(monkeypatch, role, name, value):
    good = {"DMLC_ROLE": role, "DMLC_PS_ROOT_URI": "127.0.0.1", "DMLC_PS_ROOT_PORT": "9091"}
    for key, text in {**good, "DMLC_NUM_WORKER": "1", "DMLC_NUM_SERVER": "1", name: value}.items():
        monkeypatch.setenv(key, text)
    begin = heartbeats.watch_as_server if role == "server" else lambda: connect("dist_sync")
    with pytest.raises(InputError) as caught:
        begin()
    assert f"{name}={value}: " in caught.value.reason


@pytest.mark.parametrize("text", ["soon", "0", "-3", "1.5", "9" * 20])
def test_a_time_that_is_none_is_named(monkeypatch, text):
    for name in heartbeats.VARIABLES:
        monkeypatch.setenv(name, "worker" if name == "DMLC_ROLE" else "1")
    monkeypatch.setenv("DENSEFACE_ARRIVAL_TIMEOUT", text)
    with refused("DENSEFACE_ARRIVAL_TIMEOUT", "whole number"):
        connect("dist_sync")


def start_without_launcher(records, prefix, roles, **variables):
    """The processes of a run as Slurm or Kubernetes start them, by DMLC_* variables alone."""
    processes = []
    for process in launcher.plan(command(records, prefix, steps=100_000), 2, 1):
        if process.name in roles:
            environment = {**os.environ, **process.variables, **variables}
            pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
            processes.append(subprocess.Popen(process.command, env=environment, **pipes))
    return processes


def test_without_a_launcher_the_scheduler_names_the_dead_and_all_end(records, tmp_path):
    roles = ("scheduler", "server 0", "worker 0", "worker 1")
    processes = start_without_launcher(records, tmp_path / "model", roles, PS_HEARTBEAT_TIMEOUT="2")
    try:
        for line in processes[3].stdout:
            if "taking step 3" in line:
                break
        processes[3].kill()
        started = time.monotonic()
        errors = [process.communicate(timeout=30)[1] for process in processes]
        assert time.monotonic() - started < 15
        assert "worker 1 has been silent for 2 s" in errors[0]
        for text in errors[1:3]:
            assert "scheduler at 127.0.0.1" in text and "has been silent for 2 s" in text
        assert [process.returncode for process in processes] == [1, 1, 1, -signal.SIGKILL]
    finally:
        end(processes)


def test_a_worker_that_never_comes_is_a_time_out_everywhere(records, tmp_path):
    roles = ("scheduler", "server 0", "worker 0")
    processes = start_without_launcher(records, tmp_path / "model", roles, DENSEFACE_ARRIVAL_TIMEOUT="2")
    try:
        errors = [process.communicate(timeout=120)[1] for process in processes]
        for text in errors:
            assert "after 2 s" in text and "2 workers and 1 servers have not all found each other" in text
        assert [process.returncode for process in processes] == [1, 1, 1]
    finally:
        end(processes)


def test_all_may_get_the_signal_that_stops_a_run(records, tmp_path):
    """As by Ctrl-C in a terminal, or from Slurm: workers save, and servers wait for them."""
    roles = ("scheduler", "server 0", "worker 0", "worker 1")
    processes = start_without_launcher(records, tmp_path / "model", roles)
    try:
        for line in processes[3].stdout:
            if "taking step 3" in line:
                break
        for process in processes:
            process.send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=120)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 143, 143], errors
        assert len(checkpoint.complete_steps(tmp_path / "model")) == 1
    finally:
        end(processes)


@pytest.mark.torture
def test_signals_end_those_who_wait_for_others_to_come(records, tmp_path):
    processes = start_without_launcher(records, tmp_path / "model", ("scheduler", "server 0", "worker 0"))
    try:
        time.sleep(20)
        for process in processes:
            process.send_signal(signal.SIGTERM)
        errors = [process.communicate(timeout=10)[1] for process in processes]
        assert [process.returncode for process in processes] == [143, 143, -signal.SIGTERM], errors
    finally:
        end(processes)


def end(processes):
    for process in processes:
        process.kill()
        process.communicate()


@pytest.mark.torture
@pytest.mark.parametrize("victim", ["scheduler", "server 0", "worker 0", "worker 1"])
@pytest.mark.parametrize("kind", ["SIGKILL", "SIGSTOP"])
@pytest.mark.parametrize("launched", [True, False])
def test_faults(records, tmp_path, launched, kind, victim, capsys):
    """Whoever dies or freezes, all end within 30 s, and the run goes on to the end that it would have had."""
    prefix, whole = places(tmp_path, "prefix", "whole")
    settings = {"batch": 4, "dropout": 0.3, "steps": 3000, "verbose": 20}
    plan = launcher.plan(command(records, prefix, **settings), 2, 1)
    names = [process.name for process in plan]
    log = tmp_path / "log"
    with open(log, "wb") as file:
        if launched:
            arguments = [sys.executable, "-m", "denseface", "launch", "--workers", "2", "--", *plan[0].command]
            group = [subprocess.Popen(arguments, stdout=file, stderr=file)]
            wait_for(prefix)
            pids = dict(zip(names, children(group[0].pid)))
        else:
            group = [
                subprocess.Popen(p.command, env={**os.environ, **p.variables}, stdout=file, stderr=file) for p in plan
            ]
            wait_for(prefix)
            pids = dict(zip(names, (process.pid for process in group)))
    os.kill(pids[victim], signal.Signals[kind])
    started = time.monotonic()
    try:
        others = [process for process in group if process.pid != pids[victim]]
        codes = [process.wait(timeout=30) for process in others]
        seconds = time.monotonic() - started
    finally:
        for process in group:
            process.kill()
            process.wait()
    assert set(codes) == {1}
    said = [line for line in log.read_text().splitlines() if "error:" in line]
    assert any(victim in line for line in said), said
    step = checkpoint.Checkpoint.newest(prefix).step
    rest = {**settings, "steps": step + 20}
    assert launch(records, prefix, resume=True, **rest) == 0
    assert launch(records, whole, **rest) == 0
    assert_same_ends(prefix, whole, step + 20, 0)
    with capsys.disabled():
        print(f"\n{victim}, {kind}, {'launch' if launched else 'by variables'}: {seconds:.1f} s, step {step}; {said}")


@pytest.mark.torture
def test_a_worker_that_is_killed_at_its_end_keeps_nobody(records, tmp_path):
    """Between the last step and the leave that all take of each other."""
    for moment in range(5):
        (prefix,) = places(tmp_path, f"run{moment}")
        plan = launcher.plan(command(records, prefix, steps=50), 2, 1)
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        group = [subprocess.Popen(p.command, env={**os.environ, **p.variables}, **quiet) for p in plan]
        try:
            wait_for(prefix)
            time.sleep(moment / 50)
            group[3].kill()
            for process in group:
                process.wait(timeout=30)
        finally:
            for process in group:
                process.kill()
                process.wait()
        assert checkpoint.complete_steps(prefix) == [50]


@pytest.mark.torture
def test_workers_save_and_all_end_when_their_launcher_is_killed(records, tmp_path):
    prefix = tmp_path / "model"
    training = command(records, prefix, steps=100_000, verbose=100_000)
    with subprocess.Popen(
        [sys.executable, "-m", "denseface", "launch", "--workers", "2", "--", *training],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    ) as group:  # fmt: skip
        while b"taking step 3" not in group.stdout.readline():
            pass
        pids = children(group.pid)
        assert len(pids) == 4
        group.kill()
    deadline = time.monotonic() + 30
    while any(is_running(pid) for pid in pids):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert checkpoint.complete_steps(prefix)


def wait_for(prefix):
    deadline = time.monotonic() + 240
    while not checkpoint.complete_steps(prefix):
        assert time.monotonic() < deadline, "no checkpoint has come"
        time.sleep(0.01)
