"""Maps over states: whatever the nesting, every leaf is treated alike."""

import pytest
import torch

from models.state import detach, leaves, map_state, repeat_rows, select_rows, where_rows

FLAT = torch.arange(6.0).view(3, 2)
NESTED = (FLAT, (FLAT + 10, torch.arange(12.0).view(3, 2, 2)), (torch.zeros(3, 0),))


@pytest.mark.parametrize("state", [FLAT, NESTED], ids=["tensor", "nested"])
def test_maps_keep_the_structure(state) -> None:
    doubled = map_state(lambda a, b: a + b, state, state)
    assert type(doubled) is type(state)
    for one, two in zip(leaves(state), leaves(doubled), strict=True):
        assert torch.equal(two, 2 * one)


def test_leaves_come_left_to_right() -> None:
    assert [tuple(leaf.shape) for leaf in leaves(NESTED)] == [(3, 2), (3, 2), (3, 2, 2), (3, 0)]
    assert leaves(()) == []


def test_rows_are_selected_and_repeated_in_every_leaf() -> None:
    for leaf, selected in zip(
        leaves(NESTED), leaves(select_rows(NESTED, torch.tensor([2, 0]))), strict=True
    ):
        assert torch.equal(selected, leaf[[2, 0]])
    for leaf, repeated in zip(leaves(NESTED), leaves(repeat_rows(NESTED, 2)), strict=True):
        assert torch.equal(repeated, leaf[[0, 0, 1, 1, 2, 2]])


def test_rows_are_chosen_by_a_condition() -> None:
    condition = torch.tensor([True, False, True])
    other = map_state(lambda leaf: leaf - 100, NESTED)
    for yes, no, chosen in zip(
        leaves(NESTED), leaves(other), leaves(where_rows(condition, NESTED, other)), strict=True
    ):
        assert torch.equal(chosen[[0, 2]], yes[[0, 2]]) and torch.equal(chosen[1], no[1])


def test_detaching_cuts_every_leaf() -> None:
    state = map_state(lambda leaf: leaf.clone().requires_grad_(), NESTED)
    assert not any(leaf.requires_grad for leaf in leaves(detach(state)))


def test_states_of_another_structure_are_refused() -> None:
    with pytest.raises(ValueError):
        map_state(torch.add, (FLAT, FLAT), (FLAT,))
