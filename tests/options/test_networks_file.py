"""A file of networks: what cannot be read is one line that names the file, the entry and the key."""

import json
import os
from pathlib import Path

import pytest

from denseface.core.errors import InputError
from denseface.models import families
from denseface.options.names import Names
from support.refusals import refused


def write_networks(tmp_path, entries):
    file = tmp_path / "networks.json"
    file.write_text(entries if isinstance(entries, str) else json.dumps(entries))
    return str(file)


@pytest.mark.parametrize(
    ("entries", "complaint"),
    [
        ("{", "not a JSON file: "),
        ("[" * 100_000, "not a JSON file: "),
        ("\xff", "write it as"),
        ([], 'write it as {"NAME": {"net_name": "FAMILY", "KEY": VALUE}}'),
        ({"mine": 1}, 'write it as {"NAME": {"net_name": "FAMILY", "KEY": VALUE}}'),
        ({"../mine": {"net_name": "f"}}, "'../mine': a network's name is made of letters, digits, _ and -"),
        ({"": {"net_name": "f"}}, "'': a network's name is made of letters, digits, _ and -"),
        ({"mine": {}}, "mine: net_name must name the family, the file without .py"),
        ({"mine": {"net_name": 1}}, "mine: net_name must name the family, the file without .py"),
        ({"mine": {"net_name": "f", "emb_size": "9"}}, 'mine: emb_size is "9"; expected a whole number, as in 512'),
        ({"mine": {"net_name": "f", "emb_size": True}}, "mine: emb_size is true; expected a whole number"),
        ({"mine": {"net_name": "f", "emb_size": 1.5}}, "mine: emb_size is 1.5; expected a whole number"),
        (
            {"mine": {"net_name": "f", "net_blocks": [1, "4"]}},
            'mine: net_blocks is [1, "4"]; expected values',
        ),
        ({"mine": {"net_name": "f", "lr": float("nan")}}, "mine: lr is NaN; expected a number, as in 0.1"),
        ({"mine": {"net_name": "f", "lr": 10**400}}, "mine: lr is 1000"),
        (
            {"mine": {"net_name": "f", "ckpt_embedding": 1}},
            "mine: ckpt_embedding is 1; expected true or false",
        ),
        ({"mine": {"net_name": "f", "bn_mom": 1e308}}, "mine: bn_mom is 1e+308; it must be from 0 to 1"),
        (
            {"mine": {"net_name": "f", "image_shape": [112, 112]}},
            "mine: image_shape is [112, 112]; expected 3 values",
        ),
        (
            {"mine": {"net_name": "f", "image_shape": [112, 112, 0]}},
            "mine: image_shape is [112, 112, 0]; it must be from 1",
        ),
        ({"mine": {"net_name": "f", "__class__": "x"}}, "mine: __class__: not a name for a key"),
        ({"mine": {"net_name": "f", "update": 1}}, "mine: update: not a name for a key"),
        ({"mine": {"net_name": "f", "a b": 1}}, "mine: a b: not a name for a key"),
        (
            {"mine": {"net_name": "f", "width": {"a": 1}}},
            "mine: width: expected a number, a text, true, false, null, or",
        ),
        ({"mine": {"net_name": "f", "width": [[1]]}}, "mine: width: expected a number, a text, true, false, null, or"),
        (
            f'{{"mine": {{"net_name": "f", "width": {"[" * 900}{"]" * 900}}}}}',
            "mine: width: expected a number, a text, ",
        ),
        (f'{{"mine": {{"net_name": "f", "net_blocks": {"[" * 900}{"]" * 900}}}}}', "mine: net_blocks is [[["),
        (
            {"mine": {"net_name": "f", "fp16": True}},
            "mine: fp16 is true: not supported: dtype bfloat16 trains with half of the bits",
        ),
        ({"mine": {"net_name": "f", "memonger": 1}}, "mine: memonger is 1: not supported: for less memory"),
        (" " * (1 << 20) + "{}", "1,048,578 bytes are too many"),
        ({"r50": {"net_name": "f"}}, "r50 is a network of config.py; choose another name"),
    ],
)
def test_file_of_networks_is_refused_in_one_line(tmp_path, entries, complaint):
    file = write_networks(tmp_path, entries)
    if entries == "\xff":
        Path(file).write_bytes(b"\xff\xff")
        complaint = "not a JSON file: "
    with refused(path=file) as caught:
        families.configure(Names("d63", "emore", "arcface"), networks_file=file)
    assert caught.value.reason.startswith(complaint) and "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["pipe", "device"])
def test_a_file_of_networks_that_may_never_end_is_not_opened(tmp_path, kind):
    path = "/dev/zero"
    if kind == "pipe":
        path = str(tmp_path / "networks.json")
        os.mkfifo(path)
    with refused("pipe or a device", path=path):
        families.configure(Names("d63", "emore", "arcface"), networks_file=path)


def test_keys_of_a_networks_own_file_are_set_by_the_type_of_their_value(tmp_path):
    file = write_networks(tmp_path, {"mine": {"net_name": "f", "widths": [1, 2], "wide": True, "name": "a"}})
    names = Names("mine", "emore", "arcface")
    spec = families.configure(names, ["widths=3,4,5", "wide=false", "name=b"], networks_file=file)
    assert spec.by_key()["widths"] == [3, 4, 5] and spec.network.extra["wide"] is False
    for assignment in ("widths=a", "wide=2", "wid=1"):
        with pytest.raises(InputError) as caught:
            families.configure(names, [assignment], networks_file=file)
        assert caught.value.option == "set"
