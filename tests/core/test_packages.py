"""Optional packages: what is missing is named, and so is what is installed and does not work."""

import contextlib
import signal
import subprocess
import sys

import pytest

from denseface.core.errors import InputError
from denseface.core.packages import require
from denseface.core.signals import Interrupted, raise_on_signals
from denseface.embedding.embedder import Embedder
from support.refusals import refused
from support.tiny_models import save_model, tiny_model

BROKEN = [
    ("ImportError('libcublasLt.so.12: cannot open shared object file')", "libcublasLt.so.12: cannot open"),
    ("AttributeError('module numpy has no attribute bool')", "has no attribute bool"),
    ("SyntaxError('made for another Python')", "made for another Python"),
    ("ModuleNotFoundError('No module named dependency', name='dependency')", "No module named dependency"),
]


def test_a_module_is_returned():
    assert require("json.decoder", "json").JSONDecoder


@pytest.mark.parametrize("module", ["no_such_package", "no_such_package.part", "json.no_such_part"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(module):
    with refused("pip install the-package"):
        require(module, "the-package")


@pytest.mark.parametrize(("error", "reason"), BROKEN)
def test_a_package_that_does_not_import_is_not_said_to_be_missing(error, reason, tmp_path, monkeypatch):
    (tmp_path / "broken_package.py").write_text(f"raise {error}")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError) as caught:
        require("broken_package")
    message = str(caught.value)
    assert reason in message and "broken_package is installed, but cannot be imported" in message
    assert "pip install" not in message


def run(code, folder):
    code = f"import sys; sys.path.insert(0, {str(folder)!r})\n{code}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def broken(folder, package):
    """A package that raises another error than ImportError, as onnx does beside another protobuf."""
    (folder / package).mkdir()
    (folder / package / "__init__.py").write_text("raise TypeError('Descriptors cannot be created directly')")


def test_mxnet_does_without_onnx_that_does_not_import(tmp_path):
    broken(tmp_path, "onnx")
    code = """import denseface, mxnet
from denseface.core.packages import require
from denseface.core.signals import Interrupted, raise_on_signals
print(mxnet.nd.ones(2).sum().asscalar())
require('onnx')"""
    status, printed, errors = run(code, tmp_path)
    assert (status, printed) == (1, "2.0\n")
    assert errors.splitlines()[-1].endswith(
        "InputError: the package onnx is installed, but cannot be imported: Descriptors cannot be created directly"
    )


def test_a_model_is_computed_without_onnx_that_does_not_import(tmp_path):
    broken(tmp_path, "onnx")
    save_model(tiny_model(), str(tmp_path / "m"))
    code = f"""import numpy
from denseface import Embedder
embedder = Embedder.load({str(tmp_path / "m")!r}, image_shape=(16, 16, 3))
print(embedder.embed(numpy.zeros((1, 16, 16, 3), 'u1')).shape)"""
    assert run(code, tmp_path)[:2] == (0, "(1, 8)\n")


@pytest.mark.parametrize("engine", ["onnxruntime", "openvino"])
def test_an_engine_that_does_not_import_is_named_instead_of_the_model(engine, tmp_path, monkeypatch):
    (tmp_path / f"{engine}.py").write_text("raise ImportError('libcublasLt.so.12')")
    monkeypatch.syspath_prepend(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == engine]:
        monkeypatch.delitem(sys.modules, name)
    with refused(engine, "libcublasLt.so.12", cause=ImportError):
        Embedder(tiny_model(), engine=engine, image_shape=(16, 16, 3))


def test_an_interruption_that_an_import_turns_into_its_own_error_stays_one(tmp_path, monkeypatch):
    (tmp_path / "hasty.py").write_text(
        "import signal\n"
        "try:\n"
        "    signal.raise_signal(signal.SIGTERM)\n"
        "except KeyboardInterrupt as error:\n"
        "    raise ImportError('initialization failed') from error\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(Interrupted) as ended, raise_on_signals(), contextlib.suppress(InputError):
        require("hasty")  # and without it another package would be taken
    assert ended.value.exit_code == 128 + signal.SIGTERM
    with pytest.raises(InputError):  # an interruption that was told is over
        require("no_such_package")
