"""Templates of launch/: shell scripts, Kubernetes documents, TPU VMs with a stand-in of gcloud."""

from __future__ import annotations

import copy
import json
import math
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import yaml
from kubeflow_trainer_api import models

from cd4lm_jax.commands.config_files import load_config
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.runtime.interrupt import EXIT_CODES
from cd4lm_jax.settings.config import override
from tests.conftest import ROOT

LAUNCH = ROOT / "launch"
SCRIPTS = [*LAUNCH.rglob("*.sh"), *LAUNCH.rglob("*.sbatch"), *ROOT.glob("tests/*.sh")]


def settings(arguments: list[str]) -> TrainConfig:
    """What `launch.distill` makes of a command line; wrong ones are errors."""
    given = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    config = load_config(given.pop("config"), TrainConfig)
    return override(config, {name.removeprefix("config."): text for name, text in given.items()})


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_shell_scripts_pass_shellcheck(script: pathlib.Path) -> None:
    tool = shutil.which("shellcheck", path=str(pathlib.Path(sys.executable).parent))
    assert tool is not None
    done = subprocess.run(
        [tool, "--external-sources", str(script)], cwd=ROOT, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (0, "")


# Kubernetes.

MODELS = {
    "PersistentVolumeClaim": models.IoK8sApiCoreV1PersistentVolumeClaim,
    "JobSet": models.JobsetV1alpha2JobSet,
}


def faults(document: dict[str, Any]) -> str:
    """What the schemas of Kubernetes and JobSet do not know of a document, or find wrong."""
    try:
        known = MODELS[document["kind"]].from_dict(document).to_dict()
    except ValueError as error:
        return str(error)
    return "" if known == document else f"{document} holds more than {known}"


def documents() -> list[dict[str, Any]]:
    return list(yaml.safe_load_all((LAUNCH / "kubernetes" / "jobset.yaml").read_text()))


def test_documents_are_as_the_schemas_say() -> None:
    assert [faults(document) for document in documents()] == ["", ""]


@pytest.mark.parametrize(
    ("where", "what"),
    [
        (("spec", "failurePolicy"), {"maxRestart": 3}),
        (("spec", "failurePolicy"), {"maxRestarts": "3"}),
        (("spec", "replicatedJobs", 0, "template", "spec"), {"completion_mode": "Indexed"}),
        (("spec", "replicatedJobs", 0, "template", "spec"), {"parallelism": "4"}),
        (
            ("spec", "replicatedJobs", 0, "template", "spec", "podFailurePolicy", "rules", 0),
            {"onExitCode": []},
        ),
    ],
)
def test_faults_are_found(where: tuple[str | int, ...], what: dict[str, Any]) -> None:
    document: Any = copy.deepcopy(documents()[1])
    place = document
    for step in where:
        place = place[step]
    place |= what
    assert faults(document)


def test_what_saved_is_restarted_and_errors_are_counted() -> None:
    spec = documents()[1]["spec"]
    (job,) = spec["replicatedJobs"]
    job = job["template"]["spec"]
    pod = job["template"]["spec"]
    codes, condition = job["podFailurePolicy"]["rules"]
    # One pod that fails fails the Job, and the reason tells the two kinds apart.
    assert (job["backoffLimit"], pod["restartPolicy"]) == (0, "Never")
    assert codes["onExitCodes"]["values"] == [EXIT_CODES[signal.SIGTERM], 128 + signal.SIGTERM]
    assert codes["onExitCodes"]["containerName"] == pod["containers"][0]["name"]
    assert condition["onPodConditions"][0]["type"] == "DisruptionTarget"
    assert codes["action"] == condition["action"] == "FailJob"
    (rule,) = spec["failurePolicy"]["rules"]
    assert rule["action"] == "RestartJobSetAndIgnoreMaxRestarts"
    assert rule["onJobFailureReasons"] == ["PodFailurePolicy"]
    assert spec["failurePolicy"]["maxRestarts"] > 0


def test_hosts_chips_and_mesh_agree() -> None:
    claim, jobset = documents()
    job = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
    pod = job["template"]["spec"]
    (container,) = pod["containers"]
    shape = pod["nodeSelector"]["cloud.google.com/gke-tpu-topology"]
    chips = math.prod(map(int, shape.split("x")))
    assert job["completions"] == job["parallelism"]
    limits = container["resources"]["limits"]
    assert job["parallelism"] * int(limits["google.com/tpu"]) == chips
    config = settings(container["args"])
    assert config.mesh.data * config.mesh.fsdp * config.mesh.tensor == chips
    (volume,) = pod["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    (mount,) = container["volumeMounts"]
    assert config.output.startswith(f"{mount['mountPath']}/")


# TPU VMs.

# Keeps what it was asked for; runs on this host what is to run on the others.
GCLOUD = """\
#!{python}
import json, os, pathlib, subprocess, sys

asked = sys.argv[1:]
home = pathlib.Path(__file__).parent
log = home / "asked.jsonl"
before = log.read_text() if log.exists() else ""
log.write_text(before + json.dumps(asked) + "\\n")
if "describe" in asked:
    print("ACTIVE" if "describe" in before else "WAITING_FOR_RESOURCES")
for word in asked:
    if word.startswith("--command=") and "uv" not in word and "tail" not in word:
        command = word.removeprefix("--command=")
        sys.exit(subprocess.run(["bash", "-c", command], cwd=home).returncode)
"""

# Of the environment on the TPU VMs: says what it is asked to run, and leaves at SIGTERM.
PYTHON = """\
#!/usr/bin/env bash
printf '%s\\n' "$@"
trap 'echo saved; exit 75' TERM
for _ in $(seq 100); do sleep 0.1; done
"""


@pytest.fixture
def home(tmp_path: pathlib.Path) -> pathlib.Path:
    """The home folder of every TPU VM, with `gcloud` beside it."""
    for name, text in (
        ("gcloud", GCLOUD.format(python=sys.executable)),
        ("cd4lm_jax/.venv/bin/python", PYTHON),
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(0o755)
    return tmp_path


def vm(home: pathlib.Path, *arguments: str) -> list[list[str]]:
    """Runs launch/tpu/vm.sh; what it asked gcloud for."""
    asked = home / "asked.jsonl"
    asked.unlink(missing_ok=True)
    done = subprocess.run(
        [LAUNCH / "tpu" / "vm.sh", *arguments],
        env={
            **os.environ,
            "PATH": f"{home}:{os.environ['PATH']}",
            "SHARED": str(home / "shared"),
            "POLL_SECONDS": "0",
        },
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return [json.loads(line) for line in asked.read_text().splitlines()]


def wait_for(file: pathlib.Path, line: str) -> list[str]:
    while not file.exists() or line not in file.read_text().splitlines():
        time.sleep(0.02)
    return file.read_text().splitlines()


def test_runs_on_tpu_vms_until_it_is_stopped(home: pathlib.Path) -> None:
    (started,) = vm(home, "run", "--config.steps=700", "--config.data.source=a b'c.jsonl")
    assert started[:4] == ["compute", "tpus", "tpu-vm", "ssh"]
    assert "--worker=all" in started
    (log,) = [home / "shared" / "runs" / "llada_8b_gsm8k" / "logs" / f"{os.uname().nodename}.log"]
    given = wait_for(log, "--config.steps=700")
    assert given[:2] == ["-m", "launch.distill"]
    config = settings(given[2:])
    assert (config.steps, config.data.source) == (700, "a b'c.jsonl")
    assert config.mesh.data * config.mesh.fsdp * config.mesh.tensor == 16
    (stopped,) = vm(home, "stop")
    assert "--worker=0" in stopped
    assert wait_for(log, "saved")[-1] == "saved"


def test_a_slice_is_waited_for_installed_and_given_back(home: pathlib.Path) -> None:
    create, *describes = vm(home, "create")
    assert create[2:5] == ["queued-resources", "create", "distill"]
    assert "--accelerator-type=v5litepod-16" in create
    assert "--spot" not in create
    assert [words[3] for words in describes] == ["describe", "describe"]
    copied, installed = vm(home, "install")
    assert copied[3] == "scp"
    assert "--worker=all" in copied
    assert "--worker=all" in installed
    (logs,) = vm(home, "logs")
    assert "--worker=0" in logs
    (deleted,) = vm(home, "delete")
    assert deleted[2:5] == ["queued-resources", "delete", "distill"]
    verbs = [words[3] for words in vm(home, "resume")]
    assert verbs == ["delete", "create", "describe", "describe", "scp", "ssh", "ssh"]
    vm(home, "stop")


def test_says_how_it_is_used() -> None:
    done = subprocess.run([LAUNCH / "tpu" / "vm.sh"], capture_output=True, text=True)
    assert done.returncode == 2
    for verb in ("create", "install", "run", "logs", "stop", "resume", "delete"):
        assert f"launch/tpu/vm.sh {verb}" in done.stdout
