"""Network families and entries from elsewhere: what they find when they run, what they leave, and what is refused."""

import json
import re
import sys
from pathlib import Path

import numpy as np
import pytest

import config as configuration
import symbol_utils
import train
from denseface import cli
from denseface.cli import training_flags
from denseface.core.errors import InputError
from denseface.models import families, plugins
from denseface.options import insightface
from denseface.options.names import Names
from support.helpers import bind, gradients_of
from support.refusals import refused

import mxnet as mx

pytestmark = pytest.mark.usefixtures("configured")  # puts the configuration back

# A family as InsightFace's are written: imports by bare names, a path of its own, keys of its own.
FAMILY = """
import os
import sys

import mxnet as mx
import symbol_utils

sys.path.append(os.path.join(os.path.dirname(__file__), ".."))
from config import config


def get_symbol():
    data = (mx.sym.Variable("data") - 127.5) * 0.0078125
    body = symbol_utils.Conv(data=data, num_filter=config.get("stub_width", 8), kernel=(3, 3), name="conv0")
    return symbol_utils.get_fc1(body, config.emb_size, config.net_output)
"""

# A folder's own symbol_utils, which looks different from this project's.
OWN_UTILS = """
import mxnet as mx
from config import config
from helper import embed

bn_mom = config.bn_mom


def Conv(**kwargs):
    return mx.sym.Convolution(no_bias=True, **kwargs)


def get_fc1(last_conv, num_classes, fc_type, input_channel=512):
    return embed(last_conv, num_classes, bn_mom)
"""
HELPER = """
import mxnet as mx


def embed(body, size, momentum):
    body = mx.sym.BatchNorm(body, momentum=momentum, name="own_bn")
    return mx.sym.FullyConnected(body, num_hidden=size, name="fc1")
"""


@pytest.fixture
def folder(tmp_path):
    """A tree with a symbol folder in it, and a config.py that must never be read."""
    (tmp_path / "config.py").write_text("raise SystemExit('not this one')\n")
    folder = tmp_path / "symbol"
    folder.mkdir()
    (folder / "fstub.py").write_text(FAMILY)
    return folder


def write_networks(tmp_path, entries):
    file = tmp_path / "networks.json"
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return str(file)


def build(folder, *assignments, family="fstub"):
    settings = [f"net_name={family}", "image_shape=32,32,3", *assignments]
    spec = families.configure(Names("d63", "emore", "arcface"), settings)
    return families.embedding_symbol(spec.replace(symbol_path=folder and str(folder)))


def test_family_runs_with_our_config_and_heads(folder):
    symbol = build(folder, "emb_size=24", "net_output=GAP", "net_act=prelu", "bn_mom=0.75")
    assert symbol.infer_shape(data=(2, 3, 32, 32))[1] == [(2, 24)]
    assert "conv0_bias" in symbol.list_arguments() and "relu1_gamma" in symbol.list_arguments()
    assert symbol.attr_dict()["bn1"]["momentum"] == "0.75"


def test_folders_own_modules_come_first(folder):
    (folder / "symbol_utils.py").write_text(OWN_UTILS)
    (folder / "helper.py").write_text(HELPER)
    symbol = build(folder, "bn_mom=0.75")
    assert "conv0_bias" not in symbol.list_arguments() and "relu1_gamma" not in symbol.list_arguments()
    assert symbol.attr_dict()["own_bn"]["momentum"] == "0.75"
    assert build(folder, "bn_mom=0.5").attr_dict()["own_bn"]["momentum"] == "0.5"  # read anew, not kept


def test_imports_inside_get_symbol_work(folder):
    (folder / "fstub.py").write_text("def get_symbol():\n    import helper\n    return helper.symbol()\n")
    (folder / "helper.py").write_text("import mxnet as mx\n\n\ndef symbol():\n    return mx.sym.Variable('data')\n")
    assert build(folder).list_outputs() == ["data"]


@pytest.mark.parametrize("end", ["", "\nraise RuntimeError\n"])
def test_our_modules_and_paths_are_left_as_they_were(folder, end):
    (folder / "fstub.py").write_text(FAMILY + "\nimport parts.block\n" + end)
    (folder / "symbol_utils.py").write_text(OWN_UTILS)
    (folder / "helper.py").write_text(HELPER)
    (folder / "parts").mkdir()
    (folder / "parts" / "__init__.py").touch()
    (folder / "parts" / "block.py").touch()
    spec = families.configure(Names("d63", "emore", "arcface"), ["net_name=fstub"]).replace(symbol_path=str(folder))
    paths, modules = list(sys.path), dict(sys.modules)
    if end:
        with pytest.raises(InputError):
            families.embedding_symbol(spec)
    else:
        families.embedding_symbol(spec)
    assert sys.path == paths
    for name in ("symbol_utils", "helper", "fstub", "parts", "parts.block", "config", "symbol"):
        assert sys.modules.get(name) is modules.get(name)
    assert sys.modules["symbol_utils"] is symbol_utils


def test_every_call_gives_the_same_symbol(folder):
    first = build(folder).tojson()
    assert (mx.sym.Variable("x") - 1).name.startswith("_minusscalar")
    assert build(folder).tojson() == first
    assert "_minusscalar0" in first


def test_family_trains(folder):
    symbol = build(folder, "net_output=FC", "emb_size=8")
    random = np.random.default_rng(0)
    executor = bind(symbol, {"data": random.uniform(0, 255, (2, 3, 32, 32)).astype("float32")}, grad_req="write")
    gradients = gradients_of(executor, random.standard_normal((2, 8)))
    assert {name for name, gradient in gradients.items() if not gradient.any()} == {"fc1_gamma"}


def test_folder_comes_before_our_families_and_adds_to_them(folder):
    (folder / "fresnet.py").write_text(FAMILY)
    assert "conv0_bias" in build(folder, family="fresnet").list_arguments()
    ours = build(folder, "net_blocks=1,1,1,1", family="fmobilefacenet").tojson()
    assert ours == build(None, "net_blocks=1,1,1,1", family="fmobilefacenet").tojson()


def test_insightfaces_keys_have_their_usual_values(folder):
    (folder / "fstub.py").write_text(FAMILY + "\nassert (config.fp16, config.memonger) == (False, False)\n")
    assert build(folder).list_outputs() == ["fc1_output"]
    assert "fp16" not in dict(families.configure(Names("d63", "emore", "arcface")).by_key())


def test_foreign_families_begin_uniform_by_fan_in():
    spec = families.configure(Names("d63", "emore", "arcface"), ["net_name=fstub"])
    weight = mx.nd.zeros((64, 128, 3, 3))
    families.initializer(spec.network.net_name)(mx.init.InitDesc("conv_weight"), weight)
    assert np.abs(weight.asnumpy()).max() <= np.sqrt(2 / (128 * 3 * 3))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("import no_such_module_at_all\n", "ModuleNotFoundError: No module named 'no_such_module_at_all'"
                                           " (fstub.py, line 1)"),
        ("def get_symbol(:\n", "SyntaxError: "),
        ("x = 1\n", "has no get_symbol()"),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (fstub.py, line 2)"),
        ("def get_symbol():\n    raise ValueError('no depth 7\\nthere is 8')\n",
         "ValueError: no depth 7 there is 8 (fstub.py, line 2)"),
        ("def get_symbol():\n    import config\n    return config.config.no_such_key\n", "AttributeError: "),
        ("def get_symbol():\n    return 1\n", "get_symbol() returned int, not a symbol"),
        ("import mxnet as mx\ndef get_symbol():\n    return mx.sym.Variable('picture')\n",
         "the symbol of get_symbol() must have one output and the input data"),
        ("import mxnet as mx\ndef get_symbol():\n    return mx.sym.Activation(mx.sym.Variable('data'), act_type='x')\n",
         "MXNetError: Invalid Input: 'x', valid values are: "),
    ],
)  # fmt: skip
def test_file_that_does_not_work_is_one_line_that_names_it(folder, text, complaint):
    (folder / "fstub.py").write_text(text)
    with refused(path=folder / "fstub.py") as caught:
        build(folder)
    assert caught.value.reason.startswith(complaint)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 400


@pytest.mark.parametrize("family", ["fother", "../config", "config", "symbol_utils.Conv", "__import__('os')"])
def test_unknown_family_is_answered_with_those_there_are(folder, family):
    (folder / "tools.py").write_text("x = 1\n")
    with refused("net_name", repr(family), "fdensenet, fmobilefacenet, fresnet", f"in {folder} fstub"):
        build(folder, family=family)


def test_folder_that_is_not_there_is_named(tmp_path):
    with refused("no such folder", path=tmp_path / "none", option="symbol_path"):
        build(tmp_path / "none")


ENTRIES = {"stub": {"net_name": "fstub", "emb_size": 24, "net_multiplier": 2, "stub_width": 4, "per_batch_size": 3}}


def test_networks_of_a_file_are_entries_for_one_call(tmp_path):
    file = write_networks(tmp_path, ENTRIES)
    spec = families.configure(Names("stub", "emore", "arcface"), ["stub_width=5"], networks_file=file)
    network = spec.network
    assert (network.net_name, network.emb_size, network.network) == ("fstub", 24, "stub")
    assert network.extra == {"stub_width": 5}
    assert network.net_multiplier == 2.0 and isinstance(network.net_multiplier, float)
    assert spec.optimizer.per_batch_size == 3
    spec = families.configure(Names("d63", "emore", "arcface"), networks_file=file)
    assert (spec.network.num_layers, spec.network.emb_size, spec.network.extra) == (63, 512, {})
    with refused("'stub'", "d15, d63", option="network"):
        families.configure(Names("stub", "emore", "arcface"))


def test_insightfaces_entries_of_the_docs_are_read_and_asked_for_by_name(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "networks.md").read_text()
    (entries,) = [block for block in re.findall(r"```json\n(.*?)```", text, re.DOTALL) if "vargfacenet" in block]
    file = write_networks(tmp_path, entries)
    assert set(json.loads(entries)) == set(insightface.NETWORKS)
    for name in insightface.NETWORKS:
        spec = families.configure(Names(name, "emore", "arcface"), networks_file=file)
        assert spec.network.net_name in ("fmobilenet", "fmnasnet", "vargfacenet")
        with refused(name, "docs/networks.md", option="network"):
            families.configure(Names(name, "emore", "arcface"))


def test_what_a_family_prints_does_not_mix_with_json(folder, tmp_path, capsys):
    (folder / "fstub.py").write_text(FAMILY + "\nprint('building')\n")
    flags = ["--networks", write_networks(tmp_path, ENTRIES), "--symbol-path", str(folder), "--size", "16"]
    assert cli.main(["summary", "stub", "--json", *flags]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["total"]["layers"] > 3 and "building" in err


def test_train_takes_both_flags(folder, tmp_path):
    file = write_networks(tmp_path, ENTRIES)
    words = ["--network", "stub", "--dataset", "emore", "--networks", file, "--symbol-path", str(folder)]
    spec = training_flags.parse(words, "")
    assert (spec.optimizer.per_batch_size, spec.network.net_name) == (3, "fstub")
    symbol = families.embedding_symbol(spec)
    assert dict(zip(symbol.list_arguments(), symbol.infer_shape(data=(1, 3, 112, 112))[0]))["conv0_weight"][0] == 4
    assert families.embedding_size(symbol, spec.data.image_shape) == 24


def test_train_names_what_is_wrong(tmp_path, capsys):
    assert train.main(["--networks", str(tmp_path / "none.json")]) == 1
    error = capsys.readouterr().err
    assert error.startswith("train.py: error: ") and "none.json" in error and error.count("\n") == 1


@pytest.mark.parametrize("command", [["summary"], ["compare", "--no-training"]])
def test_commands_on_networks_take_both_flags(folder, tmp_path, capsys, command):
    flags = ["--networks", write_networks(tmp_path, ENTRIES), "--symbol-path", str(folder), "--size", "16", "--json"]
    assert cli.main([*command, "stub", *flags]) == 0
    figures = json.loads(capsys.readouterr().out)
    total = figures["total"] if command == ["summary"] else figures[0]["costs"]
    spec = families.configure(Names("stub", "emore", "arcface"), networks_file=flags[1])
    built = families.embedding_symbol(spec.replace(symbol_path=str(folder)))
    arguments, _, _ = built.infer_shape(data=(1, 3, 16, 16))
    assert total["parameters"] == sum(map(np.prod, arguments)) - 3 * 16 * 16


def test_a_network_from_elsewhere_is_drawn(folder, tmp_path):
    flags = ["--networks", write_networks(tmp_path, ENTRIES), "--symbol-path", str(folder), "--size", "16"]
    assert cli.main(["plot", "stub", *flags, "-o", str(tmp_path / "stub.svg")]) == 0
    assert (tmp_path / "stub.svg").stat().st_size > 1000


def test_file_alone_is_enough(folder):
    """The loader itself knows nothing of names and tables."""
    families.configure(Names("d63", "emore", "arcface"), ["net_output=FC", "emb_size=8"])
    files = plugins.python_files(folder)
    assert list(files) == ["fstub"]
    assert plugins.build(files["fstub"]).list_outputs() == ["fc1_output"]
    assert configuration.config.net_name == "fdensenet"
