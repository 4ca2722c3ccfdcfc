"""Networks from ONNX files: the same embeddings, the same names, and training as from MXNet's own files."""

import itertools
from functools import partial

import numpy as np
import pytest
from onnx import helper, numpy_helper

from denseface.core.errors import InputError
from denseface.data.loader import Batch
from denseface.embedding.embedder import Embedder
from denseface.embedding.engines import make_engine
from denseface.embedding.engines.onnx_model import read_onnx
from denseface.embedding.scaling import Scaling
from denseface.export.onnx import export
from denseface.importing.onnx import import_onnx
from denseface.models import families
from denseface.models.checkpoint import Model
from denseface.options.names import Names
from denseface.training.pretrained import adopt, pretrained_model, pretrained_network
from support import class_losses
from support.bent_onnx import healthy
from support.helpers import relative_error
from support.learners import learner_of
from support.refusals import refused
from support.symbols import accelerated
from support.tiny_models import as_model, save_model, tiny_model
from support.torch_like import Builder, flattened, iresnet, mobilefacenet, product, reshaped, sface

import mxnet as mx

FOREIGN = {
    f"{network.__name__}-{'folded' if folded else 'plain'}": (network, folded)
    for network in (iresnet, mobilefacenet)
    for folded in (False, True)
}


def written(folder, model):
    path = folder / "face.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def pictures(side, count=2):
    return np.random.RandomState(0).randint(0, 256, (count, 3, side, side)).astype(np.float32)


def embeddings(model, engine, batch):
    return make_engine(engine, model, len(batch), batch.shape[1:])(batch)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("scaling", [None, Scaling(), Scaling(127.5, 0.0078125, bgr=True)], ids=["rule", "none", "bgr"])
def test_a_network_of_pytorch_computes_what_onnx_runtime_computes(name, scaling, tmp_path):
    network, folded = FOREIGN[name]
    path, batch = written(tmp_path, network(folded)), pictures(32)
    model = import_onnx(path, scaling)
    expected = embeddings(read_onnx(path, scaling), "onnxruntime", batch)
    assert relative_error(embeddings(model, "mxnet", batch), expected) < 1e-5
    assert relative_error(embeddings(model, "mxnet", pictures(32, 3))[:2], expected) < 1e-5


@pytest.mark.parametrize("name", FOREIGN)
def test_names_and_values_are_those_of_the_file(name, tmp_path):
    network, folded = FOREIGN[name]
    proto = network(folded)
    model = import_onnx(written(tmp_path, proto), Scaling())
    kept = {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
    found = {**model.arguments, **model.auxiliary}
    assert found.keys() == kept.keys() - {"zero", "axes", "rest"}
    for parameter, array in found.items():
        given = kept[parameter]
        assert np.array_equal(array.ravel(), (given.T if parameter == "linear.weight" else given).ravel())
    assert {parameter.rpartition(".")[2] for parameter in model.auxiliary} == {"running_mean", "running_var"}
    operators = {node.name for node in proto.graph.node}
    assert {*model.symbol.get_internals().list_outputs()} >= {f"{node}_output" for node in operators if "Conv" in node}


def check_round_trip(network, path, *settings):
    spec = families.configure(Names(network, "orl", "softmax"), ["image_shape=32,32,3", *settings])
    model = as_model(families.embedding_symbol(spec), (1, 3, 32, 32))
    export(model, (1, 3, 32, 32), path)
    back, batch = import_onnx(path), pictures(32)
    found = embeddings(back, "mxnet", batch)
    assert relative_error(found, embeddings(model, "mxnet", batch)) < 1e-5
    assert relative_error(found, embeddings(read_onnx(path), "onnxruntime", batch)) < 1e-5
    assert back.fingerprint == model.fingerprint


@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize(
    "network, head", [("r50v1", "E"), *itertools.product(["d15", "r18", "y1"], ["GDC", "E", "GNAP"])]
)
def test_a_network_of_ours_comes_back_from_its_export(network, head, tmp_path):
    check_round_trip(network, tmp_path / "a.onnx", f"net_output={head}", "emb_size=16", "net_act=prelu")


@pytest.mark.torture
@pytest.mark.usefixtures("configured")
@pytest.mark.parametrize("network", ["d121", "d161", "d169", "d201", "r34", "r50fc", "r100", "r100fc", "y2"])
def test_a_large_network_of_ours_comes_back_from_its_export(network, tmp_path):
    check_round_trip(network, tmp_path / "a.onnx")


def unfolded_network():
    """An activation is before each normalization here, so an export folds none of them."""
    x = mx.sym.Variable("data")
    for number in range(2):
        x = mx.sym.BatchNorm(x, fix_gamma=False, name=f"bn{number}", eps=2e-5)
        x = mx.sym.Convolution(x, num_filter=8, kernel=(3, 3), pad=(1, 1), no_bias=True, name=f"conv{number}")
        x = mx.sym.Activation(x, act_type="relu", name=f"relu{number}")
    return mx.sym.FullyConnected(mx.sym.Flatten(x), num_hidden=8, name="fc1")


def trained(network, model, side=16, emb_size=8):
    shape = (4, 3, side, side)
    learner = learner_of(accelerated(class_losses.margin_softmax(network, emb_size, 4, s=8), shape), shape, wd=5e-4)
    learner.state.initialize(mx.init.Xavier(), seed=1)
    centers = np.random.RandomState(2).standard_normal((4, emb_size)).astype(np.float32)
    adopt(learner, network, model)
    learner.state.set_parameters({"fc7_weight": centers}, {})
    for seed in range(2):
        learner.step([Batch(pictures(side, 4), np.arange(4, dtype=np.float32))], 0.1, seed)
    arguments, auxiliary = learner.state.parameters()
    return {**arguments, **auxiliary}


def test_where_nothing_is_folded_training_goes_on_bit_for_bit(tmp_path):
    model = as_model(unfolded_network(), (1, 3, 16, 16))
    export(model, (1, 3, 16, 16), tmp_path / "a.onnx")
    save_model(model, tmp_path / "a")
    results = []
    for text in (f"{tmp_path}/a.onnx", f"{tmp_path}/a"):
        results.append(
            trained(
                pretrained_network(text, lambda text=text: pretrained_model(text, None)), pretrained_model(text, None)
            )
        )
    assert results[0].keys() == results[1].keys()
    assert {name: array.tobytes() for name, array in results[0].items()} == {
        name: array.tobytes() for name, array in results[1].items()
    }
    assert any((results[0][name] != model.arguments[name]).any() for name in model.arguments)


def test_a_network_of_pytorch_learns(tmp_path):
    path = str(written(tmp_path, iresnet(True, blocks=(1,), side=16, emb_size=8)))
    model = pretrained_model(path, None)
    found = trained(pretrained_network(path, lambda: model), model)
    assert all((found[name] != array).any() for name, array in model.arguments.items())
    assert all(np.isfinite(array).all() for array in found.values())


PUBLIC = {
    "sface": sface,
    **{
        f"{head.__name__}-{'folded' if folded else 'plain'}": partial(mobilefacenet, folded, head=head)
        for head in (product, flattened, reshaped)
        for folded in (False, True)
    },
}


@pytest.mark.parametrize("name", PUBLIC)
def test_a_network_of_a_public_shape_learns_and_is_exported(name, tmp_path):
    path = written(tmp_path, PUBLIC[name]())
    model, read = import_onnx(path), read_onnx(path)
    batch = pictures(read.input_shape[1], 1)
    before = embeddings(model, "mxnet", batch)
    assert relative_error(before, embeddings(read, "onnxruntime", batch)) < 1e-5
    symbol = pretrained_network(str(path), lambda: model)
    found = trained(symbol, model, side=read.input_shape[1], emb_size=read.emb_size)
    learned = Model(
        symbol, *({n: found[n] for n in own} for own in (model.arguments, model.auxiliary)), prefix="learned", step=2
    )
    export(learned, (1, *read.input_shape), tmp_path / "b.onnx")
    after = embeddings(learned, "mxnet", batch)
    assert relative_error(embeddings(read_onnx(tmp_path / "b.onnx"), "onnxruntime", batch), after) < 1e-5
    assert relative_error(after, before) > 1e-4


def test_a_file_has_no_epochs(tmp_path):
    with pytest.raises(InputError) as caught:
        pretrained_model("a.onnx", 3)
    assert caught.value.option == "pretrained_epoch"


def test_a_model_is_known_by_its_file(tmp_path):
    model = tiny_model()
    export(model, (1, 3, 16, 16), tmp_path / "a.onnx", metrics={"orl": {"accuracy": 0.9}})
    back, read = import_onnx(tmp_path / "a.onnx"), read_onnx(tmp_path / "a.onnx")
    assert (back.name, back.fingerprint, back.metrics) == (read.name, model.fingerprint, {"orl": {"accuracy": 0.9}})
    assert back.metrics_path == read.metrics_path
    assert Embedder(back, image_shape=(16, 16, 3)).fingerprint == model.fingerprint


def test_int8_is_refused_by_its_operator(tmp_path):
    path = written(tmp_path, healthy(0))
    with refused("QuantizeLinear quantize", path=path):
        import_onnx(path)


def renamed(old, new):
    def change(graph):
        for tensor in graph.initializer:
            tensor.name = new if tensor.name == old else tensor.name
        for node in graph.node:
            node.input[:] = [new if name == old else name for name in node.input]

    return change


def set_weight(values):
    return lambda graph: graph.initializer[0].CopyFrom(numpy_helper.from_array(values, "conv.weight"))


def computed_weight(op, *values):
    """The weight becomes what an operator makes of constants."""

    def change(graph):
        names = [f"given{number}" for number in range(len(values))]
        graph.initializer.extend(
            numpy_helper.from_array(np.full((4, 3, 3, 3), value, np.float32), name)
            for name, value in zip(names, values)
        )
        nodes = [helper.make_node(op, names, ["computed"], "made"), *graph.node]
        nodes[1].input[1] = "computed"
        del graph.node[:]
        graph.node.extend(nodes)

    return change


def reads(node, source):
    return lambda graph: graph.node[node].input.__setitem__(0, graph.node[source].output[0])


HOSTILE = {
    "a cycle": (reads(0, 1), ["Conv", "before it"]),
    "itself": (reads(1, 1), ["Flatten", "before it"]),
    "no weight": (lambda graph: graph.initializer.pop(0), ["conv.weight", "before it"]),
    "two of a name": (lambda graph: graph.initializer.append(graph.initializer[0]), ["conv.weight", "two"]),
    "rank 3": (set_weight(np.ones((4, 3, 3), np.float32)), ["Conv", "(4, 3, 3)"]),
    "no channel": (set_weight(np.ones((0, 3, 3, 3), np.float32)), ["conv.weight", "(0, 3, 3, 3)"]),
    "NaN": (set_weight(np.full((4, 3, 3, 3), np.nan, np.float32)), ["conv.weight", "NaN"]),
    "a negative size": (lambda graph: graph.initializer[0].dims.__setitem__(0, -4), ["conv.weight", "(-4, 3, 3, 3)"]),
    "a huge size": (lambda graph: graph.initializer[0].dims.__setitem__(0, 1 << 40), ["conv.weight"]),
    "an escape in a name": (renamed("conv.weight", "w\x1b[2J"), ["Conv", "control characters"]),
    "a null in a name": (renamed("conv.weight", "w\0"), ["Conv", "control characters"]),
    "a quotient by zero": (computed_weight("Div", 1, 0), ["Div made", "infinity"]),
    "a root of -1": (computed_weight("Sqrt", -1), ["Sqrt made", "NaN"]),
    "a power": (computed_weight("Pow", 1e30, 2), ["Pow made", "infinity"]),
}


@pytest.mark.parametrize("fault", HOSTILE)
def test_a_file_made_to_harm_is_refused(fault, tmp_path):
    change, facts = HOSTILE[fault]
    net = Builder()
    x = net.add("Flatten", [net.conv("input.1", "conv", 3, 4)], "flatten", axis=1)
    proto = net.model(net.linear(x, "fc", 4 * 8**2, 8), 8, 8)
    import_onnx(written(tmp_path, proto), Scaling())
    change(proto.graph)
    path = written(tmp_path, proto)
    with refused(*facts, path=path) as caught:
        import_onnx(path, Scaling())
    assert str(caught.value).isprintable()


@pytest.mark.parametrize("name", ["", " ", "q\"u'o}te\\", "arg:w,1", "../../etc", "fc7_weight", "r\u202el", "c_output"])
def test_names_of_any_other_kind_are_kept(name, tmp_path):
    proto = mobilefacenet(True)
    for number, node in enumerate(proto.graph.node):
        node.name = name and f"{name}{number}"  # ONNX Runtime takes none twice, unless they are empty
    renamed("linear.weight", name or "x")(proto.graph)
    model = import_onnx(written(tmp_path, proto), Scaling())
    expected = embeddings(read_onnx(tmp_path / "face.onnx", Scaling()), "onnxruntime", pictures(32))
    assert (name or "x") in model.arguments
    assert relative_error(embeddings(model, "mxnet", pictures(32)), expected) < 1e-5


def test_a_hostile_file_is_refused_as_everywhere(tmp_path):
    path = tmp_path / "a.onnx"
    path.write_bytes(b"no network")
    with refused("not an ONNX file", path=path):
        import_onnx(path)
