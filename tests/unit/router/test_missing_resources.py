"""The resources that a replica asks of a node, and whether any node has them."""

from __future__ import annotations

import pytest

from deployments.config.schema import ModelConfig
from deployments.router.fleet import missing_resources, replica_resources

A100 = "accelerator_type:A100"


def config(**fields):
    return ModelConfig(name="all-MiniLM-L6-v2", **fields)


def node(alive=True, **resources):
    return {"Alive": alive, "Resources": resources}


@pytest.mark.parametrize(
    ("fields", "wanted"),
    [
        ({}, {"CPU": 1}),
        ({"num_cpus": 0}, {}),
        ({"num_cpus": 0.5, "num_gpus": 1}, {"CPU": 0.5, "GPU": 1}),
        ({"resources": {"disk": 2, "none": 0}}, {"CPU": 1, "disk": 2}),
        ({"num_gpus": 1, "accelerator_type": "A100"}, {"CPU": 1, "GPU": 1, A100: 0.001}),
    ],
)
def test_resources_of_a_replica_by_rays_names(fields, wanted):
    assert replica_resources(config(**fields)) == wanted


@pytest.mark.parametrize(
    ("fields", "nodes"),
    [
        ({}, [node(CPU=1)]),
        ({}, [node(CPU=0), node(CPU=8)]),
        ({"num_cpus": 0}, [node()]),
        ({"num_gpus": 1}, [node(CPU=8), node(CPU=1, GPU=1)]),
        ({"accelerator_type": "A100"}, [node(CPU=1, **{A100: 1})]),
        ({"resources": {"disk": 2}}, [node(CPU=1, disk=2)]),
    ],
)
def test_some_node_could_hold_it(fields, nodes):
    assert missing_resources(config(**fields), nodes) is None


@pytest.mark.parametrize(
    ("fields", "nodes", "why"),
    [
        ({}, [], "a replica needs 1 CPU; no node of the cluster has CPU"),
        ({}, [node(alive=False, CPU=8)], "a replica needs 1 CPU; no node of the cluster has CPU"),
        ({"num_gpus": 1}, [node(CPU=8)], "needs 1 CPU, 1 GPU; no node of the cluster has GPU"),
        (
            {"resources": {"disk": 2}},
            [node(CPU=8, disk=1)],
            "1 CPU, 2 disk; no node of the cluster has more than 1 disk",
        ),
        (
            {"num_cpus": 9, "num_gpus": 1},
            [node(CPU=8)],
            "no node of the cluster has more than 8 CPU and GPU",
        ),
        ({"num_gpus": 1}, [node(CPU=8), node(GPU=1)], "has all of that at once"),
        ({"num_gpus": 0.5, "accelerator_type": "A100"}, [node(CPU=8, GPU=1)], f"has {A100}"),
    ],
)
def test_no_node_could_hold_it(fields, nodes, why):
    assert missing_resources(config(**fields), nodes).endswith(why)


@pytest.mark.parametrize(
    ("selector", "why"),
    [
        ({"gpu": "h200"}, None),
        ({"gpu": "in(h100,h200)"}, None),
        ({"gpu": "!h100"}, None),
        ({"gpu": "h100"}, "no node of the cluster has these labels"),
        ({"gpu": "!h200"}, "no node of the cluster has these labels"),
    ],
)
def test_only_nodes_with_the_labels_count(selector, why):
    nodes = [{**node(CPU=8, GPU=1), "Labels": {"gpu": "h200"}}, node(alive=False, CPU=8, GPU=1)]
    missing = missing_resources(config(num_gpus=1, label_selector=selector), nodes)
    assert missing is None if why is None else why in missing


def test_resources_of_nodes_without_the_labels_do_not_count():
    nodes = [{**node(CPU=8), "Labels": {"gpu": "h200"}}, node(CPU=8, GPU=1)]
    missing = missing_resources(config(num_gpus=1, label_selector={"gpu": "h200"}), nodes)
    assert "the labels {'gpu': 'h200'}; no node of the cluster has GPU" in missing
