"""A reranker's pairs go through lanes and passes as texts do, and keep where their second text starts."""

from __future__ import annotations

import numpy as np
import pytest

from deployments.core.batch import TokenBatch
from deployments.core.errors import Overloaded
from deployments.core.lane import Lane
from tests.support.batching import PATIENCE_S, hold, working
from tests.support.fake_engine import FakeEngine

POISON = 666


class Splits(FakeEngine):
    """Gives a pair the place where its second text starts."""

    def forward(self, batch):
        super().forward(batch)
        return np.float32(batch.known_prompts[:, 1:])


def pairs(*splits, first=1):
    ids = TokenBatch.from_lists([[first] * (split + 2) for split in splits])
    prompts = np.array([(1, split) for split in splits], np.int32)
    return TokenBatch(ids.ids, ids.lengths, prompts)


def logits(future):
    return future.result(PATIENCE_S).vectors[:, 0].tolist()


@pytest.mark.parametrize("lane", Lane)
def test_each_pair_gets_its_own_logit(lane):
    engine = Splits(1)
    with working(engine, budget=32) as batcher:
        calls = [batcher.submit(pairs(*splits), lane, 1e6) for splits in ([5, 2, 9], [7], [1, 3])]
        bare = batcher.submit(TokenBatch.from_lists([[1, 2]]), lane, 1e6)
        assert [logits(call) for call in calls] == [[5, 2, 9], [7], [1, 3]]
        assert logits(bare) == [0]


def test_a_pair_that_fails_does_so_alone():
    with working(Splits(1, poison=POISON), budget=64) as batcher:
        good, bad = pairs(4, 2), pairs(3, first=POISON)
        encoded = batcher.submit(
            TokenBatch.concatenate([good, bad, pairs(6)]), Lane.ONLINE, 1e6
        ).result(PATIENCE_S)
    assert set(encoded.errors) == {2}
    assert encoded.errors[2].code == "text_failed"
    assert encoded.vectors[[0, 1, 3], 0].tolist() == [4, 2, 6]


def test_pairs_that_do_not_fit_in_memory_together_are_split():
    engine = Splits(1, room=14)
    with working(engine, budget=64) as batcher:
        assert logits(batcher.submit(pairs(4, 2, 5, 3, 1), Lane.ONLINE, 1e6)) == [4, 2, 5, 3, 1]
    assert engine.freed
    assert max(map(len, engine.passes)) == 5


def test_a_full_lane_refuses_pairs_as_it_does_texts():
    engine = Splits(1)
    with working(engine, budget=16, max_wait_s=0.001) as batcher:
        running = hold(batcher, engine)
        # 64 of 4 × 16 tokens
        waiting = [batcher.submit(pairs(6), Lane.ONLINE, 1e6) for _ in range(8)]
        with pytest.raises(Overloaded) as refused:
            batcher.submit(pairs(6), Lane.ONLINE, 1e6)
        engine.release.set()
        assert logits(running) == [0]
        assert [logits(call) for call in waiting] == [[6]] * 8
    assert (refused.value.status, refused.value.code) == (429, "overloaded")
    assert refused.value.retry_after_s > 0
