"""What the manifests promise beyond their schemas; KubeRay's CRDs are in `test_kuberay_crds.py`."""

from __future__ import annotations

import re

import pytest
import yaml
from ray.serve.schema import ServeDeploySchema

from cluster.service.config_file import read_config
from cluster.service.environment import path_environment
from cluster.service.haproxy import BINARY_PATH, COMMAND
from deployments.config.schema import AppArgs
from tests.support.documents import PAGES
from tests.support.manifests import (
    FOLDER,
    GPU_CONFIG,
    ROOT,
    documents,
    find,
    pinned,
    pod_templates,
    rayservice,
)

GROUPS = pod_templates(rayservice())
EVERY_FILE = sorted(file.name for file in FOLDER.glob("*.yaml"))
WITH_PODS = ["encode_job.yaml", "rayservice.yaml", "redis.yaml"]
IMAGE = f"registry.example.com/embedfleet:0.1.0-ray{pinned('ray')}"


def gpu_args() -> AppArgs:
    (app,) = yaml.safe_load(GPU_CONFIG.read_text())["applications"]
    return AppArgs.model_validate(app["args"])


def secret_environment(container):
    """The names in a container's environment whose values are secrets."""
    return [e for e in container.get("env", ()) if re.search("KEY|TOKEN|PASSWORD|AUTH", e["name"])]


def test_kuberay_deploys_the_file():
    embedded = rayservice()["spec"]["serveConfigV2"]
    assert embedded == GPU_CONFIG.read_text(), "copy cluster/gpu_config.yaml into serveConfigV2"


@pytest.mark.parametrize("name", ["cluster/gpu_config.yaml", "serve_config.yaml"])
def test_configs_are_what_serve_and_the_app_take(name):
    assert read_config(ROOT / name).port == 8000
    config = ServeDeploySchema.model_validate(yaml.safe_load((ROOT / name).read_text()))
    assert [app.route_prefix for app in config.applications] == ["/"]


def test_every_node_is_a_way_in():
    config = yaml.safe_load(GPU_CONFIG.read_text())
    assert config["proxy_location"] == "EveryNode"
    assert read_config(GPU_CONFIG).host == "0.0.0.0"


def test_each_replica_has_a_gpu_of_its_models_type():
    for model in gpu_args().models:
        assert (model.num_gpus, model.accelerator_type is None) == (1, False), model.name
    assert len({model.accelerator_type for model in gpu_args().models}) == 2


def test_routers_outlive_a_node():
    (app,) = yaml.safe_load(GPU_CONFIG.read_text())["applications"]
    assert gpu_args().routers >= 2
    assert {"name": "router", "max_replicas_per_node": 1} in app["deployments"]


def bounds_by_type(which):
    """The sum of the models' bounds for each type of GPU."""
    actual: dict[str, int] = {}
    for model in gpu_args().models:
        kind = f"accelerator_type:{model.accelerator_type}"
        actual[kind] = actual.get(kind, 0) + getattr(model.replicas, which)
    return actual


@pytest.mark.parametrize(
    ("of_groups", "of_models"), [("maxReplicas", "max_replicas"), ("minReplicas", "min_replicas")]
)
def test_the_groups_have_the_pods_that_the_models_fill(of_groups, of_models):
    """A pod that no replica fills is never ready, and then KubeRay lets no RayJob in."""
    groups = rayservice()["spec"]["rayClusterConfig"]["workerGroupSpecs"]
    actual = {kind: g[of_groups] for g in groups for kind in g.get("resources", {})}
    assert actual == bounds_by_type(of_models)
    assert [g["minReplicas"] for g in groups if "resources" not in g] == [0]


def test_the_pods_that_are_always_there_hold_the_routers():
    assert sum(bounds_by_type("min_replicas").values()) >= gpu_args().routers


def test_ray_is_one_version_everywhere():
    assert rayservice()["spec"]["rayClusterConfig"]["rayVersion"] == pinned("ray")
    (job,) = documents("encode_job.yaml")
    (launcher,) = documents("ray_up_aws.yaml")
    images = {c["image"] for pod in GROUPS.values() for c in pod["containers"]}
    images |= {c["image"] for actual in find(job, "containers") for c in actual}
    assert images | {launcher["docker"]["image"]} == {IMAGE}


def test_the_images_tag_is_the_projects_version():
    project = (ROOT / "pyproject.toml").read_text()
    assert f'version = "{IMAGE.rpartition(":")[2].partition("-")[0]}"' in project


@pytest.mark.parametrize("group", GROUPS)
def test_serves_fast_path_is_on_in_every_pod(group):
    environment, _ = path_environment("haproxy", read_config(GPU_CONFIG))
    del environment["RAY_SERVE_HAPROXY_MAXCONN"]  # follows the node's file limit
    environment[BINARY_PATH] = f"/usr/local/bin/{COMMAND}"  # where the image has it
    (container,) = GROUPS[group]["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert values.items() >= environment.items()


@pytest.mark.parametrize("name", WITH_PODS)
def test_secrets_are_references(name):
    for actual in find(documents(name), "containers"):
        for container in actual:
            for entry in secret_environment(container):
                assert "value" not in entry
                assert entry["valueFrom"].keys() == {"secretKeyRef"}, entry["name"]


def test_keys_and_token_are_in_every_pod():
    for pod in GROUPS.values():
        names = {entry["name"] for entry in secret_environment(pod["containers"][0])}
        assert names == {"EMBEDFLEET_API_KEYS", "HF_TOKEN"}


def test_no_manifest_holds_a_secret():
    for name in EVERY_FILE:
        for document in documents(name):
            assert document.get("kind") != "Secret"
            for password in find(document, "redisPassword"):
                assert password.keys() == {"valueFrom"}


def test_the_readme_makes_each_secret():
    made = set(re.findall(r"secret generic (\S+) --from-literal=([\w-]+)=", PAGES["deploying.md"]))
    wanted = {
        (reference["name"], reference["key"])
        for name in EVERY_FILE
        for reference in find(documents(name), "secretKeyRef")
    }
    assert made == wanted


def test_no_file_with_pods_is_missed():
    assert [name for name in EVERY_FILE if [*find(documents(name), "containers")]] == WITH_PODS


@pytest.mark.parametrize("name", WITH_PODS)
def test_every_container_says_what_it_takes_and_is_not_root(name):
    for actual in find(documents(name), "containers"):
        for container in actual:
            resources = container["resources"]
            assert resources["requests"].keys() >= {"cpu", "memory"}, container["name"]
            assert resources["limits"]["memory"] == resources["requests"]["memory"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
    for pod in (p for d in documents(name) for p in find(d, "spec") if "containers" in p):
        assert pod["securityContext"]["runAsNonRoot"] is True


@pytest.mark.parametrize("group", GROUPS)
def test_only_gpu_groups_take_gpus(group):
    (container,) = GROUPS[group]["containers"]
    gpus = container["resources"]["limits"].get("nvidia.com/gpu")
    assert gpus == ("1" if group.startswith("gpu") else None)


def test_the_head_computes_nothing():
    head = rayservice()["spec"]["rayClusterConfig"]["headGroupSpec"]
    assert head["rayStartParams"] == {"num-cpus": "0"}


@pytest.mark.parametrize("group", GROUPS)
def test_kuberay_finds_the_serve_port_and_the_probes(group):
    (container,) = GROUPS[group]["containers"]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports["serve"] == read_config(GPU_CONFIG).port
    ready, alive = container["readinessProbe"]["httpGet"], container["livenessProbe"]["httpGet"]
    assert alive == {"path": "/api/healthz", "port": 52365}
    # KubeRay deploys the app to a ready head: one that waits for the app would wait for ever
    assert ready == (alive if group == "head" else {"path": "/-/healthz", "port": "serve"})


def test_resources_stand_in_one_place():
    """KubeRay refuses a group that has them in `rayStartParams` too."""
    for group in rayservice()["spec"]["rayClusterConfig"]["workerGroupSpecs"]:
        assert not group.get("rayStartParams")


def test_the_weights_are_on_the_shared_volume():
    (cache,) = documents("model_cache.yaml")
    assert cache["spec"]["accessModes"] == ["ReadWriteMany"]
    for group in GROUPS.keys() - {"head"}:
        (container,) = GROUPS[group]["containers"]
        (volume,), (mount,) = GROUPS[group]["volumes"], container["volumeMounts"]
        assert volume["persistentVolumeClaim"]["claimName"] == cache["metadata"]["name"]
        environment = {e["name"]: e.get("value") for e in container["env"]}
        assert environment["HF_HOME"].startswith(mount["mountPath"] + "/")


def test_the_cluster_finds_its_redis():
    service, redis = documents("redis.yaml")
    options = rayservice()["spec"]["rayClusterConfig"]["gcsFaultToleranceOptions"]
    port = service["spec"]["ports"][0]["port"]
    assert options["redisAddress"] == f"{service['metadata']['name']}:{port}"
    labels = redis["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"] == redis["spec"]["selector"]["matchLabels"] == labels


def test_the_jobs_command_is_one_of_ours():
    from cluster.cli import _parser

    (job,) = documents("encode_job.yaml")
    program, *arguments = job["spec"]["entrypoint"].split()
    actual = _parser().parse_args(arguments)
    assert (program, actual.model in {m.name for m in gpu_args().models}) == ("embedfleet", True)
