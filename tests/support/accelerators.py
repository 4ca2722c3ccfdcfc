"""ONNX Runtime as it would be on a machine with an accelerator; the CPU computes."""

import sys
from types import SimpleNamespace

import numpy as np
import onnxruntime

from denseface.core import providers

CPU = "CPUExecutionProvider"


class Accelerator:
    """Stands in for the package onnxruntime, with one more provider.

    Attributes
    ----------
    falls_back : bool
        Whether a session for it silently computes on the CPU.
    error : Exception or None
        What starting a session on it raises.
    change : callable
        What it makes of the CPU's outputs.
    assigned : dict of str to int
        How many layers each provider computes.
    sessions : list
        The sessions that were started on it.
    """

    def __init__(self, name):
        self.name = name
        self.falls_back, self.error, self.change = False, None, lambda outputs: outputs
        self.assigned = {name: 1}
        self.sessions = []

    def get_available_providers(self):
        return [self.name, CPU]

    def InferenceSession(self, content, options, providers, **settings):  # noqa: N802
        session = onnxruntime.InferenceSession(content, options, providers=[CPU])
        if providers == [CPU]:
            return session
        if self.error:
            raise self.error
        made = _Session(self, session, providers, settings)
        self.sessions.append(made)
        return made

    SessionOptions = staticmethod(onnxruntime.SessionOptions)


class _Session:
    def __init__(self, accelerator, session, providers, settings):
        self._accelerator, self._session = accelerator, session
        self.providers, self.settings, self.falls_back_later = providers, settings, True

    def get_providers(self):
        return [CPU] if self._accelerator.falls_back else [self._accelerator.name, CPU]

    def get_provider_graph_assignment_info(self):
        return [
            SimpleNamespace(ep_name=name, get_nodes=lambda count=count: [None] * count)
            for name, count in self._accelerator.assigned.items()
        ]

    def disable_fallback(self):
        self.falls_back_later = False

    def get_inputs(self):
        return self._session.get_inputs()

    def get_outputs(self):
        return self._session.get_outputs()

    def run(self, names, fed):
        return self._accelerator.change(self._session.run(names, fed))


def disturbed(outputs):
    """Change outputs a little, the same ones in the same way."""
    return [each + np.float32(0.02) * np.abs(each).max() * np.sign(np.sin(1e4 * each)) for each in outputs]


def accelerated(monkeypatch, provider="cuda"):
    """Install an accelerator for a test."""
    accelerator = Accelerator(providers.PROVIDERS[provider].name)
    monkeypatch.setitem(sys.modules, "onnxruntime", accelerator)
    return accelerator


def distributions(**files):
    """Stand in for ``importlib.metadata.distributions``: packages, and the first file of each."""
    made = [SimpleNamespace(metadata={"Name": name.replace("_", "-")}, files=[file]) for name, file in files.items()]
    return lambda: made
