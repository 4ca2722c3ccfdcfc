"""Number of processors that this process may use, limited by its affinity and the quota of its control groups."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

_ROOT = Path("/")
_MOST_DECODERS = 4


def usable_cpus(most: int | None = None) -> int:
    """Return how many processors this process may use, from 1 to `most`.

    The machine may have more if an affinity (``taskset``, a Slurm job) or a CPU quota (a container) says so; a quota of
    2.5 processors counts as 2. macOS knows neither.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min([cpus, most or cpus, *map(int, _quotas())]))


def decoding_threads() -> int:
    """Return how many threads should decode pictures beside the threads that compute."""
    return usable_cpus(most=_MOST_DECODERS)


def usable_cores() -> int:
    """Return how many threads that compute this process may keep busy: two hyperthreads of a core count as one."""
    if not hasattr(os, "sched_getaffinity"):
        return usable_cpus()
    siblings = [
        _ROOT / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list" for cpu in os.sched_getaffinity(0)
    ]
    return min(usable_cpus(), len({path.read_text() if path.exists() else path for path in siblings}))


def _quotas() -> Iterator[float]:
    """Quotas, in processors, of the control groups of this process and of all around them."""
    for line in _lines("proc/self/mountinfo"):
        entry, _, source = line.partition(" - ")
        fields, kind = entry.split(), source.split()
        if len(fields) < 5 or len(kind) < 3 or not (kind[0] == "cgroup2" or "cpu" in kind[2].split(",")):
            continue
        for group in _groups(kind[0], mounted=fields[3], at=fields[4]):
            yield from _quota(group)


def _groups(kind: str, mounted: str, at: str) -> Iterator[Path]:
    """Folders of this process's control group and of those around it, as far as they are mounted."""
    for line in _lines("proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        if controllers == "" if kind == "cgroup2" else "cpu" in controllers.split(","):
            # A container sees the name that its group has outside, and its own group mounted.
            inside = path[len(mounted.rstrip("/")) :] if path.startswith(mounted) else "/"
            group = _ROOT / at.lstrip("/") / inside.lstrip("/")
            yield from (folder for folder in (group, *group.parents) if folder.is_relative_to(_ROOT / at.lstrip("/")))


def _quota(group: Path) -> Iterator[float]:
    lines = _lines(group / "cpu.max") or _lines(group / "cpu.cfs_quota_us") + _lines(group / "cpu.cfs_period_us")
    try:
        quota, period = map(int, " ".join(lines).split())
    except ValueError:  # none, or "max"
        return
    if quota > 0 and period > 0:
        yield quota / period


def _lines(path: str | Path) -> list[str]:
    try:
        return (_ROOT / path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
