import copy
import signal

import pytest

import config as configuration
import denseface  # noqa: F401  makes MXNet importable in every test file


def pytest_configure():
    """Heed Ctrl-C, as do the processes that tests start: a shell in the background has it ignored."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def configured():
    """Configure a network, single keys by name; the configuration is put back afterwards."""
    tables = (configuration.config, configuration.default)
    before = copy.deepcopy(tables)

    def configure(network="d63", dataset="orl", loss="arcface", **settings):
        configuration.generate_config(network, dataset, loss)
        configuration.config.update(settings)
        return configuration.config

    yield configure
    for table, values in zip(tables, before):
        for key in list(table):
            table.pop(key)
        table.update(values)
