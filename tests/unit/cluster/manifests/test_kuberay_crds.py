"""The KubeRay manifests against KubeRay's own CRDs, where those lie beside the checkout."""

from __future__ import annotations

import pytest

from tests.support.crds import FOLDER, closed, validator
from tests.support.manifests import documents

pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="KubeRay's CRDs: no ../shared/kuberay")

MANIFESTS = [("rayservice.yaml", "RayService"), ("encode_job.yaml", "RayJob")]


def head(service):
    return service["spec"]["rayClusterConfig"]["headGroupSpec"]


def container(service, group=0):
    (actual,) = service["spec"]["rayClusterConfig"]["workerGroupSpecs"][group]["template"]["spec"][
        "containers"
    ]
    return actual


def errors(manifest):
    return [error.message for error in validator(manifest["kind"]).iter_errors(manifest)]


@pytest.mark.parametrize(("name", "kind"), MANIFESTS)
def test_it_is_what_kuberay_takes(name, kind):
    (manifest,) = documents(name)
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", kind)
    assert errors(manifest) == []


WRONG = {
    "a field at the top": lambda s: s.update(specs={}),
    "a name in the metadata": lambda s: s["metadata"].update(nmae="x"),
    "a field of the service": lambda s: s["spec"].update(serveConfig=""),
    "a field of the cluster": lambda s: s["spec"]["rayClusterConfig"].update(autoscaler={}),
    "a field of a probe": lambda s: container(s)["readinessProbe"].update(period=5),
    "a field of the redis options": lambda s: s["spec"]["rayClusterConfig"][
        "gcsFaultToleranceOptions"
    ].update(redisAdress="x"),
    "a field of a group": lambda s: s["spec"]["rayClusterConfig"]["workerGroupSpecs"][1].update(
        maxReplica=1
    ),
    "a number as a start parameter": lambda s: head(s)["rayStartParams"].update({"num-cpus": 0}),
    "a number in the environment": lambda s: container(s)["env"][0].update(value=1),
    "a name twice in the environment": lambda s: container(s)["env"].append(container(s)["env"][0]),
    "a quantity": lambda s: container(s)["resources"]["limits"].update(memory="16 GB"),
    "an autoscaler that is not there": lambda s: s["spec"]["rayClusterConfig"][
        "autoscalerOptions"
    ].update(version="v3"),
    "no containers": lambda s: head(s)["template"]["spec"].pop("containers"),
    "a group without bounds": lambda s: s["spec"]["rayClusterConfig"]["workerGroupSpecs"][0].pop(
        "maxReplicas"
    ),
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_refused(change):
    (manifest,) = documents("rayservice.yaml")
    change(manifest)
    assert errors(manifest)


@pytest.mark.parametrize(
    "change",
    [
        lambda job: job["spec"].update(entrypoints="embedfleet"),
        lambda job: job["spec"].update(entrypointNumCpus="1"),
        lambda job: job["spec"].update(submissionMode=1),
        lambda job: job["spec"]["submitterPodTemplate"]["spec"].pop("containers"),
    ],
)
def test_a_wrong_job_is_refused(change):
    (job,) = documents("encode_job.yaml")
    change(job)
    assert errors(job)


def test_the_name_of_the_running_cluster_is_where_the_job_says():
    status = validator("RayService").schema["properties"]["status"]["properties"]
    assert "rayClusterName" in status["activeServiceStatus"]["properties"]


def test_unknown_fields_are_kept_only_where_the_schema_says_so():
    kept = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    free = {"type": "object", "additionalProperties": {"type": "object", "properties": {}}}
    schema = closed({"type": "object", "properties": {"kept": kept, "free": free}})
    assert "additionalProperties" not in schema["properties"]["kept"]
    assert schema["additionalProperties"] is False
    assert schema["properties"]["free"]["additionalProperties"]["additionalProperties"] is False
