"""The cluster files: Ray's own code, AWS's own model and KubeRay's schema accept them; they keep their promises."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import boto3
import jsonschema
import pytest
import yaml
from botocore.validate import ParamValidator
from moto import mock_aws
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.kuberay.node_provider import KubernetesHttpApiClient
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig
from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
from ray.autoscaler.v2.utils import ResourceRequestUtil
from ray.core.generated.autoscaler_pb2 import GangResourceRequest

from orchestrator import cluster
from orchestrator.capacity import HEAD

ROOT = Path(__file__).resolve().parent.parent
LAUNCHED = ["cluster.yaml", "clusters/local.yaml", "clusters/gcp.yaml"]
EVERY = [*LAUNCHED, "clusters/kuberay.yaml"]


def load(file: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / file).read_text())
    return found


@pytest.mark.parametrize("file", LAUNCHED)
def test_ray_accepts_it(file: str) -> None:
    config = prepare_config(load(file))
    validate_config(config)
    misspelt = {**config, "idle_timeout_minuts": 5}
    with pytest.raises(jsonschema.ValidationError, match="idle_timeout_minuts"):
        validate_config(misspelt)


@pytest.mark.parametrize("file", EVERY)
def test_three_places_are_to_be_edited(file: str) -> None:
    marks = re.findall(r"EDIT (\d) of (\d)", (ROOT / file).read_text())
    assert marks == [("1", "3"), ("2", "3"), ("3", "3")]


# What stands in the files for what only a team knows.
THEIRS = re.compile(r"my-|sg-0|192\.0\.2|example\.com|us-west|ssh_user: sweeps|id_ed25519|/shared/|capacity-type")


@pytest.mark.parametrize("file", EVERY)
def test_what_is_to_be_edited_is_in_those_places(file: str) -> None:
    places: list[list[str]] = [[]]  # what stands before the first mark, and from each mark on
    for line in (ROOT / file).read_text().splitlines():
        if re.search(r"EDIT \d of 3", line):
            places.append([])
        if not line.lstrip().startswith("#"):
            places[-1].append(line.partition(" #")[0])
    before, *edited = [[bool(THEIRS.search(line)) for line in place] for place in places]
    assert not any(before)
    assert all(any(place[:4]) and not any(place[8:]) for place in edited)


@pytest.mark.parametrize("file", EVERY)
def test_no_secret_and_no_port_open_to_the_world(file: str) -> None:
    text = (ROOT / file).read_text()
    assert not re.search(r"AKIA|BEGIN .*PRIVATE KEY|[0-9a-f]{40}|password:", text)
    if file != "clusters/kuberay.yaml":
        assert "--dashboard-host=127.0.0.1" in text
        assert "0.0.0.0" not in text


@pytest.mark.parametrize("file", LAUNCHED)
def test_every_ray_process_is_started_with_its_authentication_said(file: str) -> None:
    config = load(file)
    for command in config["head_start_ray_commands"] + config["worker_start_ray_commands"]:
        assert len(re.findall(r"RAY_AUTH_MODE=token ", command)) == len(re.findall(r"\bray (?:start|stop)\b", command))
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    (head,) = (command for command in config["head_start_ray_commands"] if "--head" in command)
    assert "--num-cpus=0" in head
    (resources,) = re.findall(r"--resources='([^']+)'", head)
    assert json.loads(resources) == {HEAD: 1}


@pytest.mark.parametrize("file", LAUNCHED)
def test_setup_ends_at_its_first_mistake_and_pins_packages(file: str) -> None:
    commands = load(file)["setup_commands"]
    assert all(command.startswith("set -eu; ") for command in commands)
    assert any("-c constraints.txt" in command for command in commands)
    assert any("ORCHESTRATOR_STORAGE" in command for command in commands)


@pytest.mark.parametrize("file", ["cluster.yaml", "clusters/gcp.yaml"])
def test_workers_are_spot_and_on_demand_and_may_be_none(file: str) -> None:
    config = load(file)
    types = config["available_node_types"]
    head = types.pop(config["head_node_type"])
    assert head["resources"] == {"CPU": 0, HEAD: 1}
    spot = {name for name, kind in types.items() if "spot" in json.dumps(kind["node_config"]).lower()}
    assert spot == {"gpu_spot"}
    assert set(types) - spot == {"gpu_on_demand"}
    assert all(kind["min_workers"] == 0 < kind["max_workers"] for kind in types.values())
    assert sum(kind["max_workers"] for kind in types.values()) <= config["max_workers"]
    assert 0 < config["idle_timeout_minutes"] <= 30


@pytest.mark.parametrize("file", ["cluster.yaml", "clusters/gcp.yaml"])
def test_spot_nodes_come_first_and_others_where_those_are_not_to_be_had(file: str) -> None:
    config = AutoscalingConfig(configs=prepare_config(load(file)), skip_content_hash=True)
    worker = ResourceRequestUtil.make({"CPU": 1, "GPU": 1})

    def launched(trials: int, **available: float) -> dict[str, int]:
        """What Ray's autoscaler starts for trials of one worker, where kinds of nodes are as available as said."""
        scheduler = ResourceDemandScheduler()
        asked = SchedulingRequest(
            disable_launch_config_check=True,
            node_type_configs=config.get_node_type_configs(),
            max_num_nodes=config.get_max_num_nodes(),
            gang_resource_requests=[GangResourceRequest(requests=[worker])] * trials,
            cloud_resource_availabilities=available,
            recoverable_resource_availabilities=available,
        )
        return {launch.instance_type: launch.count for launch in scheduler.schedule(asked).to_launch}

    assert launched(3) == {"gpu_spot": 3}
    assert launched(99) == {"gpu_spot": 8, "gpu_on_demand": 2}
    assert launched(2, gpu_spot=0.0) == {"gpu_on_demand": 2}  # a start of one just failed


def grown(config: dict[str, Any]) -> list[Mapping[str, float]]:
    """What the sweep takes the cluster for when its autoscaler has started all that it may."""
    return cluster._at_most(config)


@pytest.mark.parametrize("file", ["cluster.yaml", "clusters/gcp.yaml"])
def test_trials_run_on_every_node_that_may_be_started(file: str) -> None:
    nodes = grown(prepare_config(load(file)))
    assert [(node["CPU"], node["GPU"]) for node in nodes] == [(8, 1)] * 10
    fewer = grown({**prepare_config(load(file)), "max_workers": 3})  # of all kinds together
    assert len(fewer) == 3
    assert grown(prepare_config(load("clusters/local.yaml"))) == []  # nobody knows what these hosts have


def test_on_kubernetes_its_api_says_what_may_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def get(client: KubernetesHttpApiClient, path: str) -> dict[str, Any]:
        asked.append(path)
        spec = load("clusters/kuberay.yaml")["spec"]["rayClusterSpec"]
        return {"metadata": {"name": "nightly", "namespace": "default"}, "spec": spec}

    monkeypatch.setattr(KubernetesHttpApiClient, "__init__", lambda client, namespace: None)
    monkeypatch.setattr(KubernetesHttpApiClient, "get", get)
    monkeypatch.setenv("RAY_CLUSTER_NAME", "nightly")
    cluster._autoscaling.cache_clear()
    try:
        nodes = grown(dict(cluster._autoscaling()))
    finally:
        cluster._autoscaling.cache_clear()
    assert [(node["CPU"], node["GPU"]) for node in nodes] == [(8, 1)] * 10
    assert asked == ["rayclusters/nightly"]


def run_instances(node_config: dict[str, Any]) -> list[str]:
    """What AWS's own description of the call finds wrong with a node's configuration."""
    shape = boto3.client("ec2", region_name="us-west-2").meta.service_model.operation_model("RunInstances").input_shape
    errors = ParamValidator().validate({**node_config, "MinCount": 1, "MaxCount": 1}, shape)
    return errors.generate_report().splitlines() if errors.has_errors() else []


def test_aws_knows_every_key_of_its_nodes() -> None:
    for kind in load("cluster.yaml")["available_node_types"].values():
        assert run_instances(kind["node_config"]) == []
    assert run_instances({"InstanceTyp": "m7i.xlarge"}) != []


def test_the_first_phase_of_ray_up_on_aws_makes_no_security_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler._private.aws import config as aws

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    monkeypatch.setenv("HOME", str(tmp_path))
    with mock_aws():
        ec2 = boto3.client("ec2", region_name="us-west-2")
        (vpc,) = ec2.describe_vpcs()["Vpcs"]
        group = ec2.create_security_group(GroupName="sweeps", Description="sweeps", VpcId=vpc["VpcId"])["GroupId"]
        text = (ROOT / "cluster.yaml").read_text().replace("sg-0123456789abcdef0", group)
        before = {found["GroupId"] for found in ec2.describe_security_groups()["SecurityGroups"]}
        ready = aws.bootstrap_aws(prepare_config(yaml.safe_load(text)))
        after = {found["GroupId"] for found in ec2.describe_security_groups()["SecurityGroups"]}
    assert after == before
    for kind in ready["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"] == [group]
        assert kind["node_config"]["SubnetIds"]


# What KubeRay's CRD (ray.io/v1, RayJob) says of the parts that are used, closed where the API server prunes or rejects
# what it does not know. Pods are Kubernetes' own, here only as far as they are written. The CRD is made of
# ray-project/kuberay, ray-operator/apis/ray/v1/rayjob_types.go (f6ef3f7b), raycluster_types.go (3275ee09; authOptions
# is newer, of 1.5). The cluster in the job is also read by Ray's own code, as its autoscaler reads it.
CONTAINER = {
    "type": "object",
    "required": ["name", "image"],
    "additionalProperties": False,
    "properties": {
        **{name: {"type": "string"} for name in ("name", "image", "workingDir")},
        "env": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["name"],
                "additionalProperties": False,
                "properties": {
                    "name": {"type": "string"},
                    "value": {"type": "string"},
                    "valueFrom": {"type": "object"},
                },
            },
        },
        "resources": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                name: {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
                for name in ("limits", "requests")
            },
        },
    },
}
TEMPLATE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["spec"],
    "properties": {
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "required": ["containers"],
            "additionalProperties": False,
            "properties": {
                "containers": {"type": "array", "minItems": 1, "items": CONTAINER},
                "nodeSelector": {"type": "object", "additionalProperties": {"type": "string"}},
                "tolerations": {"type": "array", "items": {"type": "object"}},
            },
        },
    },
}
START = {"type": "object", "additionalProperties": {"type": "string"}}
RAY_JOB = {
    "type": "object",
    "additionalProperties": False,
    "required": ["apiVersion", "kind", "metadata", "spec"],
    "properties": {
        "apiVersion": {"const": "ray.io/v1"},
        "kind": {"const": "RayJob"},
        "metadata": {"type": "object"},
        "spec": {
            "type": "object",
            "additionalProperties": False,
            "properties": {
                "entrypoint": {"type": "string"},
                "submissionMode": {"enum": ["K8sJobMode", "HTTPMode", "InteractiveMode", "SidecarMode"]},
                "backoffLimit": {"type": "integer"},
                "shutdownAfterJobFinishes": {"type": "boolean"},
                "ttlSecondsAfterFinished": {"type": "integer"},
                "rayClusterSpec": {
                    "type": "object",
                    "additionalProperties": False,
                    "required": ["headGroupSpec"],
                    "properties": {
                        "rayVersion": {"type": "string"},
                        "enableInTreeAutoscaling": {"type": "boolean"},
                        "autoscalerOptions": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {
                                "idleTimeoutSeconds": {"type": "integer"},
                                "upscalingMode": {"enum": ["Default", "Aggressive", "Conservative"]},
                            },
                        },
                        "authOptions": {
                            "type": "object",
                            "additionalProperties": False,
                            "properties": {"mode": {"enum": ["disabled", "token"]}},
                        },
                        "headGroupSpec": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["rayStartParams", "template"],
                            "properties": {
                                "rayStartParams": START,
                                "serviceType": {"type": "string"},
                                "template": TEMPLATE,
                            },
                        },
                        "workerGroupSpecs": {
                            "type": "array",
                            "items": {
                                "type": "object",
                                "additionalProperties": False,
                                "required": ["groupName", "maxReplicas", "minReplicas", "rayStartParams", "template"],
                                "properties": {
                                    "groupName": {"type": "string"},
                                    **{key: {"type": "integer"} for key in ("replicas", "minReplicas", "maxReplicas")},
                                    "rayStartParams": START,
                                    "template": TEMPLATE,
                                },
                            },
                        },
                    },
                },
            },
        },
    },
}


def test_kuberay_accepts_its_job() -> None:
    job = load("clusters/kuberay.yaml")
    jsonschema.validate(job, RAY_JOB)
    wanted = job["spec"]["rayClusterSpec"]
    derived = _derive_autoscaling_config_from_ray_cr({"metadata": {"name": "x", "namespace": "y"}, "spec": wanted})
    types = derived["available_node_types"]
    assert types.pop(derived["head_node_type"])["resources"] == {"CPU": 0, HEAD: 1, "memory": 16 * 2**30}
    assert {name: kind["resources"]["GPU"] for name, kind in types.items()} == {"gpu-spot": 1, "gpu-on-demand": 1}
    assert derived["max_workers"] == 10


def test_kubernetes_ray_is_the_one_that_was_tested() -> None:
    pinned = re.search(r"^ray==(.+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
    assert pinned
    assert load("clusters/kuberay.yaml")["spec"]["rayClusterSpec"]["rayVersion"] == pinned[1]


def test_a_cluster_that_does_not_answer_is_said_at_once() -> None:
    with pytest.raises(OSError, match="refused"):
        cluster._knock(f"127.0.0.1:{cluster.free_port()}")
    cluster._knock("auto")  # Ray's own to find


def test_what_ray_says_as_it_leaves_is_not_for_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "auto")
    monkeypatch.setattr(cluster, "prepare_environment", lambda: None)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    monkeypatch.setattr("ray.init", lambda **_: None)
    monkeypatch.setattr("ray.shutdown", lambda: print("(raylet) Raylet is terminated.", *map(hex, range(20))))
    with cluster.connected():
        print("mine")
    assert capsys.readouterr().out == "mine\n"
