"""Embeddings in parts, killed and resumed, merge into the file that one machine writes."""

import contextlib
import errno
import functools
import importlib.util
import os
import random
import re
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest

from denseface.cli import main
from denseface.core.errors import InputError
from denseface.data.records import write_face_records
from denseface.data.sources import Sources
from denseface.embedding.embedder import Embedder
from denseface.galleries import array_file
from denseface.galleries.bulk import embed_all
from denseface.galleries.gallery import Gallery
from denseface.galleries.parts import Part, merge
from support.refusals import refused
from support.tiny_models import TINY_SHAPE, encode, pictures, save_model, tiny_model

COUNT = 23
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def embedder():
    return Embedder(tiny_model(), image_shape=TINY_SHAPE, batch_size=4)


@pytest.fixture
def faces(tmp_path):
    folder = tmp_path / "faces"
    folder.mkdir()
    for number, picture in enumerate(pictures(COUNT)):
        content = b"not a picture" if number in (0, 9) else encode(picture)
        (folder / f"{'long' * (number == 13)}{number:02d}.png").write_bytes(content)
    return folder


def export_model(folder):
    save_model(tiny_model(), folder / "model")
    command = ["export", "--model", str(folder / "model"), "-o", str(folder / "model.onnx"), "--image-size", "16,16"]
    assert main(command) == 0


def embed(embedder, faces, out, part=None, **options):
    with Sources([faces]) as sources:
        return embed_all(embedder, sources, out, part=part and part.of(sources, embedder.batch_size), **options)


def in_parts(embedder, faces, count):
    paths = [faces.parent / f"part-{index}.npz" for index in range(1, count + 1)]
    for index, path in enumerate(paths, 1):
        embed(embedder, faces, path, Part(index, count))
    return paths


@pytest.mark.parametrize("engine", ["mxnet", "onnxruntime"])
@pytest.mark.parametrize("count", [1, 2, 5, 30])
def test_parts_merge_to_the_bytes_of_one_run(faces, tmp_path, count, engine):
    embedder = Embedder(tiny_model(), engine=engine, image_shape=TINY_SHAPE, batch_size=4)
    embed(embedder, faces, tmp_path / "whole.npz")
    paths = in_parts(embedder, faces, count)
    random.Random(0).shuffle(paths)
    assert merge(paths, tmp_path / "merged.npz") == (COUNT - 2, 8)
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_parts_are_whole_batches_and_alike():
    sources = [type("S", (), {"name": str(number)}) for number in range(1003)]
    chosen = [Part(index, 8).of(sources, 10) for index in range(1, 9)]
    assert [part.start for part in chosen[1:]] == [part.stop for part in chosen[:-1]]
    assert (chosen[0].start, chosen[-1].stop) == (0, 1003)
    assert all(part.start % 10 == 0 and 120 <= part.size <= 130 for part in chosen)


def test_a_part_is_resumed_and_is_not_another(embedder, faces, tmp_path):
    class Killed(BaseException):
        pass

    def kill(done):
        raise Killed

    out = tmp_path / "part.npz"
    with pytest.raises(Killed):
        embed(embedder, faces, out, Part(1, 2), on_progress=kill)
    assert embed(embedder, faces, out, Part(1, 2)).taken_over == 4
    expected = out.read_bytes()
    embed(embedder, faces, tmp_path / "again.npz", Part(1, 2))
    assert (tmp_path / "again.npz").read_bytes() == expected
    with pytest.raises(Killed):
        embed(embedder, faces, out, Part(1, 2), on_progress=kill)
    assert embed(embedder, faces, out, Part(2, 2)).taken_over == 0


class TestRefusals:
    @pytest.fixture
    def parts(self, embedder, faces):
        return in_parts(embedder, faces, 3)

    def refuse(self, paths, name, *facts):
        with refused(*facts, path=paths[0].parent / name):
            merge(paths, paths[0].parent / "merged.npz")
        assert not (paths[0].parent / "merged.npz").exists()

    def test_missing_and_repeated_parts(self, parts):
        self.refuse(parts[:2], "merged.npz", "part 3 of 3", "--part 3/3")
        self.refuse([*parts, parts[1]], "part-2.npz", parts[1], "2 of 3")

    def test_other_numbers_of_parts_batches_and_pictures(self, parts, embedder, faces):
        embed(embedder, faces, parts[1], Part(2, 4))
        self.refuse(parts, "part-2.npz", "number of parts", parts[0])
        embed(Embedder(tiny_model(), image_shape=TINY_SHAPE, batch_size=2), faces, parts[1], Part(2, 3))
        self.refuse(parts, "part-2.npz", "batch-size", parts[0])
        (faces / "22.png").rename(faces / "23.png")
        embed(embedder, faces, parts[1], Part(2, 3))
        self.refuse(parts, "part-2.npz", "other pictures", parts[0])

    def test_other_ways_to_compute(self, parts, faces):
        embed(Embedder(tiny_model(), image_shape=TINY_SHAPE, batch_size=4, flip=False), faces, parts[1], Part(2, 3))
        self.refuse(parts, "part-2.npz", "flip", parts[0])

    def test_what_is_not_a_part(self, parts, embedder, faces):
        embed(embedder, faces, parts[1])
        self.refuse(parts, "part-2.npz", "not a part")

    @pytest.mark.parametrize("part", [Part(0, 3), Part(4, 3), Part(1, 1 << 40)])
    def test_parts_that_there_are_not(self, embedder, faces, tmp_path, part):
        with refused("from 1 to", option="part"):
            embed(embedder, faces, tmp_path / "a.npz", part)

    def test_no_picture_in_all_parts(self, embedder, tmp_path):
        (tmp_path / "faces").mkdir()
        (tmp_path / "faces" / "a.png").write_bytes(b"not a picture")
        self.refuse(in_parts(embedder, tmp_path / "faces", 2), "merged.npz", "no picture")


def test_the_commands(faces, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save_model(tiny_model(), tmp_path / "model")
    (faces / "00.png").unlink()
    (faces / "09.png").unlink()
    command = ["embed", "faces", "--model", "model", "--image-size", "16,16", "-o"]
    assert main([*command, "whole.npz"]) == 0
    for part in ("1/2", "2/2"):
        assert main([*command, f"part-{part[0]}.npz", "--part", part]) == 0
    assert main(["gallery", "merge", "part-2.npz", "part-1.npz", "-o", "merged.npz"]) == 0
    assert capsys.readouterr().out.endswith("merged.npz: 21 embeddings of 8 values, 2 parts\n")
    assert Path("merged.npz").read_bytes() == Path("whole.npz").read_bytes()
    for wrong in ("3/2", "0/2", "1", "a/b"):
        with pytest.raises(SystemExit):
            main([*command, "a.npz", "--part", wrong])


@pytest.mark.torture
def test_eight_parts_on_two_processes_that_are_killed(tmp_path):
    """Two processes at a time, each killed at random and started again until its part is done."""
    count, parts = 300_000, 8
    payloads = [encode(picture) for picture in pictures(500)]
    write_face_records(tmp_path, ((0, payloads[number % 500]) for number in range(count)), TINY_SHAPE[:2])
    export_model(tmp_path)
    embed = [sys.executable, "-m", "denseface", "embed", "train.rec", "--model", "model.onnx", "--no-flip"]
    embed += ["--batch-size", "500"]

    def start(*options):
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.Popen([*embed, *options], cwd=tmp_path, env=environment, **quiet)

    def size_of_log(index):
        log = tmp_path / f"part-{index}.npz.partial" / "log"
        return log.stat().st_size if log.exists() else 0

    assert start("-o", "whole.npz").wait() == 0
    draw, waiting, kills, running = random.Random(0), list(range(1, parts + 1)), 0, {}
    while waiting or running:
        while waiting and len(running) < 2:
            index = waiting.pop(0)
            running[index] = start("-o", f"part-{index}.npz", "--part", f"{index}/{parts}")
        before = {index: size_of_log(index) for index in running}
        time.sleep(draw.uniform(0.3, 2))
        for index, process in [*running.items()]:
            if process.poll() is None and size_of_log(index) > before[index] and draw.random() < 0.5:
                process.kill()
                kills += 1
            elif process.poll() is None:
                continue
            if running.pop(index).wait() != 0:
                waiting.insert(0, index)
    merge([tmp_path / f"part-{index}.npz" for index in range(1, parts + 1)], tmp_path / "merged.npz")
    assert kills > parts
    assert len(Gallery(tmp_path / "merged.npz")) == count
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()
    print(f"{count} embeddings in {parts} parts, killed {kills} times: equal byte for byte")


@pytest.mark.torture
def test_ray_runs_parts_on_two_nodes(faces, tmp_path):
    """The program of docs/embeddings.md on two local nodes of one processor each; with Ray installed."""
    if importlib.util.find_spec("ray") is None:
        pytest.skip("Ray is not installed: pip install ray")
    page = (ROOT / "docs" / "embeddings.md").read_text(encoding="utf-8")
    program = next(code for code in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "import ray" in code)
    cluster = """
from ray.cluster_utils import Cluster
cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
cluster.add_node(num_cpus=1)
"""
    program = program.replace("PARTS = 8", "PARTS = 2")  # each takes a processor, and a few seconds to start
    program = program.replace("ray.init()", f"{cluster}ray.init(address=cluster.address)\nassert len(ray.nodes()) == 2")
    faces.rename(tmp_path / "photos")
    for broken in ("00", "09"):
        (tmp_path / "photos" / f"{broken}.png").unlink()
    export_model(tmp_path)
    whole = ["embed", "photos", "--model", "model.onnx", "-o", "whole.npz"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), *sys.path]), "RAY_USAGE_STATS_ENABLED": "0"}
    run = functools.partial(subprocess.run, cwd=tmp_path, env=environment, check=True, timeout=1800)
    run([sys.executable, "-m", "denseface", *whole])
    run([sys.executable, "-c", program])
    assert (tmp_path / "photos.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


def test_few_files_are_open_at_once_and_a_lack_of_them_is_not_told_as_damage(embedder, faces, tmp_path):
    embed(embedder, faces, tmp_path / "whole.npz")
    paths = in_parts(embedder, faces, 6)
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    used = len(os.listdir("/proc/self/fd"))
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (used + 5, limits[1]))
        merge(paths, tmp_path / "merged.npz")
        held = []
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open(os.devnull, os.O_RDONLY))
        with refused(os.strerror(errno.EMFILE), path=paths[0]):
            Gallery(paths[0])
        for descriptor in held:
            os.close(descriptor)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert (tmp_path / "merged.npz").read_bytes() == (tmp_path / "whole.npz").read_bytes()


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.ENODEV, errno.EMFILE])
def test_a_file_that_cannot_be_mapped_is_not_called_broken(embedder, faces, tmp_path, monkeypatch, number):
    def none(*arguments, **options):
        raise OSError(number, os.strerror(number))

    embed(embedder, faces, tmp_path / "whole.npz")
    monkeypatch.setattr(array_file, "_Mapping", none)
    with pytest.raises(InputError) as caught:
        Gallery(tmp_path / "whole.npz")
    assert str(caught.value) == f"{tmp_path / 'whole.npz'}: it cannot be read ({os.strerror(number)})"
