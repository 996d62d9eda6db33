"""cluster.yaml is what `ray up` accepts: Ray's own preparation and schema, and the instance types' real sizes."""

from __future__ import annotations

import copy
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import ray
import yaml
from moto import mock_aws
from ray.autoscaler._private.util import prepare_config, validate_config

REPO = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def config() -> dict[str, Any]:
    loaded = yaml.safe_load((REPO / "cluster.yaml").read_text())
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture
def no_aws_account(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    with mock_aws():
        yield


def test_ray_accepts_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(copy.deepcopy(config))
    validate_config(prepared)
    for name, node in prepared["available_node_types"].items():
        assert node["max_workers"] <= prepared["max_workers"], name
    assert prepared["available_node_types"][prepared["head_node_type"]]["max_workers"] == 0


def test_the_schema_is_really_looked_at(config: dict[str, Any]) -> None:
    misspelt = {**copy.deepcopy(config), "max_wokers": 3}
    with pytest.raises(jsonschema.ValidationError, match="max_wokers"):
        validate_config(prepare_config(misspelt))


def test_declared_resources_are_those_of_the_instance_types(config: dict[str, Any], no_aws_account: None) -> None:
    from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

    sizes = copy.deepcopy(config)
    for node in sizes["available_node_types"].values():
        node["resources"] = {}
    detected = AWSNodeProvider.fillout_available_node_types_resources(prepare_config(sizes))["available_node_types"]
    for name, node in config["available_node_types"].items():
        if name == config["head_node_type"]:
            assert node["resources"] == {"CPU": 0}, "the head takes no work"
            continue
        found = detected[name]["resources"]
        assert found.get("CPU"), f"{name}: unknown instance type {node['node_config']['InstanceType']}"
        declared = {key: found.get(key) for key in ("CPU", "GPU") if found.get(key)}
        assert node["resources"] == declared, name


def test_every_job_finds_a_node_type_for_it(config: dict[str, Any]) -> None:
    workers = [node for name, node in config["available_node_types"].items() if name != config["head_node_type"]]
    assert any(node["resources"].get("GPU") for node in workers)
    assert any("GPU" not in node["resources"] for node in workers)
    assert sum(node["max_workers"] for node in workers) <= config["max_workers"]


def test_versions_are_those_of_pyproject(config: dict[str, Any]) -> None:
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    pins = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    ray_pin = next(pin for pin in pins if pin.startswith("ray["))
    boto3_pin = next(pin for pin in pins if pin.startswith("boto3"))
    assert ray_pin.endswith("==" + ray.__version__)
    gpu_image = config["available_node_types"]["gpu"]["docker"]["worker_image"]
    for image in (config["docker"]["image"], gpu_image):
        assert image.startswith(f"rayproject/ray:{ray.__version__}-py311-"), image
    assert any(boto3_pin in command for command in config["head_setup_commands"])


def test_what_is_rebuilt_on_the_nodes_does_not_travel(config: dict[str, Any]) -> None:
    excluded = set(config["rsync_exclude"])
    assert {".venv", "out", "**/.git"} <= excluded
    (mount,) = config["file_mounts"]
    assert any(f"pip install -e {mount}" in command for command in config["setup_commands"])
