"""Sets of texts by their digests, and what a job finds out with them."""

from __future__ import annotations

import numpy as np

from factory.store.digests import DigestSet, digests, pairs


def test_a_set_of_digests_answers_as_a_set_of_texts_does() -> None:
    texts = [f"text {number}" for number in range(0, 2000, 2)]
    known = DigestSet([digests(texts[:700]), digests(texts[300:]), digests([])])
    asked = [f"text {number}" for number in range(2000)]
    assert len(known) == 1000
    assert known.hold(digests(asked)).tolist() == [text in set(texts) for text in asked]
    assert not DigestSet().hold(digests(asked)).any() and DigestSet().hold(digests([])).shape == (0,)
    assert known._sorted.nbytes == 16 * 1000


def test_pairs_are_told_apart_and_names_may_hold_anything() -> None:
    left, right = digests(pairs(["a", "ab"], ["bc", "c"]))
    assert left != right
    assert len(np.unique(digests(["", "\ud800", "\0", "\0\0", "é", "e\u0301"]))) == 6
