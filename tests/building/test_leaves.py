"""A config's values by their full keys, in order."""

from building.leaves import leaves

CONFIG = {"task": {"model": {"cell": "gru"}, "parts": {}}, "folds": {1: [2]}, "seed": 1}


def test_an_empty_mapping_is_a_value_where_it_says_something() -> None:
    keys = {"task.model.cell": "gru", "task.parts": {}, "folds.1": [2], "seed": 1}
    assert list(leaves(CONFIG)) == list(keys.items())
    keys.pop("task.parts")
    assert list(leaves(CONFIG, empty=False)) == list(keys.items())
    assert list(leaves({}, empty=False)) == []
