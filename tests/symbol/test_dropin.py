"""symbol/fdensenet.py, copied alone into an InsightFace tree, builds there what InsightFace's own file builds."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from support import insightface_tables as insightface
from support.helpers import golden_parameters

ROOT = Path(__file__).resolve().parents[2]

CONFIG = f"""
from easydict import EasyDict

config = EasyDict({insightface.CONFIG!r})
network = EasyDict({insightface.NETWORK!r})
dataset = EasyDict({insightface.DATASET!r})
loss = EasyDict({insightface.LOSS!r})


def generate_config(_network, _dataset, _loss):
    config.update(loss[_loss])
    config.update(network[_network])
    config.update(dataset[_dataset])
"""

SYMBOL_UTILS = """
import mxnet as mx
from config import config


def get_fc1(last_conv, num_classes, fc_type, input_channel=512):
    settings = {"eps": 2e-5, "momentum": config.bn_mom}
    body = mx.sym.BatchNorm(last_conv, fix_gamma=False, name="bn1", **settings)
    if fc_type == "E":
        body = mx.sym.Dropout(body, p=0.4)
    elif fc_type == "GAP":
        if config.net_act == "prelu":
            body = mx.sym.LeakyReLU(body, act_type="prelu", name="relu1")
        else:
            body = mx.sym.Activation(body, act_type=config.net_act, name="relu1")
        body = mx.sym.Flatten(mx.sym.Pooling(body, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1"))
    else:
        raise AssertionError(fc_type)
    body = mx.sym.FullyConnected(body, num_hidden=num_classes, name="pre_fc1")
    return mx.sym.BatchNorm(body, fix_gamma=True, name="fc1", **settings)
"""

# In an environment of InsightFace's own, MXNet imports as it is; the first three lines stand for that.
SCRIPT = f"""
import sys
sys.path.insert(0, {str(ROOT)!r})
import denseface
sys.path.remove({str(ROOT)!r})

import json
tree = sys.argv[1]
sys.path[:0] = [tree, tree + "/symbol"]
from config import config, generate_config
import fdensenet


def describe(symbol):
    arguments, outputs, auxiliary = symbol.infer_shape(data=(1, 3, 112, 112))
    return {{
        "args": [row for row in zip(symbol.list_arguments(), arguments) if row[0] != "data"],
        "aux": list(zip(symbol.list_auxiliary_states(), auxiliary)),
        "output": outputs[0],
        "name": symbol.list_outputs(),
        "nodes": [node["name"] for node in json.loads(symbol.tojson())["nodes"][:3]],
    }}


def count(op):
    return sum(node["op"] == op for node in json.loads(fdensenet.get_symbol().tojson())["nodes"])


generate_config("d169", "emore", "arcface")
first = describe(fdensenet.get_symbol())
rows = {{}}
for act in ("prelu", "relu"):
    for depth in (169, 121, 161, 201):
        for head in ("E", "GAP"):
            config.update(num_layers=depth, net_act=act, net_output=head)
            rows[f"d{{depth}}/{{act}}/{{head}}"] = describe(fdensenet.get_symbol())
without_dropout = count("Dropout")
config.update(densenet_dropout=0.25)
with_dropout = count("Dropout")
config.update(num_layers=100)
try:
    fdensenet.get_symbol()
except ValueError as error:
    message = str(error)
files = {{name: getattr(module, "__file__", None) for name, module in sys.modules.items()}}
print(json.dumps([first, rows, [without_dropout, with_dropout], message, files]))
"""


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A tree in InsightFace's shape, with one file of this project in it."""
    tree = tmp_path_factory.mktemp("arcface_mxnet")
    (tree / "symbol").mkdir()
    (tree / "config.py").write_text(CONFIG)
    (tree / "symbol" / "symbol_utils.py").write_text(SYMBOL_UTILS)
    shutil.copy(ROOT / "symbol" / "fdensenet.py", tree / "symbol")
    return tree


@pytest.fixture(scope="module")
def found(tree):
    """What the script sees in the tree: one process, so that each symbol is built behind others."""
    command = [sys.executable, "-c", SCRIPT, str(tree)]
    process = subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=300)
    assert process.returncode == 0, process.stderr
    return dict(zip(("first", "rows", "dropouts", "message", "files"), json.loads(process.stdout)))


def assert_is_golden(symbol, row):
    golden_head = golden_parameters()["heads"][row]
    golden_body = golden_parameters()["body"][row.rsplit("/", 1)[0]]
    for kind in ("args", "aux"):
        assert symbol[kind] == golden_body[kind] + golden_head[kind]
    assert symbol["output"] == golden_head["output"]
    assert symbol["name"] == ["fc1_output"]
    assert symbol["nodes"] == ["data", "_minusscalar0", "_mulscalar0"]


def test_that_trees_configuration_is_enough(found):
    assert_is_golden(found["first"], "d169/prelu/E")


@pytest.mark.parametrize("head", ["E", "GAP"])
@pytest.mark.parametrize("act", ["relu", "prelu"])
@pytest.mark.parametrize("network", ["d121", "d161", "d169", "d201"])
def test_symbol_is_insightfaces(found, network, act, head):
    row = f"{network}/{act}/{head}"
    assert_is_golden(found["rows"][row], row)


def test_only_that_trees_modules_are_used(found, tree):
    """And none of this project's beside the file, but what makes MXNet importable."""
    files = {name: Path(file) for name, file in found["files"].items() if file}
    assert {name for name, file in files.items() if tree in file.parents} == {"config", "symbol_utils", "fdensenet"}
    ours = {name for name, file in files.items() if file.parent in (ROOT, ROOT / "symbol", ROOT / "denseface")}
    assert ours == {"denseface", "denseface._compat"}


def test_dropout_is_none_unless_that_tree_sets_it(found):
    assert found["dropouts"] == [0, 6 + 12 + 48 + 32]


def test_unknown_depth_is_answered_there_too(found):
    assert found["message"] == "num_layers: no DenseNet of depth 100; there are [15, 63, 121, 161, 169, 201]"
