import copy

import pytest

import config as configuration
import denseface  # noqa: F401  makes MXNet importable in every test file


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
