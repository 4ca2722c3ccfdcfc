"""Systems without fcntl, resource, pwd and MXNet, as Windows is: what computes with ONNX Runtime works there."""

import subprocess
import sys

from denseface.cli import main
from denseface.data.pairs import write_pairs
from support.tiny_models import encode, pictures, save_model, tiny_model

WITHOUT = """
import os, signal, subprocess, sys, types  # subprocess looks for msvcrt
locked = []
def locking(descriptor, mode, count):
    locked.append(descriptor)
sys.modules.update(dict.fromkeys(["fcntl", "resource", "pwd", "grp", "mxnet"]))
sys.modules["msvcrt"] = types.SimpleNamespace(locking=locking, LK_NBLCK=2)
os.supports_dir_fd.clear()
del signal.SIGHUP, signal.pthread_sigmask, os.O_NOFOLLOW, os.O_NONBLOCK, os.geteuid, os.sched_getaffinity
from denseface.cli import main
code = main(sys.argv[1:])
assert locked or sys.argv[1] != "embed"
sys.exit(code)
"""


def run(*arguments):
    done = subprocess.run([sys.executable, "-c", WITHOUT, *map(str, arguments)], capture_output=True, text=True)
    assert done.stderr == ""
    return done.returncode, done.stdout


def test_an_onnx_file_is_verified_and_embeds_matches_and_searches(tmp_path):
    save_model(tiny_model(), tmp_path / "model")
    model = tmp_path / "model.onnx"
    assert main(["export", "--model", str(tmp_path / "model"), "-o", str(model), "--image-size", "16,16"]) == 0
    images = [encode(picture) for picture in pictures(40)]
    write_pairs(tmp_path / "set.bin", images, [True, False] * 10)
    faces = [tmp_path / f"{number}.png" for number in range(3)]
    for path, image in zip(faces, images):
        path.write_bytes(image)
    options = ["--model", model]
    code, out = run("embed", *faces, "-o", tmp_path / "faces.npz", *options)
    assert (code, out) == (0, f"{tmp_path / 'faces.npz'}: 3 embeddings of 8 values\n")
    code, out = run("search", tmp_path / "faces.npz", faces[1], "-k", "1", *options)
    assert code == 0 and out.split()[-1] == str(faces[1])
    assert run("match", faces[0], faces[0], "--threshold", "0.5", *options)[0] == 0
    assert run("verify", tmp_path / "set.bin", *options)[0] == 0
