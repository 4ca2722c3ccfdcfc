"""Contenders that embed a batch of pictures."""

from __future__ import annotations

import dataclasses
import io
import itertools

from bench.model import FACE, faces, make_model
from bench.race import Contender
from denseface.embedding.engines import make_engine
from denseface.embedding.engines.onnx_model import converted
from denseface.export.int8 import quantize

# Rounding to 8 bits, layer after layer.
_BF16 = 0.1
_INT8 = 0.2


def contenders(network: str, activation: str, batch_size: int, every: bool) -> list[Contender]:
    """Everyone who can embed such a batch; the first is PyTorch's export in ONNX Runtime.

    Without `every`, neither PyTorch itself, which compiles each way for half a minute and was slower than OpenVINO
    with each network, nor MXNet on half the cores.
    """
    task = (network, activation, batch_size)
    half = {"OMP_NUM_THREADS": str(max(1, cores() // 2))}
    in_pytorch = [_in_pytorch(task, *options) for options in itertools.product((False, True), repeat=3)]
    on_half = [Contender("plain symbol in MXNet, on half the cores as MXNet chooses", plain_symbol, task, half)]
    return [
        Contender("PyTorch's export in ONNX Runtime", torch_in_onnxruntime, task),
        Contender("PyTorch's export in OpenVINO", torch_in_openvino, (*task, "f32")),
        Contender("PyTorch's export in OpenVINO, bf16", torch_in_openvino, (*task, "bf16"), {}, _BF16, "bfloat16"),
        *([*in_pytorch, *on_half] if every else []),
        Contender("plain symbol in MXNet, on all cores", plain_symbol, task),
        Contender("denseface, default engine", default_engine, task),
        Contender("denseface, mxnet", engine, ("mxnet", *task)),
        Contender("denseface, onnxruntime", engine, ("onnxruntime", *task)),
        Contender("denseface, openvino", engine, ("openvino", *task)),
        Contender("denseface, openvino-bf16", engine, ("openvino-bf16", *task), {}, _BF16, "bfloat16"),
        Contender("denseface, exported with --int8, openvino-bf16", int8_engine, task, {}, _INT8, "bfloat16"),
    ]


def _in_pytorch(task, channels_last, half, compiled):
    name = "PyTorch compiled" if compiled else "PyTorch eager"
    name += ", channels_last" if channels_last else ""
    name += ", bfloat16" if half else ""
    options = (*task, channels_last, half, compiled)
    return Contender(name, torch_network, options, {}, *((_BF16, "bfloat16") if half else ()))


def plain_symbol(network, activation, batch_size):
    """What InsightFace's users run: the symbol as it was saved."""
    import mxnet as mx

    model = make_model(network, activation)
    executor = model.symbol.simple_bind(mx.cpu(), grad_req="null", data=(batch_size, *FACE))
    for own, given in ((executor.arg_dict, model.arguments), (executor.aux_dict, model.auxiliary)):
        for name, array in given.items():
            own[name][:] = array
    pictures = faces(batch_size)
    return lambda: executor.forward(is_train=False, data=mx.nd.array(pictures))[0].asnumpy()


def engine(name, network, activation, batch_size):
    """This project."""
    bound = make_engine(name, make_model(network, activation), batch_size)
    pictures = faces(batch_size)
    return lambda: bound(pictures)


def default_engine(network, activation, batch_size):
    """This project, with the engine that it chooses."""
    from denseface.embedding.embedder import Embedder

    embedder = Embedder(make_model(network, activation), batch_size=batch_size, flip=False, normalize=False)
    pictures = faces(batch_size)
    return lambda: embedder.compute(pictures).rows


def int8_engine(network, activation, batch_size):
    """This project, as ``denseface export --int8`` makes it."""
    model = converted(make_model(network, activation), (batch_size, *FACE))
    pictures = faces(batch_size)
    content, _ = quantize(model.content, [pictures])
    bound = make_engine("openvino-bf16", dataclasses.replace(model, content=content), batch_size)
    return lambda: bound(pictures)


def torch_network(network, activation, batch_size, channels_last, half, compiled):
    """PyTorch, as fast as its options make it."""
    import torch

    body, pictures = _torch_network(network, activation), torch.from_numpy(faces(batch_size))
    if channels_last:
        body, pictures = body.to(memory_format=torch.channels_last), pictures.to(memory_format=torch.channels_last)
    embed = torch.compile(body) if compiled else body

    def run():
        with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=half):
            return embed(pictures).float().numpy()

    return run


def torch_in_onnxruntime(network, activation, batch_size):
    """PyTorch's ONNX export in ONNX Runtime."""
    import onnxruntime

    content = _torch_onnx(network, activation, batch_size)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    pictures = faces(batch_size)
    return lambda: session.run(None, {"data": pictures})[0]


def torch_in_openvino(network, activation, batch_size, precision):
    """PyTorch's ONNX export in OpenVINO."""
    import sys

    sys.modules.setdefault("openvino_telemetry", None)  # it reports over the network
    import openvino

    core = openvino.Core()
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    compiled = core.compile_model(core.read_model(_torch_onnx(network, activation, batch_size)), "CPU", settings)
    pictures = faces(batch_size)
    return lambda: compiled(pictures)[0].copy()


def cores() -> int:
    """Cores that MXNet computes on."""
    import os

    import mxnet as mx

    assert mx
    return int(os.environ["OMP_NUM_THREADS"])


def _torch_network(network, activation):
    import torch

    from bench.torch_network import torch_copy

    torch.set_num_threads(cores())
    return torch_copy(network, activation).eval()


def _torch_onnx(network, activation, batch_size):
    import torch

    content = io.BytesIO()
    pictures = torch.from_numpy(faces(batch_size))
    torch.onnx.export(
        _torch_network(network, activation), (pictures,), content, input_names=["data"], opset_version=17, dynamo=False
    )
    return content.getvalue()
