"""The peer in PyTorch: the same DenseNet, as its users would write it."""

from __future__ import annotations

from collections.abc import Mapping
from symbol.fdensenet import DENSENETS

import numpy as np
import torch
from torch import nn

from denseface.models.checkpoint import Model

ACTIVATIONS = {"relu": lambda: nn.ReLU(inplace=True), "prelu": nn.PReLU}


class DenseLayer(nn.Module):
    """BN - act - 1x1 convolution - BN - act - 3x3 convolution, appended to the input."""

    def __init__(self, channels, growth_rate, act_type):
        super().__init__()
        self.layers = nn.Sequential(
            nn.BatchNorm2d(channels),
            ACTIVATIONS[act_type](),
            nn.Conv2d(channels, 4 * growth_rate, 1, bias=False),
            nn.BatchNorm2d(4 * growth_rate),
            ACTIVATIONS[act_type](),
            nn.Conv2d(4 * growth_rate, growth_rate, 3, padding=1, bias=False),
        )

    def forward(self, x):
        return torch.cat([x, self.layers(x)], 1)


class DenseNet(nn.Module):
    """From raw pictures (N, 3, 112, 112) to embeddings (N, emb_size); the head FC is E without its dropout."""

    def __init__(self, depth, act_type, head="E", emb_size=512):
        super().__init__()
        channels, growth_rate, block_config = DENSENETS[depth]
        layers = [
            nn.Conv2d(3, channels, 3, padding=1, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        ]
        for stage, num_layers in enumerate(block_config):
            if stage:
                layers += [nn.BatchNorm2d(channels), ACTIVATIONS[act_type]()]
                layers += [nn.Conv2d(channels, channels // 2, 1, bias=False), nn.AvgPool2d(2, 2)]
                channels //= 2
            for _ in range(num_layers):
                layers.append(DenseLayer(channels, growth_rate, act_type))
                channels += growth_rate
        layers += [nn.BatchNorm2d(channels), nn.ReLU(inplace=True), nn.BatchNorm2d(channels, eps=2e-5)]
        layers += [nn.Dropout(0.4)] if head == "E" else []
        layers += [nn.Flatten(), nn.Linear(channels * 7 * 7, emb_size), nn.BatchNorm1d(emb_size, eps=2e-5)]
        self.layers = nn.Sequential(*layers)

    def forward(self, pictures):
        return self.layers((pictures - 127.5) * 0.0078125)


def copy_of(model: Model, depth: int, act_type: str, head: str = "E") -> DenseNet:
    """The model in PyTorch.

    Raises
    ------
    ValueError
        If the parameters do not map one to one, in order and shape.
    """
    network = DenseNet(depth, act_type, head)
    averages = {name: value for name, value in network.named_buffers() if not name.endswith("num_batches_tracked")}
    _fill(dict(network.named_parameters()), model.arguments)
    _fill(averages, model.auxiliary)
    return network


def _fill(own: Mapping[str, torch.Tensor], given: Mapping[str, np.ndarray]) -> None:
    if [tuple(tensor.shape) for tensor in own.values()] != [array.shape for array in given.values()]:
        raise ValueError("the parameters do not map one to one")
    with torch.no_grad():
        for tensor, array in zip(own.values(), given.values()):
            tensor.copy_(torch.from_numpy(array))
