"""denseface/_compat.py: importing denseface costs next to nothing and makes MXNet run on this Python and NumPy."""

import base64
import hashlib
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import denseface
from denseface import _compat

import mxnet as mx

ROOT = Path(__file__).resolve().parents[2]


def run_python(code, *options, **variables):
    """Run code in a fresh interpreter at the root of the tree."""
    env = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MXNET_", "GOMP_"))}
    command = [sys.executable, *options, "-c", code]
    return subprocess.run(command, cwd=ROOT, env=env | variables, capture_output=True, text=True, timeout=60)


def output_of(code, *options, **variables):
    result = run_python(code, *options, **variables)
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


class TestImportingDenseface:
    def test_needs_no_installed_package(self):
        assert output_of("import denseface; print(denseface.__version__)", "-S") == denseface.__version__

    def test_loads_nothing_else(self):
        ours = "*sorted(name for name in sys.modules if name.startswith('denseface'))"
        code = f"import denseface, sys; print({{'mxnet', 'numpy'}} & {{*sys.modules}}, {ours})"
        assert output_of(code) == "set() denseface denseface._compat"

    def test_public_names_are_there_at_their_first_use(self):
        assert sorted(denseface.__all__) == denseface.__all__
        for name in denseface.__all__:
            assert getattr(denseface, name).__name__ == name
            assert name in dir(denseface)
        with pytest.raises(AttributeError, match="module 'denseface' has no attribute 'nothing'"):
            denseface.nothing  # noqa: B018
        assert output_of("from denseface import InputError; import sys; print('mxnet' in sys.modules)") == "False"

    def test_mxnet_does_not_load_for_seconds_what_nobody_calls(self):
        code = "import denseface, mxnet, sys; slow = {'sklearn', 'scipy.stats'}; print(slow & {*sys.modules}, end=' ')"
        assert output_of(f"{code}; import scipy.stats; print(slow & {{*sys.modules}})") == "set() {'scipy.stats'}"

    def test_puts_one_finder_in_place_however_often(self):
        code = """
import importlib, sys
import denseface
importlib.reload(denseface)
denseface._compat.install()
print([type(finder).__name__ for finder in sys.meta_path].count("_MXNetFinder"))
"""
        assert output_of(code) == "1"


class TestWhatIsMissing:
    def test_mxnet_is_named_with_the_command_that_installs_it(self):
        result = run_python("import denseface, mxnet", "-S")
        last_line = result.stderr.splitlines()[-1]
        assert last_line == f"ModuleNotFoundError: MXNet is not installed; install it with: {_compat.INSTALL_COMMAND}"

    def test_the_command_has_the_version_that_set_up_installs(self):
        assert "MXNET := mxnet==1.9.1\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
        assert "--no-deps mxnet==1.9.1 " in _compat.INSTALL_COMMAND

    @pytest.mark.parametrize(
        ("library", "advice"),
        [
            ("libcuda.so.1", "install NVIDIA's driver"),
            ("libcudnn.so.8", "LD_LIBRARY_PATH"),
            ("libgomp.so.1", "libgomp1)"),
        ],
    )
    @pytest.mark.parametrize("command", [["train.py"], ["-m", "denseface", "compare", "d15", "r18"]])
    def test_a_library_that_mxnet_cannot_load_is_one_line_with_what_helps(self, tmp_path, library, advice, command):
        for file in ("__init__.py", *_compat._COPYING_FILES):
            (tmp_path / "mxnet" / file).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / "mxnet" / file).touch()
        failing = f"import ctypes; ctypes.CDLL('{library}-of-a-test')"
        (tmp_path / "mxnet" / "__init__.py").write_text(failing)
        environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
        done = subprocess.run([sys.executable, *command], cwd=ROOT, env=environment, capture_output=True, text=True)
        (line,) = done.stderr.splitlines()
        assert done.returncode == 1 and f"error: MXNet cannot be loaded ({library}-of-a-test: cannot open" in line
        assert advice in line

    def test_distutils_is_named_with_the_package_that_brings_it_back(self):
        result = run_python("import sys; sys.modules['distutils'] = None; import denseface, mxnet")
        assert result.stderr.splitlines()[-1].startswith("ModuleNotFoundError: MXNet needs distutils")
        assert result.stderr.splitlines()[-1].endswith("pip install setuptools")


class TestNumPysNames:
    def test_what_numpy_has_is_left_alone(self):
        code = """
import numpy as np
before = {module: dict(vars(module)) for module in (np, np.linalg)}
import denseface, mxnet
print([name for module in before for name, value in before[module].items() if getattr(module, name) is not value])
"""
        assert output_of(code) == "[]"

    @pytest.mark.parametrize(
        ("name", "arguments", "value"),
        [
            ("bool", [1], True),
            ("float_", [0.5], 0.5),
            ("alltrue", [[1, 0]], False),
            ("sometrue", [[1, 0]], True),
            ("product", [[2, 3]], 6),
            ("cumproduct", [[2, 3]], [2, 6]),
            ("in1d", [[1, 2], [2]], [False, True]),
            ("row_stack", [[[1], [2]]], [[1], [2]]),
            ("trapz", [[1, 3]], 2),
            ("round_", [1.26, 1], 1.3),
        ],
    )
    @pytest.mark.filterwarnings("ignore::DeprecationWarning")
    def test_functions_that_numpy_dropped_do_what_they_did(self, name, arguments, value):
        np.testing.assert_array_equal(getattr(np, name)(*arguments), value)

    def test_constants_that_numpy_dropped_are_what_they_were(self):
        assert np.inf == np.Inf == np.Infinity == np.infty == np.PINF == -np.NINF
        assert np.isnan([np.NAN, np.NaN]).all()
        assert np.copysign(1, [np.PZERO, np.NZERO]).tolist() == [1, -1]

    def test_what_has_no_equal_says_so_when_called(self):
        with pytest.raises(NotImplementedError, match=r"^numpy\.pmt was removed from NumPy$"):
            np.pmt(0.01, 12, 1000)


class TestMXNet:
    def test_its_files_are_as_they_were_installed(self):
        sources = [file for file in importlib.metadata.files("mxnet") if file.suffix == ".py"]
        assert len(sources) > 200
        for file in sources:
            digest = base64.urlsafe_b64encode(hashlib.sha256(file.read_binary()).digest()).rstrip(b"=")
            assert file.hash.value == digest.decode(), file

    def test_binding_is_silent_unless_asked(self):
        code = """
import os, denseface
import mxnet as mx
net = mx.sym.relu(mx.sym.Convolution(mx.sym.var("data"), kernel=(1, 1), num_filter=2))
net.simple_bind(mx.cpu(), data=(1, 2, 4, 4), grad_req="null")
print(os.environ["MXNET_SUBGRAPH_VERBOSE"])
"""
        quiet = run_python(code)
        assert (quiet.stdout, quiet.stderr) == ("0\n", "")
        assert output_of(code, MXNET_SUBGRAPH_VERBOSE="1") == "1"

    def test_the_calling_thread_starts_no_openmp_threads(self):
        # With those of MXNet's engine they would be more than the cores, and OpenMP's threads then sleep between loops.
        code = """
import os
import denseface, mxnet as mx
mx.nd.zeros(1).wait_to_read()
before = len(os.listdir("/proc/self/task"))
mx.nd.zeros(10**6).asnumpy()
print(len(os.listdir("/proc/self/task")) - before)
"""
        assert output_of(code, OMP_NUM_THREADS="2") == "0"
        assert output_of(code, OMP_NUM_THREADS="2", MXNET_CPU_PARALLEL_SIZE="1000") == "1"

    def test_threads_wait_briefly_unless_told_otherwise(self):
        code = "import denseface, mxnet, os; print(os.environ.get('GOMP_SPINCOUNT'))"
        assert output_of(code) == "20000"
        assert output_of(code, GOMP_SPINCOUNT="5") == "5"
        assert output_of(code, OMP_WAIT_POLICY="passive") == "None"

    def test_gluon_differentiates(self):
        net = mx.gluon.nn.Dense(1, use_bias=False, in_units=2)
        net.initialize(mx.init.One())
        data, target = mx.nd.array([[1.0, 2.0]]), 5.0
        with mx.autograd.record():
            loss = ((net(data) - target) ** 2).sum()
        loss.backward()
        # 2 (w . x - t) x, with w = (1, 1)
        np.testing.assert_allclose(net.weight.grad().asnumpy(), [[-4, -8]])

    @pytest.mark.parametrize("package", ["gluoncv", "gluonfr"])
    def test_libraries_on_top_of_mxnet_are_imported(self, package):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed; no extra of ours needs it")
        assert output_of(f"import denseface, {package}; print({package}.__name__)") == package

    def test_module_fits_a_step_and_its_checkpoint_predicts_the_same(self, tmp_path):
        output = mx.sym.FullyConnected(mx.sym.var("data"), num_hidden=1, no_bias=True, name="fc")
        module = mx.mod.Module(
            mx.sym.LinearRegressionOutput(output, mx.sym.var("label")), ["data"], ["label"], context=mx.cpu()
        )
        data = np.array([[1.0, 2.0]], np.float32)
        batches = mx.io.NDArrayIter(data, np.array([5.0], np.float32), batch_size=1, label_name="label")
        module.fit(
            batches,
            eval_metric="mse",
            initializer=mx.init.One(),
            optimizer="sgd",
            optimizer_params={"learning_rate": 0.1},
            num_epoch=1,
        )
        # The gradient of the output is (w . x - t) = -2, so the step is 0.1 * 2 x.
        np.testing.assert_allclose(module.get_params()[0]["fc_weight"].asnumpy(), [[1.2, 1.4]], rtol=1e-6)

        prefix = str(tmp_path / "model")
        module.save_checkpoint(prefix, 1)
        loaded = mx.mod.Module.load(prefix, 1, data_names=["data"], label_names=["label"], context=mx.cpu())
        loaded.bind([("data", (1, 2))], [("label", (1,))], for_training=False)
        np.testing.assert_allclose(loaded.predict(batches).asnumpy(), [[4.0]], rtol=1e-6)
