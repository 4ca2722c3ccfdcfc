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


def product(net, x, channels, emb_size):
    """A flattening whose shape is computed, and a matrix."""
    shape = [net.add("Shape", [x], "shape"), net.constant("zero", 0, np.int64)]
    batch = net.add(
        "Unsqueeze", [net.add("Gather", shape, "gather", axis=0), net.constant("axes", [0], np.int64)], "un"
    )
    shape = net.add("Concat", [batch, net.constant("rest", [-1], np.int64)], "shape_of_flat", axis=0)
    x = net.add("Reshape", [x, shape], "flatten")
    matrix = net.constant("linear.weight", net.draw.standard_normal((channels, emb_size)) * 0.2)
    return net.norm(net.add("MatMul", [x, matrix], "linear"), "bn", emb_size)


def flattened(net, x, channels, emb_size):
    """A convolution of one pixel, then a flattening."""
    return net.add("Flatten", [net.conv(x, "linear", channels, emb_size, kernel=1, norm="bn")], "flatten", axis=1)


def reshaped(net, x, channels, emb_size):
    """The same with a fixed shape, as ``view(-1, 16)`` becomes."""
    shape = net.constant("shape", [-1, emb_size], np.int64)
    return net.add("Reshape", [net.conv(x, "linear", channels, emb_size, kernel=1, norm="bn"), shape], "view")


def mobilefacenet(folded, side=32, emb_size=16, head=product):
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
    return net.model(head(net, x, 32, emb_size), emb_size, side)


def sface(side=112, emb_size=128, width=8):
    """MobileFaceNet as OpenCV has it, from MXNet: one picture, scaled inside, and parameters among the inputs."""
    net = Builder()

    def block(x, path, inputs, outputs, kernel=3, stride=1, groups=1):
        x = net.conv(x, f"{path}_conv2d", inputs, outputs, kernel, stride, groups, norm=f"{path}_batchnorm")
        return net.prelu(x, f"{path}_relu", outputs)

    x = net.add("Sub", ["data", net.constant("scalar_op1", [127.5])], "_minusscalar0")
    x = net.add("Mul", [x, net.constant("scalar_op2", [0.0078125])], "_mulscalar0")
    x = block(x, "conv_1", 3, width, stride=2)
    for number in range(3):
        x = block(x, f"conv_{number + 2}_dw", width, width, stride=2, groups=width)
        x = block(x, f"conv_{number + 2}", width, width, kernel=1)
    weight = net.constant("conv_6_dw7_7_weight", net.draw.standard_normal((width, 1, side // 16, side // 16)) * 0.1)
    x = net.add("Conv", [x, weight], "conv_6_dw7_7_conv2d", kernel_shape=[side // 16] * 2, group=width)
    x = net.norm(x, "conv_6_dw7_7_batchnorm", width)
    x = net.add("Dropout", [x], "dropout0", ratio=0.4)
    x = net.add("Flatten", [x], "flatten0", axis=1)
    x = net.norm(net.linear(x, "pre_fc1", width, emb_size), "fc1", emb_size)
    model = net.model(x, emb_size, side, opset=8)
    for node in model.graph.node:
        node.name = node.name.split("/")[1]
    given = model.graph.input[0]
    given.name = "data"
    given.type.tensor_type.shape.dim[0].dim_value = 1
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    return model
