"""What layers read of each other is measured by channel, and drawn by block."""

import numpy as np
import pytest

from denseface import cli
from denseface.models import families
from denseface.report.reuse import draw_reuse, reuse
from support.refusals import refused
from support.tiny_models import as_model, as_ndarrays

import mxnet as mx


def densenet(configured, **settings):
    """A DenseNet-15 of random parameters; blocks of three layers read 32, 48, 64 and 40, 56, 72 channels."""
    config = configured("d15", "emore", **{"emb_size": 8, **settings})
    return as_model(families.embedding_symbol(config), (1, 3, 32, 32))


def test_every_layer_of_a_block_reads_all_before_it(configured):
    blocks = reuse(densenet(configured))
    assert [len(block.readers) for block in blocks] == [4, 4]
    for block in blocks:
        np.testing.assert_array_equal(np.isnan(block.weights), np.tri(4, k=-1, dtype=bool))
    assert blocks[0].readers[-1] == "densenet0_conv1_fwd" and blocks[1].readers[-1] == "pre_fc1"


def test_a_layer_that_reads_one_other_alone_is_seen(configured):
    model = densenet(configured)
    weight = model.arguments["densenet0_stage1_conv4_weight"]  # of the third layer: 32 + 16 + 16 channels
    weight[:] = 0.0
    weight[:, 32:48] = -1.0
    np.testing.assert_allclose(reuse(model)[0].weights[:3, 2], [0, 4, 0])


@pytest.mark.parametrize("head", ["GAP", "E"])
def test_the_head_reads_the_last_block_at_all_positions(configured, head):
    model = densenet(configured, net_output=head)
    weight = model.arguments["pre_fc1_weight"]  # 40 + 16 + 16 + 16 channels, for each all positions
    weight[:] = 0.0
    weight[:, -16 * weight.shape[1] // 88 :] = 2.0
    np.testing.assert_allclose(reuse(model)[-1].weights[:, 3], [0, 0, 0, 88 / 16])


def test_the_picture_names_block_and_ends(configured):
    figure = draw_reuse(reuse(densenet(configured)), "model,1")
    titles = [axes.get_title("left") for axes in figure.axes]
    assert titles[:2] == ["Dense block 1", "Dense block 2"]
    last = [[label.get_text() for label in axes.get_xticklabels()][-1] for axes in figure.axes[:2]]
    assert last == ["transition", "head"]


def test_plot_reuse_draws_a_saved_model(configured, capsys, tmp_path):
    model = densenet(configured)
    mx.model.save_checkpoint(str(tmp_path / "dense"), 1, model.symbol, *as_ndarrays(model))
    out = tmp_path / "reuse.png"
    assert cli.main(["plot", "--reuse", str(tmp_path / "dense"), "-o", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    assert out.read_bytes().startswith(b"\x89PNG")


def test_a_network_without_dense_blocks_is_refused(configured):
    model = as_model(families.embedding_symbol(configured("r18", "emore", emb_size=8)), (1, 3, 32, 32))
    with refused("not a DenseNet"):
        reuse(model)
