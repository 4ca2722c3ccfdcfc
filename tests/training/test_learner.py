"""The learner: its steps are SGD with momentum, on one device or several, in one batch or several."""

from collections import Counter

import numpy as np
import pytest

from denseface.data.loader import Batch
from denseface.training import descent
from support import class_losses
from support.learners import learner_of
from support.refusals import refused

import mxnet as mx

CLASSES, SHAPE = 4, (8, 3, 6, 6)
CPU = (mx.cpu(),)


def tiny_symbol(dropout=0.0, batch_norm=False):
    data = mx.sym.Variable("data") * (1 / 255)
    body = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), name="conv")
    if batch_norm:
        body = mx.sym.BatchNorm(body, fix_gamma=False, name="bn")
    if dropout:
        body = mx.sym.Dropout(body, p=dropout)
    embedding = mx.sym.FullyConnected(body, num_hidden=5, name="fc1")
    return class_losses.margin_softmax(embedding, 5, CLASSES, s=8, m2=0.2)


def make_learner(symbol, contexts=CPU, accumulate=1, shape=SHAPE, momentum=0.9, **settings):
    learner = learner_of(symbol, shape, contexts, momentum=momentum, wd=0.01, accumulate=accumulate, **settings)
    learner.state.initialize(mx.init.Xavier(), seed=3)
    return learner


def make_batches(count, size=SHAPE[0], seed=0):
    rng = np.random.default_rng(seed)
    return [
        Batch(
            rng.uniform(0, 255, (size, *SHAPE[1:])).astype(np.float32),
            rng.integers(0, CLASSES, size).astype(np.float32),
        )
        for _ in range(count)
    ]


def assert_same_parameters(one, other, tolerance):
    for ours, theirs in zip(one.state.parameters(), other.state.parameters()):
        assert ours.keys() == theirs.keys()
        for name in ours:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=tolerance, atol=tolerance, err_msg=name)


def test_a_step_is_sgd_with_momentum_and_decay():
    symbol = tiny_symbol()
    learner = make_learner(symbol)
    (batch,) = make_batches(1)
    before, _ = learner.state.parameters()
    executor = symbol.simple_bind(mx.cpu(), data=SHAPE, softmax_label=SHAPE[:1])
    executor.copy_params_from({name: mx.nd.array(value) for name, value in before.items()})
    velocity = {name: np.zeros_like(value) for name, value in before.items()}
    expected = dict(before)
    for step in range(3):
        executor.forward(is_train=True, data=mx.nd.array(batch.data), softmax_label=mx.nd.array(batch.label))
        executor.backward()
        for name in expected:
            decay = 0 if name.endswith("bias") else 0.01
            gradient = executor.grad_dict[name].asnumpy() + decay * expected[name]
            velocity[name] = 0.9 * velocity[name] - 0.1 * gradient
            expected[name] = expected[name] + velocity[name]
            executor.arg_dict[name][:] = expected[name]
        learner.step([batch], learning_rate=0.1, seed=step)
    after, _ = learner.state.parameters()
    for name in expected:
        np.testing.assert_allclose(after[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
        assert not np.array_equal(after[name], before[name]), name


def test_the_result_is_the_mean_loss_and_the_share_of_right_answers():
    learner = make_learner(tiny_symbol())
    (batch,) = make_batches(1)
    arguments, _ = learner.state.parameters()
    executor = learner.symbol.simple_bind(mx.cpu(), data=SHAPE, softmax_label=SHAPE[:1], grad_req="null")
    executor.copy_params_from({name: mx.nd.array(value) for name, value in arguments.items()})
    executor.forward(is_train=True, data=mx.nd.array(batch.data), softmax_label=mx.nd.array(batch.label))
    probability = executor.outputs[1].asnumpy()
    labels = batch.label.astype(int)
    result = learner.step([batch], learning_rate=0.0, seed=0)
    assert result.loss == pytest.approx(-np.log(probability[np.arange(len(labels)), labels]).mean(), rel=1e-4)
    assert result.accuracy == np.mean(probability.argmax(axis=1) == labels)


def test_accumulating_two_batches_equals_one_of_twice_the_size():
    first, second = make_batches(2)
    together = Batch(np.concatenate([first.data, second.data]), np.concatenate([first.label, second.label]))
    one = make_learner(tiny_symbol(), shape=(16, *SHAPE[1:]))
    two = make_learner(tiny_symbol(), accumulate=2)
    for step in range(3):
        whole = one.step([together], 0.1, step)
        parts = two.step([first, second], 0.1, step)
        assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert_same_parameters(one, two, 1e-5)


def test_two_devices_equal_one():
    (batch,) = make_batches(1)
    one = make_learner(tiny_symbol())
    two = make_learner(tiny_symbol(), contexts=(mx.cpu(0), mx.cpu(1)))
    for step in range(3):
        assert two.step([batch], 0.1, step).loss == pytest.approx(one.step([batch], 0.1, step).loss, rel=1e-5)
    assert_same_parameters(one, two, 1e-5)


@pytest.mark.parametrize("clip", [0, 0.5, 2])
def test_a_longer_gradient_is_shortened_before_decay_is_added(clip):
    """Clipped to a fraction f, a step is the one whose rate is f times as high, and whose decay 1 / f times."""
    (batch,) = make_batches(1)
    start = make_learner(tiny_symbol(), momentum=0.0)
    before, _ = start.state.parameters()
    norm = start.step([batch], 0.1, 0).gradient_norm
    gradients = {
        name: gradient.asnumpy() for name, gradient in start._executors[0].grad_dict.items() if gradient is not None
    }
    assert norm == pytest.approx(np.sqrt(sum((array**2).sum() for array in gradients.values())), rel=1e-5)
    learner = make_learner(tiny_symbol(), momentum=0.0, clip_norm=clip * norm)
    assert learner.step([batch], 0.1, 0).gradient_norm == norm
    after, _ = learner.state.parameters()
    for name, gradient in gradients.items():
        decay = 0 if name.endswith("bias") else 0.01
        expected = before[name] - 0.1 * (gradient * (0.5 if clip == 0.5 else 1) + decay * before[name])
        np.testing.assert_allclose(after[name], expected, rtol=1e-5, atol=1e-7, err_msg=name)


def test_devices_and_accumulated_batches_are_clipped_as_one():
    first, second = make_batches(2)
    together = Batch(np.concatenate([first.data, second.data]), np.concatenate([first.label, second.label]))
    settings = {"clip_norm": 0.3}
    one = make_learner(tiny_symbol(), shape=(16, *SHAPE[1:]), **settings)
    two = make_learner(tiny_symbol(), contexts=(mx.cpu(0), mx.cpu(1)), accumulate=2, **settings)
    for step in range(3):
        norms = one.step([together], 0.1, step).gradient_norm, two.step([first, second], 0.1, step).gradient_norm
        assert norms[0] == pytest.approx(norms[1], rel=1e-5) and norms[0] > 0.3
    assert_same_parameters(one, two, 1e-5)


def test_devices_average_their_moving_statistics():
    (batch,) = make_batches(1)
    learner = make_learner(tiny_symbol(batch_norm=True), contexts=(mx.cpu(0), mx.cpu(1)))
    learner.step([batch], 0.0, 0)
    halves = []
    for half in np.split(batch.data, 2):
        single = make_learner(tiny_symbol(batch_norm=True), shape=(4, *SHAPE[1:]))
        single.step([Batch(half, batch.label[:4])], 0.0, 0)
        halves.append(single.state.parameters()[1]["bn_moving_mean"])
    np.testing.assert_allclose(
        learner.state.parameters()[1]["bn_moving_mean"], np.mean(halves, axis=0), rtol=1e-5, atol=1e-7
    )


def test_devices_go_on_with_the_same_statistics_every_time():
    batches = make_batches(4)
    expected = None
    for _ in range(10):
        learner = make_learner(tiny_symbol(batch_norm=True), contexts=(mx.cpu(0), mx.cpu(1)))
        for step, batch in enumerate(batches):
            learner.step([batch], 0.1, step)
        found = [{n: array.asnumpy() for n, array in executor.aux_dict.items()} for executor in learner._executors]
        expected = expected or found[0]
        for auxiliary in found:
            for name in expected:
                np.testing.assert_array_equal(auxiliary[name], expected[name], err_msg=name)


@pytest.mark.parametrize("devices", [1, 2])
def test_embedding_is_the_network_in_evaluation_mode(devices):
    symbol = tiny_symbol(dropout=0.5, batch_norm=True)
    contexts = tuple(map(mx.cpu, range(devices)))
    learner, undisturbed = (make_learner(symbol, contexts) for _ in range(2))
    first, second = make_batches(2)
    for one in (learner, undisturbed):
        one.step([first], 0.1, 0)
    embeddings = learner.embed(second.data)
    assert embeddings.shape == (8, 5) and embeddings.dtype == np.float32
    arguments, auxiliary = learner.state.parameters()
    executor = symbol.get_internals()["fc1_output"].simple_bind(mx.cpu(), data=SHAPE, grad_req="null")
    executor.copy_params_from(
        {name: mx.nd.array(value) for name, value in arguments.items()},
        {name: mx.nd.array(value) for name, value in auxiliary.items()},
        allow_extra_params=True,
    )
    executor.forward(is_train=False, data=mx.nd.array(second.data))
    np.testing.assert_allclose(embeddings, executor.outputs[0].asnumpy(), rtol=1e-4, atol=1e-5)
    for one in (learner, undisturbed):
        one.step([second], 0.1, 1)
    assert_same_parameters(learner, undisturbed, 0)


def test_a_step_depends_on_its_seed_and_not_on_the_steps_before():
    batches = make_batches(3)
    through = make_learner(tiny_symbol(dropout=0.5))
    for step, batch in enumerate(batches):
        if step == 2:
            halfway = through.state.parameters(), through.state.momenta()
        through.step([batch], 0.1, seed=step)
    resumed = make_learner(tiny_symbol(dropout=0.5))
    resumed.state.set_parameters(*halfway[0])
    resumed.state.set_momenta(halfway[1])
    mx.nd.random.uniform(shape=(100,)).wait_to_read()  # disturbs the generator
    resumed.step([batches[2]], 0.1, seed=2)
    assert_same_parameters(through, resumed, 0)
    other = make_learner(tiny_symbol(dropout=0.5))
    other.state.set_parameters(*halfway[0])
    other.state.set_momenta(halfway[1])
    other.step([batches[2]], 0.1, seed=9)
    assert not np.array_equal(other.state.parameters()[0]["conv_weight"], through.state.parameters()[0]["conv_weight"])


def test_equal_seeds_give_equal_parameters():
    assert_same_parameters(make_learner(tiny_symbol()), make_learner(tiny_symbol()), 0)


def test_without_momentum_there_is_no_state():
    assert make_learner(tiny_symbol(), momentum=0.0).state.momenta() == {}


def test_adopting_takes_what_fits_and_lists_the_rest():
    learner = make_learner(tiny_symbol(batch_norm=True))
    arguments, auxiliary = learner.state.parameters()
    given = {
        "conv_weight": arguments["conv_weight"] + 1,
        "fc1_weight": np.zeros((7, 7), np.float32),
        "stranger_weight": np.zeros(3, np.float32),
    }
    loaded, fresh, left_over = learner.state.adopt(given, {"bn_moving_mean": auxiliary["bn_moving_mean"] + 2})
    assert loaded == ["conv_weight", "bn_moving_mean"]
    assert "fc1_weight" in fresh and "bn_moving_var" in fresh and "conv_weight" not in fresh
    assert left_over == ["fc1_weight", "stranger_weight"]
    after, after_auxiliary = learner.state.parameters()
    np.testing.assert_array_equal(after["conv_weight"], arguments["conv_weight"] + 1)
    np.testing.assert_array_equal(after["fc1_weight"], arguments["fc1_weight"])
    np.testing.assert_array_equal(after_auxiliary["bn_moving_mean"], auxiliary["bn_moving_mean"] + 2)


@pytest.mark.parametrize("name, array", [("nobody", np.zeros(1)), ("conv_weight", np.zeros((1, 2, 3, 3)))])
def test_parameters_that_do_not_fit_are_refused_by_name(name, array):
    learner = make_learner(tiny_symbol())
    with refused(name):
        learner.state.set_parameters({name: array}, {})
    with refused(name):
        learner.state.set_momenta({name: array})


def test_a_batch_that_mxnet_cannot_count_is_one_line():
    with refused("shape", option="per_batch_size"):
        make_learner(tiny_symbol(), shape=(1 << 13, 3, 1 << 17, 1 << 17))


def test_less_is_advised_where_memory_is_the_cause(monkeypatch):
    def fail(*args, **kwargs):
        raise RuntimeError("simple_bind error\nMXNetError: Failed to allocate CPU Memory")

    monkeypatch.setattr(mx.sym.Symbol, "simple_bind", fail)
    with refused("Failed to allocate CPU Memory", "smaller", option="per_batch_size"):
        make_learner(tiny_symbol())


@pytest.fixture
def calls(monkeypatch):
    """Counts of what waits for a device, and of what is asked of MXNet's optimizer and key-value store."""
    counts = Counter()

    def count(owner, name, kind):
        original = getattr(owner, name)

        def counting(*args, **kwargs):
            counts[kind] += 1
            return original(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    for name in ("asnumpy", "asscalar", "wait_to_read"):
        count(mx.nd.NDArray, name, "reads")
    count(mx.nd, "waitall", "waits")
    count(mx.optimizer.SGD, "update", "updates")
    count(mx.kvstore.KVStore, "pushpull", "sums")
    return counts


def deep_symbol():
    body = mx.sym.Variable("data") * (1 / 255)
    for layer in range(20):
        body = mx.sym.Convolution(body, num_filter=4, kernel=(3, 3), pad=(1, 1), name=f"conv{layer}")
    return class_losses.margin_softmax(mx.sym.FullyConnected(body, num_hidden=5, name="fc1"), 5, CLASSES, s=8, m2=0.2)


@pytest.mark.parametrize("clip_norm, reads", [(0, 3), (1e9, 4)])
def test_a_step_waits_as_often_whatever_the_number_of_parameters(calls, clip_norm, reads):
    """Loss, answers and norm; clipping reads the norm before the update, too."""
    learner = make_learner(deep_symbol(), clip_norm=clip_norm)
    assert len(learner.state.parameters()[0]) == 43
    (batch,) = make_batches(1)
    calls.clear()
    learner.step([batch], 0.1, 0)
    assert calls == {"reads": reads, "updates": 6}


def test_devices_sum_all_gradients_with_one_call_and_all_statistics_with_another(calls):
    learner = make_learner(tiny_symbol(batch_norm=True), contexts=(mx.cpu(0), mx.cpu(1)))
    (batch,) = make_batches(1)
    calls.clear()
    learner.step([batch], 0.1, 0)
    assert calls == {"reads": 5, "updates": 8, "sums": 2, "waits": 2}


@pytest.mark.parametrize("values", [5, 1 << 13, 3 * (1 << 20) + 7])
def test_the_norm_of_large_gradients_is_that_in_float64(values):
    """MXNet adds in float32; a sum of three million squares one after the other is wrong in the third digit."""
    symbol = mx.sym.Variable("data", shape=(1, 1, 1, 1))
    weight = mx.sym.Variable("w_weight", shape=(values,))
    factor = mx.sym.BlockGrad(mx.sym.Variable("factor_weight", shape=(values,)))
    loss = mx.sym.MakeLoss(mx.sym.sum(weight * factor))
    label = mx.sym.BlockGrad(mx.sym.Variable("softmax_label", shape=(1,)))
    learner = learner_of(mx.sym.Group([mx.sym.BlockGrad(symbol), label, loss]), (1, 1, 1, 1), frozen=["factor_weight"])
    factors = np.random.default_rng(0).normal(size=values).astype(np.float32)
    learner.state.set_parameters({"factor_weight": factors, "w_weight": np.zeros(values, np.float32)}, {})
    norm = learner.step([Batch(np.zeros((1, 1, 1, 1), np.float32), np.zeros(1, np.float32))], 0.0, 0).gradient_norm
    assert norm == pytest.approx(np.sqrt(np.sum(factors.astype(np.float64) ** 2)), rel=1e-6)


def test_arrays_of_similar_sizes_are_updated_together():
    """A small array beside a large one would cost as much as two large ones."""
    sizes = {"centers": 10**7, **{f"scale{n}": 64 for n in range(20)}, "conv": 9216, "other": 18432}
    groups = descent._groups(sizes)
    assert [len(group) for group in groups] == [16, 4, 2, 1] and groups[-1] == ["centers"]
