import copy
import faulthandler
import os
import signal

import pytest

import config as configuration
from denseface.data.records import FaceRecords
from denseface.models import families
from denseface.options.names import Names, fill
from support import tiny_runs, tiny_triplets


def pytest_configure():
    """Heed the signals that a shell in the background or nohup has ignored, as do the processes that tests start."""
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)


def pytest_collection_finish():
    """Say where Python is if a process dies: MXNet, which is imported by now, would say "Segmentation fault" alone."""
    faulthandler.enable(2)


@pytest.fixture
def configured():
    """Choose options, single ones by name, and put them on the globals of config.py, which are restored afterwards."""
    tables = (configuration.config, configuration.default)
    before = copy.deepcopy(tables)

    def configure(network="d63", dataset="orl", loss="arcface", **settings):
        spec = families.configure(Names(network, dataset, loss)).replace(**settings)
        fill(configuration.config, configuration.default, spec)
        return spec

    yield configure
    for table, values in zip(tables, before):
        for key in list(table):
            table.pop(key)
        table.update(values)


@pytest.fixture
def own_engines(monkeypatch):
    """Let a network of MXNet, unless another engine is named, run in MXNet, without the time of conversions."""
    monkeypatch.setattr("denseface.embedding.embedder.default_engines", lambda model, *others: (model.default_engine,))


@pytest.fixture(scope="session")
def compiled(tmp_path_factory):
    """A folder for compiled operators, shared by the processes of pytest-xdist."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"


@pytest.fixture(scope="session")
def records(tmp_path_factory):
    """The pictures of :mod:`support.tiny_runs`."""
    folder = tmp_path_factory.mktemp("records")
    tiny_runs.write_records(folder)
    with FaceRecords(folder) as records:
        yield records


@pytest.fixture(scope="session")
def faces(tmp_path_factory):
    """The pictures of :mod:`support.tiny_triplets`."""
    folder = tmp_path_factory.mktemp("faces")
    tiny_triplets.write_faces(folder)
    with FaceRecords(folder) as records:
        yield records
