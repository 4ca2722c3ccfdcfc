"""What the measurements are made of; nothing is timed here for its speed."""

import importlib
import subprocess
import sys
from functools import partial

import numpy as np
import pytest

from bench import busy, loader, photographs, search
from bench.model import faces, make_model
from bench.race import Contender, fastest, race
from bench.report import markdown, peak
from denseface.data.pictures import Photograph


def constant(name, value):
    """Its output is a matrix of this value; the process imports nothing but NumPy."""
    return Contender(name, partial, (np.full, (2, 3), value))


def test_contenders_that_agree_are_timed_and_the_others_named():
    said = []
    rows = race(
        [
            constant("one", 1.0),
            Contender("peer", importlib.import_module, ("no_such_peer",)),
            constant("nearly", 1.0001),
        ],
        rounds=2,
        log=said.append,
    )
    assert said == ["left out: peer: ModuleNotFoundError: No module named 'no_such_peer'"]
    assert [row["name"] for row in rows] == ["one", "nearly"]
    assert [row["difference"] for row in rows] == pytest.approx([0, 1e-4])
    assert all(0 < row["fastest"] <= row["seconds"] and row["peak_memory"] > 1e6 for row in rows)
    assert rows[1]["cosine"] == pytest.approx(1)


def test_the_fastest_is_found_in_each_precision():
    slow, quick, half = (
        Contender(name, partial, (np.linalg.inv, np.eye(size)), precision=precision)
        for name, size, precision in (("slow", 900, "float32"), ("quick", 2, "float32"), ("half", 900, "bfloat16"))
    )
    said = []
    assert [found.name for found in fastest([slow, half, quick], 3, said.append)] == ["quick", "half"]
    assert [line.split(":")[0] for line in said] == ["slow", "half", "quick"]


def test_contenders_that_compute_something_else_are_not_timed():
    with pytest.raises(RuntimeError, match=r"^other differs from one by 1.0e\+00$"):
        race([constant("one", 1.0), constant("other", 2.0)], rounds=1, log=print)
    with pytest.raises(RuntimeError, match="differs from one by nan"):
        race([constant("one", 1.0), constant("other", np.nan)], rounds=1, log=print)


def test_the_network_is_the_same_in_every_process(configured):
    first, second = make_model("d63", "prelu"), make_model("d63", "prelu")
    assert first.symbol.list_outputs() == ["fc1_output"]
    for name, array in {**first.arguments, **first.auxiliary}.items():
        np.testing.assert_array_equal(array, {**second.arguments, **second.auxiliary}[name])
    np.testing.assert_array_equal(faces(2), faces(2))


def test_the_page_holds_rates_and_ratios():
    row = {
        "precision": "float32",
        "seconds": 0.2,
        "spread": 0.05,
        "fastest": 0.1,
        "difference": 1e-6,
        "cosine": 1.0,
        "peak_memory": 3e8,
    }
    page = markdown(
        {
            "command": "python -m bench inference",
            "machine": {
                "processor": "P",
                "instructions": ["avx2"],
                "cores": 2,
                "memory": "M",
                "load before": 0.0,
                "python": "3.9",
                "packages": {"mxnet": "1.9.1", "torch": None},
            },
            "limits": {
                peak("float32"): (100.0, "GFLOP/s"),
                peak("bfloat16"): (400.0, "GFLOP/s"),
                "copy": (17.6, "GB/s"),
            },
            "races": [
                {
                    "title": "Inference",
                    "done": (8, "pictures"),
                    "rounds": 3,
                    "macs": 5e9,
                    "rows": [
                        {"name": "PyTorch", **row},
                        {"name": "PyTorch compiled", **row, "seconds": 0.1},
                        {"name": "PyTorch, bfloat16", **row, "precision": "bfloat16"},
                        {"name": "denseface", **row, "seconds": 0.05},
                    ],
                },
                {
                    "title": "Starting",
                    "done": (1, "starts"),
                    "rounds": 3,
                    "macs": 0,
                    "rows": [{"name": "peer", **row}, {"name": "ours", **row, "seconds": 0.1}],
                },
            ],
        }
    )
    assert "torch not installed" in page
    assert "- copy: 18 GB/s" in page
    assert "| contender | ms | spread | pictures/s | times the first | of the peak of its precision |" in page
    assert "| PyTorch | 200.0 | 5% | 40.0 | 1.00 | 50% | 1e-06 | 1.00000 | 300 |" in page
    assert "| PyTorch, bfloat16 | 200.0 | 5% | 40.0 | 1.00 | 12% | 1e-06 | 1.00000 | 300 |" in page
    assert "| ours | 100.0 | 5% | 10.0 | 2.00 | 1e-06 | 1.00000 | 300 |" in page
    assert page.count("Fastest in") == 1
    assert "Fastest in float32: PyTorch compiled; denseface, 2.00 times as fast." in page


def test_all_readers_go_through_the_same_pictures(tmp_path):
    loader.make_set(str(tmp_path))
    said = []
    rows = race(loader.contenders(str(tmp_path)), rounds=1, log=said.append)
    assert (len(rows), said) == (4, [])
    assert all(row["difference"] < 1e-3 for row in rows)


def test_every_photograph_has_as_many_faces_as_were_put_there(monkeypatch):
    monkeypatch.setitem(photographs.COUNT, "250x250", 2)
    assert photographs.with_centerface("250x250")().tolist() == [1, 1]
    monkeypatch.setitem(photographs.COUNT, "4000x3000", 1)
    (file,) = photographs.make_photographs("4000x3000")
    assert Photograph(file).shape == (3000, 4000)


def test_busy_programs_end_with_the_contender():
    command = [sys.executable, "-c", busy._NEIGHBOR]
    with subprocess.Popen(command, stdin=subprocess.PIPE, bufsize=0) as neighbor:
        neighbor.stdin.write(b"1")
        neighbor.stdin.write(b"1")
    assert neighbor.returncode == 0
    (row,) = race([Contender("beside one", busy.beside, (1, partial, np.full, 2, 3.0))], rounds=1, log=print)
    assert row["cosine"] == pytest.approx(1)


def test_all_searches_find_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(search, "_ROWS", 2000)
    monkeypatch.setattr(search, "_BLOCK", 1000)
    path = search.make_gallery(str(tmp_path))
    for loaded in (True, False):
        expected = search.with_numpy(path, 3, loaded)()
        np.testing.assert_allclose(search.with_gallery(path, 3, loaded)(), expected, atol=1e-6)


def test_a_part_that_does_not_exist_is_answered_with_those_that_do():
    found = subprocess.run([sys.executable, "-m", "bench", "gpu"], capture_output=True, text=True)
    assert found.returncode == 2
    known = "inference, latency, training, embed, busy, detection, gallery, loader, search, start, centers"
    assert found.stderr.endswith(f"there is no part gpu; there are {known}\n")
