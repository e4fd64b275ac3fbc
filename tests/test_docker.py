"""The image and its composition say what they should, and agree with the project."""

import ast
import dataclasses
import importlib.util
import re
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parent.parent
DOCKERFILE = (ROOT / "docker" / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "docker" / "compose.yaml").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def pins(name):
    """The pinned versions in a requirements file, each with its hashes."""
    text = (ROOT / "docker" / name).read_text().replace("\\\n", " ")
    lines = [line for line in text.splitlines() if line.strip()]
    return [
        (Requirement(re.split(r"\s--hash", line)[0]), re.findall(r"--hash=(\S+)", line)) for line in lines
    ]


def instructions():
    """Instructions of the Dockerfile, continued lines joined."""
    lines = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [tuple(line.split(maxsplit=1)) for line in lines if line.strip()]


@pytest.mark.parametrize("name", ["requirements.txt", "requirements-build.txt"])
def test_requirements__are_pinned_and_hashed_and_name_no_index(name):
    text = (ROOT / "docker" / name).read_text()
    assert "://" not in text and "index-url" not in text
    for requirement, hashes in pins(name):
        assert [s.operator for s in requirement.specifier] == ["=="], requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}", h) for h in hashes), requirement


def test_requirements__are_what_the_project_asks_for():
    wanted = [Requirement(text) for text in PROJECT["dependencies"] + PROJECT["optional-dependencies"]["s3"]]
    for want in wanted:
        found = [r for r, _ in pins("requirements.txt") if r.name == want.name]
        assert found, f"{want.name} is not pinned: compile docker/requirements.txt again"
        for pin in found:
            (version,) = (s.version for s in pin.specifier)
            assert want.specifier.contains(Version(version)), f"{pin} is not {want}"
    assert {r.name for r, _ in pins("requirements-build.txt")} >= {"hatchling"}


def test_dockerfile__has_two_stages_on_a_base_of_choice_and_a_user_of_its_own():
    steps = instructions()
    assert steps[0][0] == "ARG" and steps[0][1].startswith("BASE_IMAGE=")
    stages = [rest for verb, rest in steps if verb == "FROM"]
    assert stages == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]
    last = steps[max(i for i, (verb, _) in enumerate(steps) if verb == "FROM") :]
    assert [rest for verb, rest in last if verb == "USER"] == ["streamem"]
    assert ast.literal_eval(dict(last)["ENTRYPOINT"])[0].endswith("tini")
    environment = " ".join(rest for verb, rest in last if verb == "ENV")
    for name in ("NUMBA_CACHE_DIR", "OMP_NUM_THREADS", "MALLOC_TRIM_THRESHOLD_"):
        assert f"{name}=" in environment
    assert "--require-hashes" in DOCKERFILE and "://" not in DOCKERFILE


def test_dockerfile__copies_what_exists_and_what_is_not_ignored():
    kept = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for verb, rest in instructions():
        if verb == "COPY" and "--from" not in rest:
            for name in [word for word in rest.split() if not word.startswith("--")][:-1]:
                assert (ROOT / name).exists(), name
                assert name.split("/")[0] in kept, name


def test_compose__runs_one_image_in_three_roles_over_the_same_data():
    services = COMPOSE["services"]
    assert list(services) == ["scheduler", "worker", "fit"]
    assert len({service["image"] for service in services.values()}) == 1
    for service in services.values():
        assert service["build"]["dockerfile"] == "docker/Dockerfile"
        assert "BASE_IMAGE" in service["build"]["args"]
        assert any(volume.endswith(":/data:ro") for volume in service["volumes"])
        assert service["stop_grace_period"]
    assert services["worker"]["depends_on"] == {"scheduler": {"condition": "service_healthy"}}
    assert services["fit"]["depends_on"] == {"worker": {"condition": "service_healthy"}}
    for name in ("scheduler", "worker"):
        assert "/health" in services[name]["healthcheck"]["test"][-1]


def test_compose__fits_by_a_configuration_that_exists_and_fits_to_it():
    service = COMPOSE["services"]["fit"]
    path = service["command"][service["command"].index("-c") + 1]
    assert "../configs:/configs:ro" in service["volumes"]
    settings = tomllib.loads((ROOT / path.lstrip("/")).read_text())
    assert settings["scheduler"] == "tcp://scheduler:8786"
    assert settings["data"].startswith("/data/") and settings["output"].startswith("/results/")
    assert "8786" in COMPOSE["services"]["scheduler"]["command"]


def test_compose__goes_on_after_failures():
    """A worker that ends is started again; a fit that is started again goes on from what it wrote."""
    services = COMPOSE["services"]
    assert services["worker"]["restart"] == "on-failure"
    settings = tomllib.loads((ROOT / "configs" / "cluster.toml").read_text())
    place = settings["checkpoint"]
    assert settings["resume"] == "auto"
    assert [v for v in services["fit"]["volumes"] if v.endswith(f":{Path(place).parent}")]


def test_run_without_daemon__understands_the_composition(monkeypatch, tmp_path):
    path = ROOT / "docker" / "run_without_daemon.py"
    script = importlib.util.module_from_spec(spec := importlib.util.spec_from_file_location("_runs", path))
    monkeypatch.setitem(sys.modules, "_runs", script)  # dataclasses look there
    spec.loader.exec_module(script)
    monkeypatch.setenv("WORKERS", "3")
    monkeypatch.setenv("DATA", "/somewhere")
    services = script.composition()  # refuses what it does not know
    assert list(services) == ["scheduler", "worker", "fit"]
    containers = list(script.plan(services, tmp_path, {}, tmp_path / "hosts"))
    assert [c.name for c in containers] == ["scheduler", "worker-1", "worker-2", "worker-3", "fit"]
    assert len({c.address for c in containers}) == 5
    assert f"{containers[0].address} scheduler" in (tmp_path / "hosts").read_text()
    assert "/somewhere:/data:ro" in containers[1].service["volumes"]
    assert containers[1].command[-2:] == ["--dashboard-address", ":8787"]
    monkeypatch.setattr(script.Container, "user", lambda self: ("1", "1", "/home"))
    scheduler = dataclasses.replace(containers[0], image={"Env": ["FROM_IMAGE=1"]}).environment()
    assert {"FROM_IMAGE=1", "HOME=/home", "DASK_DISTRIBUTED__SCHEDULER__WORKER_SATURATION=1.0"} <= set(
        scheduler
    )


def composed(**environment):
    """The composition as it is with these variables."""

    def value(match):
        name, default = match[1], match[2]
        assert default is not None, f"{name} has no default"
        return environment.get(name, default)

    text = re.sub(r"\$\{(\w+)(?::-([^}]*))?\}", value, (ROOT / "docker" / "compose.yaml").read_text())
    assert "${" not in text
    return yaml.safe_load(text)["services"]


@pytest.mark.parametrize("environment", [{}, {"WORKERS": "5", "THREADS": "8", "MEMORY": "32GiB"}])
def test_compose__has_commands_that_the_programs_understand(environment, monkeypatch):
    from distributed.cli.dask_scheduler import main as scheduler
    from distributed.cli.dask_worker import main as worker

    from streamem.cli import main as streamem

    monkeypatch.chdir(ROOT)
    services = composed(**environment)
    assert services["worker"]["deploy"]["replicas"] == int(environment.get("WORKERS", 2))
    for name, command in (("scheduler", scheduler), ("worker", worker)):
        program, role, *arguments = services[name]["command"]
        assert (program, role) == ("dask", name)
        given = command.make_context(name, list(arguments)).params  # refuses what it does not know
        if name == "worker":
            assert given["nthreads"] == int(environment.get("THREADS", 2))
            assert given["scheduler"] == "tcp://scheduler:8786"
            assert given["memory_limit"] == environment.get("MEMORY", "auto")
    program, role, *arguments = services["fit"]["command"]
    arguments = [word.removeprefix("/") if word.startswith("/configs") else word for word in arguments]
    fit = streamem.get_command(None, role).make_context(role, arguments).params
    assert program == "streamem" and fit["scheduler"] == "tcp://scheduler:8786"


def test_compose__refers_to_what_is_there():
    services = composed()
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert (ROOT / "docker" / service["build"]["context"]).resolve() == ROOT
        assert (ROOT / service["build"]["dockerfile"]).is_file()
        for volume in service["volumes"]:
            source, target, *mode = volume.split(":")
            assert source.startswith(("./", "../", "/")) and target.startswith("/") and mode in ([], ["ro"])
        for port in service.get("ports", ()):
            host, outer, inner = port.split(":")
            assert host == "127.0.0.1" and f":{inner}" in service["command"], outer
