"""Under a quota of one processor, no engine, loader or pool takes more threads."""

import argparse
import os
import subprocess
import sys

import numpy as np
import onnxruntime
import pytest

from denseface.cli.dataset import faces
from denseface.core import cpus, parallel
from denseface.core.onnx_session import open_session
from denseface.data.loader import PictureReader
from denseface.data.sources import Sources
from denseface.embedding.embedder import Embedder
from denseface.galleries.bulk import embed_all
from support.bent_onnx import healthy
from support.tiny_models import TINY_SHAPE, encode, pictures, tiny_model


@pytest.fixture
def _one(tmp_path, monkeypatch):
    """A control group of one processor."""
    (tmp_path / "proc/self").mkdir(parents=True)
    (tmp_path / "proc/self/mountinfo").write_text("31 23 0:27 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n")
    (tmp_path / "proc/self/cgroup").write_text("0::/\n")
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "sys/fs/cgroup/cpu.max").write_text("100000 100000\n")
    monkeypatch.setattr(cpus, "_ROOT", tmp_path)


@pytest.mark.usefixtures("_one")
class TestOneProcessor:
    def test_sessions(self, monkeypatch):
        asked = []
        session = onnxruntime.InferenceSession
        monkeypatch.setattr(
            onnxruntime, "InferenceSession", lambda c, o, **more: asked.append(o.intra_op_num_threads) or session(c, o)
        )
        open_session(healthy(0).SerializeToString())
        open_session(healthy(0).SerializeToString(), threads=2)
        assert asked == [1, 2]

    def test_openvino(self):
        pytest.importorskip("openvino")
        embedder = Embedder(tiny_model(), engine="openvino", image_shape=TINY_SHAPE)
        assert embedder._engine._network.get_property("INFERENCE_NUM_THREADS") == 1

    def test_decoders(self, monkeypatch, tmp_path):
        pools = []
        executor = parallel.ThreadPoolExecutor
        monkeypatch.setattr(parallel, "ThreadPoolExecutor", lambda threads: pools.append(threads) or executor(threads))
        embedder = Embedder(tiny_model(), image_shape=TINY_SHAPE)
        embedder.embed(pictures(3))
        (tmp_path / "a.png").write_bytes(encode(pictures(1)[0]))
        with Sources([tmp_path / "a.png"]) as sources:
            embed_all(embedder, sources, tmp_path / "a.npz")
        assert pools == [1, 1]

    def test_loader_and_processes(self, records):
        assert PictureReader(records, TINY_SHAPE).threads == 1
        parser = argparse.ArgumentParser()
        faces.add_processes(parser)
        assert parser.parse_args([]).processes == 1


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="there is no affinity here")
def test_with_an_affinity_of_one_a_session_starts_no_thread(tmp_path):
    """In a process of its own, which also says what MXNet's convolutions take."""
    path = tmp_path / "a.onnx"
    path.write_bytes(healthy(0).SerializeToString())
    np.save(tmp_path / "a.npy", pictures(1)[0])
    code = f"""
import os
os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
import numpy as np, onnxruntime
from denseface import Embedder
before = len(os.listdir("/proc/self/task"))
Embedder.load({str(path)!r}).embed(np.load({str(tmp_path / "a.npy")!r}))
print(len(os.listdir("/proc/self/task")) - before)
import mxnet
print(os.environ["OMP_NUM_THREADS"])
"""
    clean = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run([sys.executable, "-c", code], env=clean, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("0\n1\n", "")
