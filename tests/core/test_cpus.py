"""Processors that this process may keep busy, by affinity and by the quotas of control groups."""

import os
import subprocess
import sys

import pytest

from denseface.core import cpus

V2 = "31 23 0:27 {mounted} /sys/fs/cgroup rw - cgroup2 cgroup2 rw"
V1 = "32 31 0:29 {mounted} /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct"
OTHER_V1 = "33 31 0:30 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset"


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A machine of 8 processors, with control groups as files."""
    monkeypatch.setattr(cpus, "_ROOT", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)

    def add(mounts, groups, **files):
        (tmp_path / "proc/self").mkdir(parents=True)
        (tmp_path / "proc/self/mountinfo").write_text("\n".join(["20 1 8:1 / / rw - ext4 /dev/sda rw", *mounts]))
        (tmp_path / "proc/self/cgroup").write_text("\n".join(groups) + "\n")
        for name, text in files.items():
            path = tmp_path / "sys/fs/cgroup" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text + "\n")

    return add


def v1(folder, quota):
    return {f"cpu,cpuacct/{folder}cpu.cfs_quota_us": quota, f"cpu,cpuacct/{folder}cpu.cfs_period_us": "100000"}


@pytest.mark.parametrize(
    ("mounts", "groups", "files", "expected"),
    [
        ([], [], {}, 8),
        ([V2.format(mounted="/")], ["0::/"], {"cpu.max": "max 100000"}, 8),
        ([V2.format(mounted="/")], ["0::/"], {"cpu.max": "100000 100000"}, 1),
        ([V2.format(mounted="/")], ["0::/job/step"], {"job/cpu.max": "250000 100000", "job/step/cpu.max": "max 9"}, 2),
        ([V2.format(mounted="/")], ["0::/job"], {"job/cpu.max": "50000 100000"}, 1),
        ([V2.format(mounted="/")], ["0::/job"], {"other/cpu.max": "50000 100000", "job/cpu.max": "broken"}, 8),
        # A container sees its own group, whatever that is called outside.
        ([V2.format(mounted="/docker/1")], ["0::/docker/1"], {"cpu.max": "300000 100000"}, 3),
        ([V2.format(mounted="/")], ["0::/docker/1"], {"cpu.max": "300000 100000"}, 3),
        ([OTHER_V1, V1.format(mounted="/")], ["4:cpuset:/", "5:cpu,cpuacct:/"], v1("", "200000"), 2),
        ([V1.format(mounted="/")], ["5:cpu,cpuacct:/job"], v1("job/", "400000"), 4),
        ([V1.format(mounted="/")], ["5:cpu,cpuacct:/job"], v1("job/", "-1"), 8),
        ([V1.format(mounted="/docker/1")], ["5:cpu,cpuacct:/docker/1"], v1("", "100000"), 1),
        ([V2.format(mounted="/")], ["0::/"], {"cpu.max": "9900000 100000"}, 8),
    ],
)
def test_quotas(machine, mounts, groups, files, expected):
    machine(mounts, groups, **files)
    assert (cpus.usable_cpus(), cpus.usable_cpus(most=2), cpus.usable_cores()) == (expected, min(expected, 2), expected)


def test_hyperthreads_of_a_core_compute_as_one(machine, tmp_path):
    machine([], [])
    for cpu in range(8):
        path = tmp_path / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list"
        path.parent.mkdir(parents=True)
        path.write_text(f"{cpu % 4},{cpu % 4 + 4}\n")
    assert (cpus.usable_cpus(), cpus.usable_cores()) == (8, 4)


def test_without_affinity_it_is_the_machine(machine, monkeypatch):
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert (cpus.usable_cpus(), cpus.usable_cores()) == (1, 1)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="there is no affinity here")
def test_the_affinity_of_a_process_counts():
    first = min(os.sched_getaffinity(0))
    code = (
        f"import os; os.sched_setaffinity(0, [{first}]); from denseface.core.cpus import *; "
        "print(usable_cpus(), usable_cores())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1 1\n"
