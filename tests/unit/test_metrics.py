"""One page of metrics out of every node's."""

from __future__ import annotations

import asyncio

import pytest

from deployments import metrics
from deployments.core.tenants.usage import Counts
from deployments.metrics import ClusterMetrics, TenantMetrics, merge_pages, scrape_cluster

HELP = (
    "# HELP ray_embedfleet_texts_total Texts computed\n# TYPE ray_embedfleet_texts_total counter\n"
)
OURS = HELP.replace("ray_", "")
FOREIGN = '# HELP ray_tasks Tasks\n# TYPE ray_tasks gauge\nray_tasks{model="ray_embedfleet_x"} 7\n'
HISTOGRAM = """# HELP ray_embedfleet_forward_seconds Time of a forward pass
# TYPE ray_embedfleet_forward_seconds histogram
ray_embedfleet_forward_seconds_bucket{le="0.1"} 1
ray_embedfleet_forward_seconds_bucket{le="+Inf"} 2
ray_embedfleet_forward_seconds_count 2
ray_embedfleet_forward_seconds_sum 0.3
"""


def sample(node, value):
    return f'ray_embedfleet_texts_total{{node="{node}"}} {value}\n'


def test_no_pages():
    assert merge_pages([]) == ""
    assert merge_pages(["", "\n"]) == ""


def test_a_family_is_described_once_and_has_every_nodes_samples():
    pages = [HELP + sample("a", 1.0), HELP + sample("b", 2.0) + sample("c", 3.0)]
    samples = "".join(sample(*pair) for pair in (("a", 1.0), ("b", 2.0), ("c", 3.0)))
    assert merge_pages(pages) == OURS + samples.replace("ray_", "")


def test_rays_own_metrics_are_left_out():
    page = FOREIGN + HELP + sample("a", 1.0) + FOREIGN
    assert merge_pages([page, FOREIGN]) == OURS + sample("a", 1.0).replace("ray_", "")


def test_the_lines_of_a_histogram_stay_together():
    merged = merge_pages([HISTOGRAM + HELP + sample("a", 1.0), HELP + HISTOGRAM])
    bare = HISTOGRAM.replace("ray_", "")
    samples = "".join(line + "\n" for line in bare.splitlines() if line[0] != "#")
    assert bare + samples in merged


def test_a_node_that_did_not_answer_is_an_empty_page():
    assert merge_pages(["", HELP + sample("a", 1.0)]).endswith("1.0\n")


@pytest.mark.parametrize(
    ("labels", "kept"),
    [
        ('Component="core_worker",SessionName="s",Version="2",model="m"', 'model="m"'),
        ('model="m",Version="2"', 'model="m",'),
        ('lane="online",Component="x",model="m"', 'lane="online",model="m"'),
        ('MyComponent="x",model="Version=2"', 'MyComponent="x",model="Version=2"'),
    ],
)
def test_labels_of_rays_own_making_are_left_out(labels, kept):
    page = f"{HELP}ray_embedfleet_texts_total{{{labels}}} 1.0\n"
    assert merge_pages([page]) == f"{OURS}embedfleet_texts_total{{{kept}}} 1.0\n"


def test_what_is_no_metric_is_left_out():
    page = "# EOF\n#\n# a remark\nInternal Server Error\n" + HELP + sample("a", 1.0) + "# EOF\n"
    assert merge_pages([page]) == OURS + sample("a", 1.0).replace("ray_", "")


async def test_those_who_ask_at_once_share_one_gathering():
    gathered = []

    async def gather():
        gathered.append(None)
        await asyncio.sleep(0.01)
        return f"page {len(gathered)}"

    metrics = ClusterMetrics(gather)
    leaves = asyncio.create_task(metrics.page())
    await asyncio.sleep(0)
    leaves.cancel()
    assert await asyncio.gather(metrics.page(), metrics.page()) == ["page 1"] * 2
    assert await metrics.page() == "page 2"


async def test_a_gathering_that_failed_is_not_kept():
    answers = [OSError("no"), "page"]

    async def gather():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    metrics = ClusterMetrics(gather)
    with pytest.raises(OSError, match="no"):
        await metrics.page()
    assert await metrics.page() == "page"


async def test_a_scrape_loads_no_certificates(monkeypatch):
    """The router would answer nobody meanwhile."""
    monkeypatch.setattr("ray.nodes", list)
    monkeypatch.setattr("ssl.create_default_context", lambda *_, **__: pytest.fail("it does"))
    assert await scrape_cluster() == ""


def test_what_a_tenant_has_used(monkeypatch):
    recorded = []

    class Recorder:
        def __init__(self, name, *tags):
            self.name = name

        def inc(self, value, tags):
            assert value > 0, "Ray refuses to add nothing"
            recorded.append((self.name, value, tags))

    monkeypatch.setattr(metrics, "_counter", lambda name, text, *tags: Recorder(name, *tags))
    TenantMetrics().used("search", "m", Counts(2, 30))
    TenantMetrics().used("search", "", Counts(refusals=1))
    tags = {"tenant": "search", "model": "m"}
    assert recorded == [
        ("tenant_requests_total", 2, tags),
        ("tenant_tokens_total", 30, tags),
        ("tenant_refusals_total", 1, {"tenant": "search", "model": "none"}),
    ]
