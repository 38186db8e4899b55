"""Names that nothing else has."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from cimc.ir.names import Names


def test_a_free_wish_is_granted_and_a_taken_one_numbered() -> None:
    names = Names(["fc", "fc_2", None, ""])
    assert [names.fresh(wish) for wish in ("fc", "fc", "conv", "conv")] == ["fc_3", "fc_4", "conv", "conv_2"]


def test_numbers_have_a_sign_and_a_start_of_their_own() -> None:
    names = Names(["Relu_1"], first=0)
    assert [names.fresh("Relu", numbered=True) for _ in range(3)] == ["Relu_0", "Relu_2", "Relu_3"]
    assert Names(["a"], sign=".", first=0).fresh("a") == "a.0"


def test_names_may_differ_in_more_than_case() -> None:
    """As names of files on some systems."""
    names = Names(key=str.lower)
    assert [names.fresh(wish) for wish in ("FC", "fc", "Fc_2")] == ["FC", "fc_2", "Fc_2_2"]


@given(
    st.lists(st.sampled_from(["a", "a_2", "a_2_2", "b", "b_3"]), max_size=8),
    st.lists(st.sampled_from(["a", "a_2", "b", "b_2"]), max_size=30),
)
def test_each_is_what_a_search_from_the_first_number_finds(taken: list[str], wishes: list[str]) -> None:
    """Remembered numbers change nothing."""
    names, known = Names(taken), set(taken)
    for wish in wishes:
        plain, number = wish, 1
        while plain in known:
            number += 1
            plain = f"{wish}_{number}"
        known.add(plain)
        assert names.fresh(wish) == plain
