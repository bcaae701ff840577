"""Passes of fixed shapes, on the CPU, with a recorder that is like a GPU's in what matters here.

It does the same again with what its inputs hold by then, into one tensor, and in memory that all
recordings share. Whether a GPU records is compared with the plain pass there, when a model loads.
"""

from __future__ import annotations

import logging
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AttentionInterface, AutoModel, BertConfig, MistralConfig

from deployments.core.engine.cuda.graphs import MOST_TEXTS, SIZES, GraphedNetwork, Recorder
from deployments.core.engine.layout import Layout

CPU = torch.device("cpu")
MAX_TOKENS = 300
SIZE = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "vocab_size": 50,
    "max_position_embeddings": MAX_TOKENS,
    "initializer_range": 0.5,
}
CONFIGS = [BertConfig(**SIZE), MistralConfig(**SIZE, num_key_value_heads=1)]
TEXTS = st.lists(st.integers(1, 40), min_size=1, max_size=16).map(
    lambda lengths: sorted(lengths, reverse=True)
)


def attend_by_ends(module, query, key, value, attention_mask, layout=None, **_):
    """Reads of a layout what the fused kernel reads; leaves rows that belong to no text undefined."""
    actual = torch.full_like(query, torch.nan)
    assert int(layout.ends.diff().max()) <= layout.longest
    for start, stop in pairwise(layout.ends.tolist()):
        own = (states[:, :, start:stop] for states in (query, key, value))
        causal = bool(module.is_causal)
        actual[:, :, start:stop] = F.scaled_dot_product_attention(
            *own, is_causal=causal, enable_gqa=True
        )
    return actual.transpose(1, 2), None


AttentionInterface.register("by_ends", attend_by_ends)


def like_a_gpu(seconds=lambda run: 1.0):
    """A recorder; by default a recorded pass is as fast as a plain one."""
    memory = {}

    def record(run):
        shape = run().shape
        shared = memory.setdefault("all", torch.empty(max(SIZES), shape[1]))[: shape[0]]
        return lambda: shared.copy_(run())

    return Recorder(record, seconds)


def network_of(config):
    torch.manual_seed(0)
    model = AutoModel.from_config(config, attn_implementation="by_ends").eval()
    model.config.use_cache = False
    seen = []

    def network(ids, positions, layout):
        seen.append(len(ids))
        return model(
            input_ids=ids[None], position_ids=positions[None], layout=layout
        ).last_hidden_state[0]

    return network, seen


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda config: config.model_type)
def both(request):
    """A network, plain and with fixed passes."""
    network, seen = network_of(request.param)
    return network, GraphedNetwork(network, MAX_TOKENS, CPU, like_a_gpu()), seen


def inputs(lengths, size):
    torch.manual_seed(sum(lengths))
    ids = torch.zeros(2, size, dtype=torch.int64)
    ids[0, : sum(lengths)] = torch.randint(1, 50, (sum(lengths),))
    ids[1, : sum(lengths)] = torch.cat([torch.arange(n) for n in lengths])
    return *ids, Layout(lengths, CPU, torch.float32, causal=False)


@settings(deadline=None, max_examples=25)
@given(TEXTS)
def test_any_texts_get_the_states_of_the_plain_pass(both, lengths):
    network, graphed, _ = both
    real = sum(lengths)
    with torch.inference_mode():
        expected = network(*inputs(lengths, real))
        actual = graphed(*inputs(lengths, graphed.rounded(real)))
    torch.testing.assert_close(actual[:real], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("tokens", "rounded"), [(1, 16), (16, 16), (17, 32), (300, 384), (512, 512), (513, 513)]
)
def test_a_short_pass_is_filled_up(both, tokens, rounded):
    assert both[1].rounded(tokens) == rounded


def test_an_earlier_answer_stays_as_it_was(both):
    with torch.inference_mode():
        first = both[1](*inputs([20, 5], 32))
        before = first.clone()
        both[1](*inputs([9, 8, 7], 32))
    assert torch.equal(first[:25], before[:25])


@pytest.mark.parametrize(
    "lengths", [[1] * MOST_TEXTS, [2] * MOST_TEXTS, [32, 32], [512 - 300, 300]]
)
def test_a_pass_that_is_full(both, lengths):
    lengths = sorted(lengths, reverse=True)
    network, graphed, _ = both
    call = inputs(lengths, sum(lengths))
    with torch.inference_mode():
        actual, expected = graphed(*call), network(*call)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)


def test_many_texts_and_long_passes_are_plain(both):
    _, graphed, seen = both
    seen.clear()
    with torch.inference_mode():
        graphed(*inputs([2] * (MOST_TEXTS + 1), 192))
        graphed(*inputs([300, 300], 600))
    assert seen == [192, 600]


def test_threads_do_not_mix_their_texts(both):
    network, graphed, _ = both
    calls = [inputs([number + 2, 2], 32) for number in range(24)]
    with torch.inference_mode():
        expected = [network(*call) for call in calls]

    def run(number):
        with torch.inference_mode():
            return [graphed(*calls[number]) for _ in range(5)]

    with ThreadPoolExecutor(4) as pool:
        for number, actual in enumerate(pool.map(run, range(len(calls)))):
            for states in actual:
                torch.testing.assert_close(
                    states[: number + 4], expected[number][: number + 4], rtol=1e-4, atol=1e-4
                )


@pytest.mark.parametrize(("factor", "told"), [(-1.0, "-1.0000"), (torch.nan, "nan")])
def test_a_pass_that_differs_stays_plain(factor, told, caplog):
    network, _ = network_of(CONFIGS[0])

    def record(run):
        wrong = len(run()) == 64
        return (lambda: factor * run()) if wrong else run

    with caplog.at_level(logging.WARNING):
        graphed = GraphedNetwork(network, MAX_TOKENS, CPU, Recorder(record, lambda run: 1.0))
    assert [graphed.rounded(tokens) for tokens in (5, 30, 60, 70)] == [16, 32, 60, 128]
    assert f"64 tokens is not recorded: it differs from the plain one, cosine {told}" in caplog.text


def test_a_pass_that_is_no_faster_stays_plain(caplog):
    network, _ = network_of(CONFIGS[0])

    def seconds(run):
        tokens = len(run())
        return {33: 0.002, 64: 0.003}.get(tokens, 0.001)

    with caplog.at_level(logging.WARNING):
        graphed = GraphedNetwork(network, MAX_TOKENS, CPU, like_a_gpu(seconds))
    assert [graphed.rounded(tokens) for tokens in (5, 30, 60, 70)] == [16, 32, 60, 128]
    assert "filled up it takes 3.00 ms, plain 2.00 ms" in caplog.text


@pytest.mark.parametrize("works_from", [1_000, 256])
def test_what_a_device_cannot_record_stays_plain(works_from, caplog):
    network, _ = network_of(CONFIGS[0])

    def record(run):
        if len(run()) < works_from:
            raise RuntimeError("operation not permitted when stream is capturing")
        return run

    with caplog.at_level(logging.WARNING):
        graphed = GraphedNetwork(network, MAX_TOKENS, CPU, Recorder(record, lambda run: 1.0))
    assert graphed.rounded(60) == 60
    assert graphed.rounded(250) == (250 if works_from > 256 else 256)
    assert caplog.text.count("are not recorded: operation not permitted") == 1
    with torch.inference_mode():
        actual = graphed(*inputs([20, 5], 25))
        assert torch.equal(actual, network(*inputs([20, 5], 25)))


@pytest.mark.parametrize("max_tokens", [1, 4, 40])
def test_no_text_of_a_trial_is_longer_than_the_model_s(max_tokens):
    longest = 0

    def network(ids, positions, layout):
        nonlocal longest
        longest = max(longest, int(positions.max()) + 1)
        return ids[:, None].float()

    GraphedNetwork(network, max_tokens, CPU, like_a_gpu())
    assert longest == max_tokens


def test_the_sizes_are_sorted():
    assert list(SIZES) == sorted(SIZES)
