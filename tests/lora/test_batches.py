"""lensd.lora.batches: batches depend on key and size alone."""

from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from lensd.lora import batches


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, batches.ELEMENTS * 2))))
def test_batches_contain_each_item_once_and_stay_within_the_limit(
    items: list[tuple[str, int]],
) -> None:
    """Items keep their order, a large item has its own batch, no two batches fit in one."""
    found = batches.batches(items, lambda i: i[0], lambda i: i[1])
    assert sorted(i for batch in found for i in batch) == sorted(items)
    for kind in "abc":
        own = [i for batch in found for i in batch if i[0] == kind]
        assert own == [i for i in items if i[0] == kind]
    for batch in found:
        assert len({kind for kind, _ in batch}) == 1
        assert len(batch) == 1 or sum(size for _, size in batch) <= batches.ELEMENTS
    for first, second in itertools.pairwise(found):
        if first[0][0] == second[0][0]:
            assert sum(size for _, size in first) + second[0][1] > batches.ELEMENTS
