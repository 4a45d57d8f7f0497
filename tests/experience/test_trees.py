"""States as tensors and JSON: what goes in comes out, and what cannot is refused by its place."""

import json

import numpy as np
import pytest
import torch

from tutelage.experience.trees import pack, unpack


def there_and_back(tree):
    tensors, text = pack(tree)
    json.loads(text)
    return unpack(tensors, text)


def test_everything_comes_back_as_it_was():
    tree = {
        "tensors": {
            "bool": torch.tensor([True, False]),
            "bytes": torch.arange(5, dtype=torch.uint8),
            "double": torch.tensor(0.1, dtype=torch.float64),
            "empty": torch.zeros(0, 3),
            "strided": torch.arange(12.0).view(3, 4).T,
        },
        "numbers": [0.1, -0.0, 1e-310, float("inf"), 2**127 - 1, -7, True, None],
        "text": 'é "quoted"\n',
        "": {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}, "a~1b": torch.full((1,), 2.0)},
        "deep": [[{"x": [torch.ones(2)]}]],
    }
    back = there_and_back(tree)
    for name, tensor in tree["tensors"].items():
        assert back["tensors"][name].dtype == tensor.dtype and torch.equal(back["tensors"][name], tensor)
        assert back["tensors"][name].is_contiguous()
    assert str(back["numbers"]) == str(tree["numbers"]) and back["text"] == tree["text"]  # as text, for -0.0 == 0.0
    assert [float(back[""][key]) for key in ("a/b", "a~1b")] == [1.0, 2.0] and float(back[""]["a"]["b"]) == 0.0
    assert torch.equal(back["deep"][0][0]["x"][0], torch.ones(2))


def test_a_saved_tensor_no_longer_follows_the_live_one():
    live = torch.zeros(3)
    tensors, text = pack({"x": live})
    live += 1.0
    assert torch.equal(unpack(tensors, text)["x"], torch.zeros(3))


def test_arrays_of_numpy_come_back_as_tensors_and_tuples_as_lists():
    read_only = np.arange(3.0)
    read_only.flags.writeable = False
    back = there_and_back({"a": np.arange(4)[::-1], "b": read_only, "c": np.float32(0.1), "d": (1, 2)})
    assert back["a"].tolist() == [3, 2, 1, 0] and back["b"].tolist() == [0.0, 1.0, 2.0]
    assert np.float32(back["c"]) == np.float32(0.1) and back["d"] == [1, 2]


@pytest.mark.parametrize(
    ("tree", "sentence"),
    [
        ({"a": [0, {"b": {1, 2}}]}, "a state holds a set at /a/1/b; tensors, numbers, strings, dicts and lists can be saved"),
        (object(), "a state holds a object at its root"),
        ({"when": np.datetime64("2026-01-01")}, "a state holds a date at /when"),
        ({"a": {1: 2}}, "a state has the key 1 at /a; strings other than '$tensor' can be saved"),
        ({"$tensor": "x"}, "a state has the key '[$]tensor' at its root"),
    ],
)
def test_what_cannot_be_saved_is_named_with_its_place(tree, sentence):
    with pytest.raises(TypeError, match=sentence.replace("$tensor'", "[$]tensor'") if "[$]" not in sentence else sentence):
        pack(tree)


@pytest.mark.parametrize("text", ['{"$tensor": "/x"}', '{"$tensor": 3}', '{"$tensor": [1]}', "[", "", "[" * 100_000])
def test_a_text_that_no_state_gave_is_refused_with_a_usual_error(text):
    with pytest.raises((KeyError, TypeError, ValueError, RecursionError)):
        unpack({}, text)
