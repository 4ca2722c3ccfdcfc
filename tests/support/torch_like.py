"""ONNX networks built node by node, with the names and shapes that torch.onnx.export writes."""

import numpy as np
from onnx import TensorProto, helper, numpy_helper

OPSET = 17


class Builder:
    """A graph that grows by one layer at a time; with `folded`, normalizations after convolutions are in their weights.

    Methods take and return names of tensors.
    """

    def __init__(self, folded=False, seed=0):
        self.folded = folded
        self.nodes, self.initializers, self.count = [], [], 0
        self.draw = np.random.RandomState(seed)

    def constant(self, name, values, dtype=np.float32):
        self.initializers.append(numpy_helper.from_array(np.asarray(values, dtype), name))
        return name

    def add(self, op, inputs, path, **attributes):
        output = f"/{path}/{op}_output_0"
        self.nodes.append(helper.make_node(op, inputs, [output], f"/{path}/{op}", **attributes))
        return output

    def conv(self, x, path, inputs, outputs, kernel=3, stride=1, groups=1, norm=""):
        fan = inputs // groups * kernel**2
        weight = self.draw.standard_normal((outputs, inputs // groups, kernel, kernel)) / fan**0.5
        given = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [kernel // 2] * 4, "group": groups}
        if norm and self.folded:
            self.count += 3
            names = [f"onnx::Conv_{self.count}", f"onnx::Conv_{self.count + 1}"]
            bias = self.draw.standard_normal(outputs) * 0.1
            return self.add("Conv", [x, self.constant(names[0], weight), self.constant(names[1], bias)], path, **given)
        x = self.add("Conv", [x, self.constant(f"{path}.weight", weight)], path, **given)
        return self.norm(x, norm, outputs) if norm else x

    def norm(self, x, path, channels):
        values = {
            "weight": self.draw.uniform(0.5, 1.5, channels),
            "bias": self.draw.standard_normal(channels) * 0.1,
            "running_mean": self.draw.standard_normal(channels) * 0.1,
            "running_var": self.draw.uniform(0.5, 1.5, channels),
        }
        names = [self.constant(f"{path}.{name}", value) for name, value in values.items()]
        return self.add("BatchNormalization", [x, *names], path, epsilon=1e-5, momentum=0.9)

    def prelu(self, x, path, channels):
        self.count += 1
        slopes = self.draw.uniform(0, 0.5, (channels, 1, 1))
        return self.add("PRelu", [x, self.constant(f"onnx::PRelu_{self.count}", slopes)], path)

    def linear(self, x, path, inputs, outputs):
        weight = self.draw.standard_normal((outputs, inputs)) / inputs**0.5
        names = [self.constant(f"{path}.weight", weight), self.constant(f"{path}.bias", np.zeros(outputs))]
        return self.add("Gemm", [x, *names], path, alpha=1.0, beta=1.0, transB=1)

    def model(self, output, emb_size, side, opset=OPSET):
        self.nodes[-1].output[0] = "output"
        assert output == self.nodes[-1].name + "_output_0"
        graph = helper.make_graph(
            self.nodes,
            "main_graph",
            [helper.make_tensor_value_info("input.1", TensorProto.FLOAT, ["batch_size", 3, side, side])],
            [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["batch_size", emb_size])],
            self.initializers,
        )
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def iresnet(folded, blocks=(2, 2), side=32, emb_size=16):
    """IBasicBlocks after a stem, as in InsightFace's arcface_torch."""
    net = Builder(folded)
    x = net.prelu(net.conv("input.1", "conv1", 3, 8, norm="bn1"), "prelu", 8)
    channels, size = 8, side
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            path, width, stride = f"layer{stage}.{block}", 8 * 2 ** (stage - 1), 2 if block == 0 else 1
            y = net.norm(x, f"{path}.bn1", channels)
            y = net.prelu(net.conv(y, f"{path}.conv1", channels, width, norm=f"{path}.bn2"), f"{path}.prelu", width)
            y = net.conv(y, f"{path}.conv2", width, width, stride=stride, norm=f"{path}.bn3")
            if block == 0:
                norm = f"{path}.downsample.1"
                x = net.conv(x, f"{path}.downsample.0", channels, width, kernel=1, stride=2, norm=norm)
            x = net.add("Add", [y, x], path)
            channels, size = width, size // stride
    x = net.add("Flatten", [net.norm(x, "bn2", channels)], "flatten", axis=1)
    x = net.norm(net.linear(x, "fc", channels * size**2, emb_size), "features", emb_size)
    return net.model(x, emb_size, side)


def mobilefacenet(folded, side=32, emb_size=16):
    """Depthwise bottlenecks, a global depthwise convolution and a linear layer."""
    net = Builder(folded)

    def block(x, path, inputs, outputs, kernel=3, stride=1, groups=1, linear=False):
        x = net.conv(x, f"{path}.conv", inputs, outputs, kernel, stride, groups, norm=f"{path}.bn")
        return x if linear else net.prelu(x, f"{path}.prelu", outputs)

    x = block("input.1", "conv1", 3, 16, stride=2)
    x = block(x, "conv2_dw", 16, 16, groups=16)
    for number in range(2):
        path = f"conv_3.model.{number}"
        y = block(x, f"{path}.conv", 16, 32, kernel=1)
        y = block(y, f"{path}.conv_dw", 32, 32, groups=32)
        x = net.add("Add", [x, block(y, f"{path}.project", 32, 16, kernel=1, linear=True)], path)
    x = block(block(x, "conv_6_sep", 16, 32, kernel=1), "down", 32, 32, stride=2, groups=32)
    weight = net.constant("conv_6_dw.weight", net.draw.standard_normal((32, 1, side // 4, side // 4)) * 0.1)
    x = net.add("Conv", [x, weight], "conv_6_dw", kernel_shape=[side // 4] * 2, group=32)
    shape = [net.add("Shape", [x], "shape"), net.constant("zero", 0, np.int64)]
    batch = net.add(
        "Unsqueeze", [net.add("Gather", shape, "gather", axis=0), net.constant("axes", [0], np.int64)], "un"
    )
    shape = net.add("Concat", [batch, net.constant("rest", [-1], np.int64)], "shape_of_flat", axis=0)
    x = net.add("Reshape", [x, shape], "flatten")
    matrix = net.constant("linear.weight", net.draw.standard_normal((32, emb_size)) * 0.2)
    x = net.norm(net.add("MatMul", [x, matrix], "linear"), "bn", emb_size)
    return net.model(x, emb_size, side)
