"""The cache of compiled operators: nothing is used that somebody else may have written, or that has changed."""

import errno
import os
import pwd
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from denseface.rewrites.native import cache
from denseface.rewrites.native.cache import cached

NAME = "library.so"
CONTENT = bytes(range(256)) * 20
SOMEBODY_ELSE = 65534  # nobody


@pytest.fixture(autouse=True)
def temporary(tmp_path, monkeypatch):
    """The folder of temporary files."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir(0o700)
    return tmp_path / "temporary"


@pytest.fixture
def base(tmp_path, monkeypatch):
    """The folder for caches; who can write there is for a test to say."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def kept_beside_temporary_files(temporary):
    """Use the cache twice; whether the file is made at most once, and kept in the folder of temporary files."""
    path, _ = use()
    return path == temporary / f"denseface-{os.geteuid()}" / NAME and use() == (path, 0)


def use(name=NAME):
    """Use the cache once. Returns where the file was, and how often it was made."""
    made = []

    def make(path):
        made.append(path)
        path.write_bytes(CONTENT)

    with cached(name, make) as path:
        assert path.read_bytes() == CONTENT
    return path, len(made)


def test_a_file_is_made_once(base):
    path, times = use()
    assert (path, times) == (base / "denseface" / NAME, 1)
    assert use() == (path, 0)
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["library.sha256", NAME]
    assert [stat.S_IMODE(p.stat().st_mode) for p in (base, path.parent, path)] == [0o700, 0o700, 0o600]


def test_modes_do_not_depend_on_the_umask(base):
    before = os.umask(0)
    try:
        assert [use()[1] for _ in range(2)] == [1, 0]
    finally:
        os.umask(before)


def cut(path):
    path.write_bytes(CONTENT[:1000])


def flip(path):
    path.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])


def replace_by_fifo(path):
    path.unlink()
    os.mkfifo(path)


def replace_by_link(path):
    moved = path.with_name("moved")
    path.rename(moved)
    path.symlink_to(moved)


def replace_by_device(path):
    path.unlink()
    path.symlink_to("/dev/zero")


@pytest.mark.parametrize("which", [NAME, "library.sha256"])
@pytest.mark.parametrize(
    "change",
    [
        cut,
        flip,
        replace_by_fifo,
        replace_by_link,
        replace_by_device,
        Path.unlink,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_text("some text\n"),
    ],
)
def test_what_has_changed_is_made_again(base, change, which):
    path, _ = use()
    change(path.with_name(which))
    assert use() == (path, 1)
    assert use() == (path, 0)


@pytest.mark.parametrize("which", [NAME, "library.sha256"])
def test_a_folder_in_the_way_is_left_alone(base, which, caplog, temporary):
    path = base / "denseface" / which
    path.mkdir(parents=True)
    for folder in (base, base / "denseface"):
        folder.chmod(0o700)
    assert kept_beside_temporary_files(temporary)
    assert path.is_dir() and "Is a directory" in caplog.text


@pytest.mark.parametrize("mode", [0o620, 0o602])
@pytest.mark.parametrize("which", [NAME, "library.sha256"])
def test_a_file_that_others_can_write_is_made_again(base, which, mode):
    path, _ = use()
    path.with_name(which).chmod(mode)
    assert use() == (path, 1)
    assert stat.S_IMODE(path.with_name(which).stat().st_mode) == 0o600


@pytest.mark.parametrize("mode", [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_is_not_used(base, mode, caplog):
    path, _ = use()
    path.parent.chmod(mode)
    assert use()[0].parent != path.parent
    assert f"{path.parent} can be written by others; chmod go-w {path.parent}" in caplog.text


def test_a_folder_above_is_checked_too_except_for_shared_ones_like_tmp(base, caplog):
    base.mkdir()
    base.chmod(0o1777)  # like /tmp
    assert use() == (base / "denseface" / NAME, 1)
    base.chmod(0o777)
    assert use()[0].parent != base / "denseface"
    assert f"{base} can be written by others" in caplog.text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_another_user_is_not_used(base, caplog):
    path, _ = use()
    for which in (path, path.with_suffix(".sha256")):
        os.chown(which, SOMEBODY_ELSE, -1)
        assert use() == (path, 1)
    for folder in (path.parent, base):
        os.chown(folder, SOMEBODY_ELSE, -1)
        assert use(f"{folder.name}.so")[0].parent != path.parent
        assert f"{folder} belongs to another user" in caplog.text
        os.chown(folder, 0, -1)


def test_links_to_ones_own_folders_are_followed(base, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    base.symlink_to(tmp_path / "elsewhere")
    assert use() == (tmp_path / "elsewhere" / "denseface" / NAME, 1)


def test_a_file_in_the_place_of_the_folder_is_left_alone(base, caplog, temporary):
    base.mkdir(0o700)
    (base / "denseface").write_text("in the way")
    assert kept_beside_temporary_files(temporary)
    assert (base / "denseface").read_text() == "in the way"
    assert "Not a directory" in caplog.text


# Loads the cache without MXNet, which takes longer than all the rest.
SCRIPT = f"""
import os, runpy, time
cached = runpy.run_path({cache.__file__!r})["cached"]
def make(path):
    path.write_bytes(bytes(range(256)) * 20)
    print("made", flush=True)
    time.sleep(float(os.environ["MAKING_TAKES"]))
with cached({NAME!r}, make):
    pass
"""


def started(seconds):
    environment = {**os.environ, "MAKING_TAKES": str(seconds)}
    return subprocess.Popen([sys.executable, "-c", SCRIPT], env=environment, stdout=subprocess.PIPE, text=True)


def test_what_a_killed_process_left_is_removed(base):
    with started(60) as process:
        assert process.stdout.readline() == "made\n"
        process.kill()
    (left,) = (base / "denseface").iterdir()
    assert (left / NAME).exists()
    path, times = use()
    assert times == 1
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["library.sha256", NAME]


def test_processes_at_the_same_time_make_it_once(base):
    processes = [started(0.5) for _ in range(6)]
    assert "".join(process.communicate()[0] for process in processes) == "made\n"
    assert [process.returncode for process in processes] == [0] * 6
    assert use()[1] == 0


def test_a_failure_leaves_nothing(base):
    def make(path):
        path.write_bytes(CONTENT)
        raise ValueError

    with pytest.raises(ValueError), cached(NAME, make):
        pass
    assert not list((base / "denseface").iterdir())


@pytest.mark.parametrize("home", ["/nonexistent/home", None])
def test_without_a_home_folder_it_is_kept_beside_temporary_files(monkeypatch, home, caplog, temporary):
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if home:
        monkeypatch.setenv("HOME", home)
    else:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)  # the user has no entry
    assert kept_beside_temporary_files(temporary)
    assert "there is no home folder; set XDG_CACHE_HOME to a folder" in caplog.text
    assert not Path("/nonexistent").exists()


def test_a_relative_folder_is_ignored(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert use() == (tmp_path / ".cache" / "denseface" / NAME, 1)


def test_a_disk_that_is_full_keeps_nothing(base, monkeypatch, caplog):
    use("other.so")

    def full(source, target):
        raise OSError(28, "No space left on device", str(target))

    monkeypatch.setattr(os, "replace", full)
    assert not use()[0].exists()
    assert "No space left on device" in caplog.text
    assert sorted(entry.name for entry in (base / "denseface").iterdir()) == ["other.sha256", "other.so"]


def test_where_nothing_can_be_written_what_is_there_is_used(base, temporary, monkeypatch, caplog):
    kept, _ = use()
    mkdir, mkdtemp = os.mkdir, tempfile.mkdtemp

    def refuse(function):
        def call(*arguments, **options):
            folder = str(options.get("dir") or arguments[0])
            if folder.startswith(str(base)):
                raise OSError(errno.EROFS, "Read-only file system", folder)
            return function(*arguments, **options)

        return call

    monkeypatch.setattr(os, "mkdir", refuse(mkdir))
    monkeypatch.setattr(tempfile, "mkdtemp", lambda suffix, prefix, dir: refuse(mkdtemp)(suffix, prefix, dir=dir))
    assert use() == (kept, 0)
    assert not caplog.text
    path, times = use("other.so")
    assert (path, times) == (temporary / f"denseface-{os.geteuid()}" / "other.so", 1)
    assert "Read-only file system" in caplog.text
    caplog.clear()
    assert cache.is_cached("other.so") and use("other.so") == (path, 0)
    assert not caplog.text  # the cause is told when it costs something


def test_temporary_files_that_others_can_replace_are_not_used_either(base, temporary):
    base.mkdir()
    for folder in (base, temporary):
        folder.chmod(0o777)
    with pytest.raises(cache.CacheError) as caught:
        use()
    assert str(temporary) in str(caught.value)
