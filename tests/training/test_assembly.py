"""A run is put together from its options."""

from types import SimpleNamespace

import pytest

from denseface.core.cpus import decoding_threads, usable_cpus
from denseface.data.records import FaceRecords
from denseface.distributed.workers import OneWorker
from denseface.options.spec import RunSpec
from denseface.training.assembly import make_loader
from support.tiny_runs import SIZE, write_records

import mxnet as mx


@pytest.mark.parametrize(
    "chosen, device, threads",
    [(None, mx.cpu(), decoding_threads()), (None, mx.gpu(), usable_cpus(most=16)), (7, mx.cpu(), 7), (7, mx.gpu(), 7)],
)
def test_threads_that_read_are_those_of_the_option_or_of_the_processors(chosen, device, threads, tmp_path):
    write_records(tmp_path)
    spec = RunSpec.of({"image_shape": (SIZE, SIZE, 3), "loader_threads": chosen, "per_batch_size": 2})
    learner = SimpleNamespace(devices=(device,))
    with FaceRecords(tmp_path) as records:
        assert make_loader(spec, OneWorker(), records, learner).reader.threads == threads
