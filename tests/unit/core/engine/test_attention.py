"""Attention in blocks is attention of each text alone, whatever stands beside it."""

from __future__ import annotations

import math
from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import BertConfig, MistralConfig

from deployments.core.engine import attention
from deployments.core.engine.attention import (
    Rule,
    attend_in_blocks,
    attend_in_windows,
    can_fuse,
    head_width,
)
from deployments.core.engine.layout import Layout

CPU = torch.device("cpu")
WIDTH = 8
LENGTHS = st.lists(st.integers(1, 130), min_size=1, max_size=12).map(
    lambda lengths: sorted(lengths, reverse=True)
)
SHORT = st.lists(st.integers(1, 16), min_size=2, max_size=40).map(
    lambda lengths: sorted(lengths, reverse=True)
)


def states_of(tokens: int, heads: int) -> torch.Tensor:
    torch.manual_seed(tokens)
    return torch.randn(tokens, heads, WIDTH)


def alone(states: torch.Tensor, key_heads: int, causal: bool, back: int) -> torch.Tensor:
    """The attention of one text ``(tokens, heads, width)``, written out."""
    query, key, value = states.transpose(0, 1).split(
        [states.shape[1] - 2 * key_heads, key_heads, key_heads]
    )
    seen = torch.ones(len(states), len(states), dtype=torch.bool)
    if causal:
        seen = seen.tril()
    if back >= 0:
        seen = seen.triu(-back) & (seen.tril(0 if causal else back))
    actual = F.scaled_dot_product_attention(
        query[None], key[None], value[None], attn_mask=seen, enable_gqa=True
    )
    return actual[0].transpose(0, 1)


def check(lengths: list[int], heads: int, key_heads: int, rule: Rule, behind: int = 0) -> None:
    states = states_of(sum(lengths) + behind, heads)
    layout = Layout(lengths, CPU, torch.float32, rule.causal)
    if rule.back < 0:
        actual = attend_in_blocks(states, key_heads, layout.groups, rule)
    else:
        actual = attend_in_windows(states, key_heads, layout, rule)
    texts = states[: sum(lengths)].split(lengths)
    expected = torch.cat([alone(text, key_heads, rule.causal, rule.back) for text in texts])
    torch.testing.assert_close(actual[: sum(lengths)], expected, rtol=1e-4, atol=1e-5)
    assert actual[sum(lengths) :].count_nonzero() == 0


@given(LENGTHS | SHORT, st.integers(0, 20))
def test_both_ways(lengths, behind):
    check(lengths, 6, 2, Rule(), behind)


@settings(max_examples=40)
@given(LENGTHS | SHORT)
def test_causal_with_shared_key_heads(lengths):
    check(lengths, 4 + 2, 1, Rule(causal=True))


@settings(max_examples=20)
@given(LENGTHS, st.sampled_from([1, 5, 100]))
def test_causal_within_a_window(lengths, back):
    check(lengths, 6, 2, Rule(causal=True, back=back))


@settings(max_examples=20)
@given(LENGTHS | SHORT, st.sampled_from([1, 5, 100]), st.integers(0, 20))
def test_both_ways_within_a_window(lengths, back, behind):
    check(lengths, 6, 2, Rule(back=back), behind)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("lengths", [[1_300, 513, 512, 3], [1_024, 1_024]])
def test_texts_of_several_chunks(lengths, causal):
    check(lengths, 6, 2, Rule(causal, back=16))


def test_the_layers_of_a_pass_share_the_masks_of_their_windows():
    layout = Layout([300, 20], CPU, torch.float32, causal=False)
    first, again = (layout.windows(0, 16) for _ in range(2))
    assert first is again
    assert layout.windows(0, 8) is not first
    check([300, 20], 6, 2, Rule(back=16))


@settings(max_examples=20)
@given(LENGTHS | SHORT)
def test_a_bias_by_distance(lengths):
    distances = torch.arange(160)[None, :] - torch.arange(160)[:, None]
    bias = torch.stack([distances.float().abs() / -50, distances.float() / 70])[None]
    states = states_of(sum(lengths), 6)
    groups = Layout(lengths, CPU, torch.float32, causal=False).groups
    actual = attend_in_blocks(states, 2, groups, Rule(bias=bias))
    for text, own in zip(states.split(lengths), actual.split(lengths), strict=True):
        query, key, value = text.transpose(0, 1).split(2)
        mask = bias[0, :, : len(text), : len(text)]
        expected = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        torch.testing.assert_close(own, expected.transpose(0, 1), rtol=1e-4, atol=1e-5)


class Layer(torch.nn.Module):
    is_causal = True


@pytest.mark.parametrize("is_causal", [None, True, False])
def test_the_direction_that_is_passed_overrides_the_layer_s(is_causal):
    query, key, value = states_of(9, 6).transpose(0, 1)[None].split(2, dim=1)
    causal = is_causal is not False
    layout = Layout([9], CPU, torch.float32, causal)
    actual, _ = attention.attend(
        Layer(), query, key, value, None, layout=layout, is_causal=is_causal
    )
    expected = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
    torch.testing.assert_close(actual, expected.transpose(1, 2), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "lengths", [[16] * 4, [32] * 3, [8] * 4, [48], [33], [1], [64, 64, 16, 16]]
)
def test_blocks_that_are_just_full(lengths):
    check(lengths, 6, 2, Rule())


@given(LENGTHS | SHORT)
def test_a_block_costs_little_more_than_its_texts(lengths):
    groups = Layout(lengths, CPU, torch.float32, causal=False).groups
    ends = list(accumulate(lengths))
    assert [g.stop for g in groups[:-1]] == [g.start for g in groups[1:]]
    assert (groups[0].start, groups[-1].stop) == (0, ends[-1])
    assert len(groups) <= 9, "each group is a call of its own"
    for group in groups:
        texts = sum(group.start < end <= group.stop for end in ends)
        if group.length > 32:
            assert group.blocks * group.length < 2 * (group.stop - group.start)
        assert group.blocks <= texts


@given(SHORT)
def test_very_short_texts_share_blocks(lengths):
    (group,) = Layout(lengths, CPU, torch.float32, causal=False).groups
    assert group.blocks == math.ceil(len(lengths) / (32 // lengths[0]))


@pytest.mark.parametrize(
    ("device", "dtype", "width", "capability", "can"),
    [
        ("cuda", torch.bfloat16, 64, (9, 0), True),
        ("cuda", torch.float16, 256, (8, 0), True),
        ("cuda", torch.float32, 64, (9, 0), False),
        ("cuda", torch.bfloat16, 26, (9, 0), False),  # TinyBERT's
        ("cuda", torch.bfloat16, 264, (9, 0), False),
        ("cuda", torch.float16, 64, (7, 5), False),
        ("cpu", torch.bfloat16, 64, (9, 0), False),
    ],
)
def test_where_attention_is_one_operator(monkeypatch, device, dtype, width, capability, can):
    monkeypatch.setattr(attention, "_capability", lambda _: capability)
    assert can_fuse(torch.device(device), dtype, width) is can


@pytest.mark.parametrize(
    ("config", "width"),
    [
        (BertConfig(hidden_size=384, num_attention_heads=12), 32),
        (MistralConfig(hidden_size=4096, num_attention_heads=32, head_dim=128), 128),
        (MistralConfig(hidden_size=512, num_attention_heads=8, head_dim=32), 32),
    ],
)
def test_the_width_of_a_head(config, width):
    assert head_width(config) == width
