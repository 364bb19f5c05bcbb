"""Templates of launch/serving/: documents against schemas, command lines against the command."""

from __future__ import annotations

import copy
import pathlib
import re
import shlex
from typing import Any

import pytest
import yaml
from absl import flags
from absl.testing import flagsaver
from kubeflow_trainer_api import models

pytest.importorskip("fastapi", reason="the extra `serve` is absent")

from cd4lm_jax.commands import serve
from cd4lm_jax.runtime.interrupt import EXIT_CODES
from cd4lm_jax.serving.settings import ServeConfig
from tests.conftest import ROOT

FOLDER = ROOT / "launch" / "serving"
MODELS = {
    "Service": models.IoK8sApiCoreV1Service,
    "HorizontalPodAutoscaler": models.IoK8sApiAutoscalingV2HorizontalPodAutoscaler,
    "PodTemplate": models.IoK8sApiCoreV1PodTemplateSpec,  # what a Deployment makes pods of
}


def documents() -> dict[str, Any]:
    found = yaml.safe_load_all((FOLDER / "kubernetes.yaml").read_text())
    return {document["kind"]: document for document in found}


def faults(kind: str, document: dict[str, Any]) -> str:
    """What the schemas of Kubernetes do not know of a document, or find wrong."""
    try:
        known = MODELS[kind].from_dict(document).to_dict()
    except ValueError as error:
        return str(error)
    return "" if known == document else f"{document} holds more than {known}"


def settings(arguments: list[str]) -> ServeConfig:
    """What the command makes of a command line; wrong ones are errors.

    The model that it names is not there: the bundled one stands in for it.
    """
    asked = [argument for argument in arguments if not argument.startswith("--checkpoint=")]
    with flagsaver.flagsaver():
        extra = flags.FLAGS(["serve", *asked])[1:]
        assert extra == []
        return serve.chosen()[2]


def container() -> dict[str, Any]:
    (found,) = documents()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_documents_are_as_the_schemas_say() -> None:
    found = documents()
    assert set(found) == {"Deployment", "Service", "HorizontalPodAutoscaler"}
    assert faults("Service", found["Service"]) == ""
    assert faults("HorizontalPodAutoscaler", found["HorizontalPodAutoscaler"]) == ""
    deployment = found["Deployment"]
    assert deployment["apiVersion"] == "apps/v1"
    assert set(deployment) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(deployment["spec"]) == {"replicas", "selector", "strategy", "template"}
    assert faults("PodTemplate", deployment["spec"]["template"]) == ""


@pytest.mark.parametrize(
    "what", [{"readinesProbe": {}}, {"args": "--port=1"}, {"ports": [{"containerport": 1}]}]
)
def test_faults_are_found(what: dict[str, Any]) -> None:
    template = copy.deepcopy(documents()["Deployment"]["spec"]["template"])
    template["spec"]["containers"][0] |= what
    assert faults("PodTemplate", template)


def test_the_parts_find_each_other() -> None:
    found = documents()
    deployment, service = found["Deployment"], found["Service"]
    scaler = found["HorizontalPodAutoscaler"]["spec"]
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert deployment["spec"]["selector"]["matchLabels"] == service["spec"]["selector"] == labels
    assert scaler["scaleTargetRef"]["name"] == deployment["metadata"]["name"]
    (port,) = container()["ports"]
    assert service["spec"]["ports"][0]["targetPort"] == port["name"]
    volumes = {one["name"] for one in deployment["spec"]["template"]["spec"]["volumes"]}
    assert {one["name"] for one in container()["volumeMounts"]} == volumes


def test_probes_and_metric_are_routes_and_metrics_of_the_server() -> None:
    routes = (ROOT / "cd4lm_jax" / "serving" / "api" / "app.py").read_text()
    for name in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert f'"{container()[name]["httpGet"]["path"]}"' in routes
    (metric,) = documents()["HorizontalPodAutoscaler"]["spec"]["metrics"]
    name = metric["pods"]["metric"]["name"]
    assert f'"{name}"' in (ROOT / "cd4lm_jax" / "serving" / "api" / "metrics.py").read_text()


def test_pods_have_the_time_that_draining_takes() -> None:
    config = settings(container()["args"])
    pause = float(container()["lifecycle"]["preStop"]["exec"]["command"][1])
    template = documents()["Deployment"]["spec"]["template"]["spec"]
    assert template["terminationGracePeriodSeconds"] > pause + config.drain_timeout
    target = documents()["HorizontalPodAutoscaler"]["spec"]["metrics"][0]["pods"]["target"]
    assert int(target["averageValue"]) < config.queue


def test_the_image_starts_the_command() -> None:
    text = (FOLDER / "Dockerfile").read_text()
    match = re.search(r"^ENTRYPOINT \[(.*)\]$", text, re.MULTILINE)
    assert match is not None
    command = [part.strip('" ') for part in match[1].split(",")]
    assert command[:2] == ["cd4lm", "serve"]
    config = settings([*command[2:], *container()["args"]])
    assert (config.host, config.port) == ("0.0.0.0", container()["ports"][0]["containerPort"])
    user = re.search(r"^USER (\d+)$", text, re.MULTILINE)
    pod = documents()["Deployment"]["spec"]["template"]["spec"]
    assert user is not None
    assert int(user[1]) == pod["securityContext"]["runAsUser"]


def unit() -> dict[str, list[str]]:
    """The settings of the systemd unit, without its sections."""
    text = (FOLDER / "cd4lm.service").read_text().replace("\\\n", " ")
    found: dict[str, list[str]] = {}
    for line in text.splitlines():
        if line and not line.startswith(("#", "[")):
            name, _, value = line.partition("=")
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_the_command_and_waits_for_its_end() -> None:
    found = unit()
    program, command, *arguments = shlex.split(found["ExecStart"][0])
    assert (pathlib.Path(program).name, command) == ("cd4lm", "serve")
    config = settings(arguments)
    assert config.warmup
    assert float(found["TimeoutStopSec"][0]) > config.drain_timeout
    assert found["KillSignal"] == ["SIGTERM"]
    # 2 is a wrong setting; no code of an interrupted run is among those that are not tried again.
    assert found["RestartPreventExitStatus"] == ["2"]
    assert 2 not in EXIT_CODES.values()
