"""deploy/: what KubeRay is given agrees with Ray's own schemas, the pinned version and serve.yaml; and `submit`."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest
import ray
import ray.job_submission
import yaml
from ray.serve.schema import ServeDeploySchema
from typer.main import get_command
from typer.testing import CliRunner

from cli.__main__ import app
from factory.storage import STORAGE
from serve.settings import AppArgs

REPO = Path(__file__).resolve().parent.parent
JOB = yaml.safe_load((REPO / "deploy" / "rayjob.yaml").read_text())
SERVICE = yaml.safe_load((REPO / "deploy" / "rayservice.yaml").read_text())
CLUSTERS = {"job": JOB["spec"]["rayClusterSpec"], "service": SERVICE["spec"]["rayClusterConfig"]}
# Fields of KubeRay's ray.io/v1 API that are used here: an unknown one is a slip (Kubernetes drops it in silence).
CLUSTER = {"rayVersion", "enableInTreeAutoscaling", "autoscalerOptions", "headGroupSpec", "workerGroupSpecs"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
JOB_SPEC = {"entrypoint", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit", "submissionMode"}
SERVICE_SPEC = {"serveConfigV2"}


def test_kinds_and_fields() -> None:
    assert [(one["apiVersion"], one["kind"]) for one in (JOB, SERVICE)] == [
        ("ray.io/v1", "RayJob"),
        ("ray.io/v1", "RayService"),
    ]
    assert set(JOB["spec"]) == JOB_SPEC | {"rayClusterSpec"}
    assert set(SERVICE["spec"]) == SERVICE_SPEC | {"rayClusterConfig"}
    for cluster in CLUSTERS.values():
        assert set(cluster) == CLUSTER
        assert set(cluster["headGroupSpec"]) == {"rayStartParams", "template"}
        assert all(set(group) == WORKERS for group in cluster["workerGroupSpecs"])


@pytest.mark.parametrize("name", CLUSTERS)
def test_version_resources_and_limits(name: str) -> None:
    cluster = CLUSTERS[name]
    assert cluster["rayVersion"] == ray.__version__
    assert f"rayproject/ray:{ray.__version__}-py311-" in (REPO / "deploy" / "Dockerfile").read_text()
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "the head takes no work"
    for group in cluster["workerGroupSpecs"]:
        assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        (container,) = group["template"]["spec"]["containers"]
        assert container["resources"]["requests"] == container["resources"]["limits"]
        has_gpu = "nvidia.com/gpu" in container["resources"]["limits"]
        assert container["image"].endswith(":gpu" if has_gpu else ":cpu") and has_gpu == (group["groupName"] == "gpu")


def test_the_job_is_a_command_of_ours() -> None:
    program, command, *options = shlex.split(JOB["spec"]["entrypoint"])
    assert program == "identity-factory"
    known = {flag for parameter in get_command(app).commands[command].params for flag in parameter.opts}  # type: ignore[attr-defined]
    given = {option for option in options if option.startswith("--")}
    assert given and given <= known


def test_the_service_is_serve_yaml() -> None:
    config = yaml.safe_load(SERVICE["spec"]["serveConfigV2"])
    assert config == yaml.safe_load((REPO / "serve" / "serve.yaml").read_text())
    (application,) = ServeDeploySchema.model_validate(config).applications
    args = AppArgs.model_validate(application.args)
    (group,) = CLUSTERS["service"]["workerGroupSpecs"]
    (container,) = group["template"]["spec"]["containers"]
    limits = container["resources"]["limits"]
    assert float(limits["cpu"]) >= args.num_cpus and limits["nvidia.com/gpu"] >= (args.num_gpus or 0)


def test_the_image_holds_nothing_that_git_ignores() -> None:
    """Docker reads a pattern from the root on; git's name without a slash is meant in every folder."""

    def patterns(file: str) -> list[str]:
        lines = (REPO / file).read_text().splitlines()
        return [line.strip() for line in lines if line.strip() and not line.startswith("#")]

    fetched = {"packs/sd21/*/", "packs/sd21/hashes.json"}  # the production pack's weights, which the image needs
    left_out = set(patterns(".dockerignore"))
    for pattern in set(patterns(".gitignore")) - fetched:
        name = pattern.strip("/")
        assert (name if "/" in pattern.rstrip("/") else f"**/{name}") in left_out, pattern
    assert ".git" in left_out and not any(pattern.startswith("packs/sd21") for pattern in left_out)
    assert "COPY --chown=ray:users . " in (REPO / "deploy" / "Dockerfile").read_text()


class FakeClient:
    """Ray's JobSubmissionClient without a cluster: keeps what it is given."""

    given: dict[str, Any]

    def __init__(self, address: str) -> None:
        if "nowhere" in address:
            raise ConnectionError("no route")
        FakeClient.given = {"address": address}

    def submit_job(self, *, entrypoint: str, runtime_env: dict[str, Any]) -> str:
        FakeClient.given |= {"entrypoint": entrypoint, "runtime_env": runtime_env}
        return "raysubmit_1"


def test_submit_sends_the_command_as_it_was_typed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(ray.job_submission, "JobSubmissionClient", FakeClient)
    monkeypatch.setattr("factory.reach.fault_at", lambda _: "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://store:9000")
    runner, address = CliRunner(), "http://head:8265"
    monkeypatch.setenv(STORAGE, "")
    command = ["generate", "--root", "s3://b/people", "--prompt", "a 'photo' of <person>"]
    how = ["--storage", "region=eu-1", "--storage", "path_style=true"]
    sent = runner.invoke(app, [*how, "submit", "--address", address, "--working-dir", str(tmp_path), *command])
    assert sent.exit_code == 0 and "raysubmit_1" in sent.output
    assert FakeClient.given["address"] == address
    assert shlex.split(FakeClient.given["entrypoint"]) == ["python", "-m", "cli", *command]
    assert FakeClient.given["runtime_env"]["working_dir"] == str(tmp_path)
    assert FakeClient.given["runtime_env"]["env_vars"] == {
        "AWS_ENDPOINT_URL": "http://store:9000", STORAGE: "region=eu-1 path_style=true"
    } | {
        name: value for name, value in FakeClient.given["runtime_env"]["env_vars"].items() if name == "AWS_REGION"
    }
    assert runner.invoke(app, ["submit", "--address", address, "serve"]).exit_code == 2
    lost = runner.invoke(app, ["submit", "--address", "http://nowhere:1", "train", "--root", "s3://b/people"])
    assert lost.exit_code == 1 and "takes no job: no route" in lost.stderr
