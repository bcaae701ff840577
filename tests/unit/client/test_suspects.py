"""Who is suspected after a death, who is blocked, and for how long."""

from __future__ import annotations

from deployments.client.poison import Suspects, Suspicion, fingerprint
from deployments.core.batch import TokenBatch

NONE, SUSPECTED, BLOCKED = Suspicion


def test_one_death_makes_suspects_and_a_trial_settles_it():
    suspects = Suspects()
    suspects.suspect(["a", "b", "c"], 0.0)
    suspects.block("b", 1.0)
    suspects.clear(["c"])
    assert [suspects.suspicion(t, 2.0) for t in "abcd"] == [SUSPECTED, BLOCKED, NONE, NONE]


def test_another_death_nearby_does_not_bring_a_blocked_text_back():
    suspects = Suspects()
    suspects.block("a", 0.0)
    suspects.suspect(["a"], 1.0)
    assert suspects.suspicion("a", 2.0) is BLOCKED


def test_it_forgets_after_a_while_and_is_empty_then():
    suspects = Suspects(keep_s=10.0)
    suspects.block("a", 0.0)
    assert suspects.suspicion("a", 10.0) is BLOCKED
    assert not suspects.is_empty(10.0)
    assert suspects.suspicion("a", 10.1) is NONE
    assert suspects.is_empty(10.1)


def test_it_is_empty_again_also_where_nobody_asks_about_the_text():
    suspects = Suspects(keep_s=10.0)
    suspects.suspect("ab", 0.0)
    suspects.block("a", 5.0)
    assert not suspects.is_empty(10.1)
    assert suspects.is_empty(15.1)


def test_it_is_bounded_and_forgets_the_oldest_first():
    suspects = Suspects(most=3)
    suspects.suspect("abc", 0.0)
    suspects.block("a", 1.0)
    suspects.suspect("d", 2.0)
    assert [suspects.suspicion(t, 3.0) for t in "abcd"] == [BLOCKED, NONE, SUSPECTED, SUSPECTED]


def test_a_text_is_known_by_its_ids_wherever_it_stands():
    one, two = TokenBatch.from_lists([[1, 2], [3]]), TokenBatch.from_lists([[1], [2, 3], [3]])
    assert fingerprint(one, 1) == fingerprint(two, 2)
    assert len({fingerprint(b, r) for b in (one, two) for r in range(len(b))}) == 4
