"""Run compose.yaml where no Docker daemon runs: each container in namespaces of its own, from one root.

    buildah bud -f docker/Dockerfile -t streamem .
    DATA=/where/the/data/is RESULTS=/where/models/go python3 docker/run_without_daemon.py

Needs root, buildah, iproute2, util-linux and PyYAML. Commands, variables, users, volumes, health checks,
order and restarts are read from compose.yaml and from the image, as compose reads them; a key that is unknown
here is refused. A container has its own network (all are on one bridge), processes and mounts, but no file
system of its own: what it writes outside volumes, the others see. As with ``--exit-code-from fit``, all ends
when the fit does, and its exit code is the script's. SIGTERM and Ctrl-C stop the containers, the last one
started first.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
MAIN = "fit"
BRIDGE, SUBNET = "streamem0", "10.89.77"
BUILT, RUN = ("image", "build"), ("command", "environment", "volumes", "restart", "deploy")
WATCHED, REACHED = ("healthcheck", "depends_on", "stop_grace_period"), ("ports",)
"""Keys of a service that are understood. Ports need nothing: the bridge leads to all of them."""


def main() -> int:
    """Run the composition to its end."""
    services = composition()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit("Interrupted."))
    with tempfile.TemporaryDirectory() as folder, root_of(services[MAIN]["image"]) as (root, image):
        containers = list(plan(services, root, image, Path(folder) / "hosts"))
        with network(containers):
            try:
                for container in containers:
                    container.start()
                    container.await_health(containers)
                while not containers[-1].ended():
                    mind(containers)
                    time.sleep(0.2)
                return containers[-1].exit_code()
            finally:
                for container in reversed(containers):
                    container.stop()


def composition() -> dict[str, Any]:
    """Return the services of compose.yaml, with variables as compose would set them, in order of start."""
    text = re.sub(
        r"\$\{(\w+):-([^}]*)\}",
        lambda match: os.environ.get(match[1]) or match[2],
        (HERE / "compose.yaml").read_text(),
    )
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    for name, service in services.items():
        if unknown := set(service) - {*BUILT, *RUN, *WATCHED, *REACHED}:
            sys.exit(f"compose.yaml, {name}: {', '.join(unknown)} is not understood here. Teach this script.")
    ordered: dict[str, Any] = {}
    while len(ordered) < len(services):
        ordered |= {n: s for n, s in services.items() if set(s.get("depends_on", ())) <= set(ordered)}
    return ordered


@contextlib.contextmanager
def root_of(image: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Yield the root file system of an image, and what it says of how to run it."""
    container = run("buildah", "from", "--pull-never", image)
    try:
        config = json.loads(run("buildah", "inspect", container))["OCIv1"]["config"]
        yield Path(run("buildah", "mount", container)), config
    finally:
        run("buildah", "rm", container)


def run(*command: str) -> str:
    """Run a program that must succeed; return what it says."""
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def seconds(text: str) -> float:
    """Return the seconds that 5s, 10m or 1h are."""
    return float(text[:-1]) * {"s": 1, "m": 60, "h": 3600}[text[-1]]


@dataclass
class Container:
    """One replica of a service."""

    name: str
    """Its host name."""
    service: dict[str, Any]
    """What compose.yaml says."""
    image: dict[str, Any]
    """What the image says."""
    root: Path
    """Its root file system."""
    address: str
    """In the network of all."""
    hosts: Path
    """The file that has everybody's."""
    process: subprocess.Popen[bytes] | None = field(default=None)
    """``unshare``, whose child is the first process of the container."""

    @property
    def namespace(self) -> str:
        """Of the network."""
        return f"streamem-{self.name}"

    def start(self) -> None:
        """Start it, or start it again."""
        mounts = [f"{self.hosts}:/etc/hosts:ro", *self.service["volumes"]]
        lines = [f"hostname {self.name}", "mount --make-rprivate /", f"mount -t proc proc {self.root}/proc"]
        lines += [f"mount --rbind /{where} {self.root}/{where}" for where in ("dev", "sys")]
        for mount in mounts:
            source, target, *mode = mount.split(":")
            place = f"{self.root}{target}"
            lines.append(f"[ -e {place} ] || mkdir -p {place}")
            lines.append(f"mount --bind {shlex.quote(str((HERE / source).resolve()))} {place}")
            lines += [f"mount -o remount,bind,ro {place}"] if mode == ["ro"] else []
        uid, gid, _ = self.user()
        lines.append(f'cd {self.root} && exec chroot --userspec {uid}:{gid} --groups= {self.root} "$@"')
        self.process = subprocess.Popen(
            ["ip", "netns", "exec", self.namespace]
            + ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
            + ["sh", "-ec", "\n".join(lines), "sh"]
            + [*self.environment(), *self.image["Entrypoint"], *self.command],
            start_new_session=True,
        )
        say(f"{self.name} started at {self.address}: {' '.join(self.command)}")

    @property
    def command(self) -> list[str]:
        """What it runs; YAML takes some words for numbers."""
        return [str(word) for word in self.service["command"]]

    def user(self) -> tuple[str, str, str]:
        """Return numbers and home of the image's user."""
        for line in (self.root / "etc/passwd").read_text().splitlines():
            name, _, uid, gid, _, home, _ = line.split(":")
            if name == self.image["User"]:
                return uid, gid, home
        sys.exit(f"The image has no user {self.image['User']}.")

    def environment(self) -> list[str]:
        """Return a command that sets it, and nothing else."""
        _, _, home = self.user()
        place = ["--chdir", self.image.get("WorkingDir") or "/"]
        given = {"HOME": home, "HOSTNAME": self.name, **self.service.get("environment", {})}
        variables = [f"{name}={value}" for name, value in given.items()]
        return ["/usr/bin/env", "-i", *place, *self.image["Env"], *variables]

    def first_process(self) -> str:
        """Return the number that the first process in it has outside; nothing where there is none."""
        assert self.process is not None
        pid = self.process.pid
        with contextlib.suppress(OSError):
            return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()
        return ""

    def healthy(self) -> bool:
        """Return whether the health check succeeds, run inside as the image's user."""
        check, (uid, gid, _) = self.service["healthcheck"], self.user()
        kind, *command = check["test"]
        assert kind == "CMD", kind
        if not (pid := self.first_process()):
            return False
        inside = ["nsenter", "--target", pid, "--mount", "--net", "--pid", "--root", "--wd"]
        inside += ["--setuid", uid, "--setgid", gid, *self.environment(), *command]
        try:
            done = subprocess.run(inside, timeout=seconds(check["timeout"]), capture_output=True)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    def await_health(self, containers: list[Container]) -> None:
        """Return when it is healthy, at once where nobody asks."""
        check = self.service.get("healthcheck")
        for _ in range(check["retries"] if check else 0):
            time.sleep(seconds(check["interval"]))
            mind(containers)
            if self.healthy():
                say(f"{self.name} is healthy")
                return
        if check:
            sys.exit(f"{self.name} is not healthy after {check['retries']} checks.")

    def ended(self) -> bool:
        """Return whether it ran and does no more."""
        return self.process is not None and self.process.poll() is not None

    def exit_code(self) -> int:
        """Return how it ended, as a shell would tell."""
        assert self.process is not None
        code = self.process.wait()
        return code if code >= 0 else 128 - code

    def stop(self) -> None:
        """Ask it to end, and end it when its time is over."""
        if self.process is None or self.ended():
            return
        for pid in self.first_process().split():
            os.kill(int(pid), signal.SIGTERM)
        try:
            self.process.wait(seconds(self.service["stop_grace_period"]))
        except subprocess.TimeoutExpired:
            self.process.kill()
        say(f"{self.name} stopped with exit code {self.exit_code()}")


def plan(services: dict[str, Any], root: Path, image: dict[str, Any], hosts: Path) -> Iterator[Container]:
    """Yield containers in order of start, and write the file with their addresses."""
    lines, number = ["127.0.0.1 localhost"], 1
    for service, what in services.items():
        replicas = int(what.get("deploy", {}).get("replicas", 1))
        for i in range(replicas):
            number += 1
            name = f"{service}-{i + 1}" if replicas > 1 else service
            lines.append(f"{SUBNET}.{number} {name} {service}")
            yield Container(name, what, image, root, f"{SUBNET}.{number}", hosts)
    hosts.write_text("\n".join(lines) + "\n")


@contextlib.contextmanager
def network(containers: list[Container]) -> Iterator[None]:
    """Have a bridge, and a namespace for each container with one end of a cable to it."""
    with contextlib.ExitStack() as undo:
        run(*f"ip link add {BRIDGE} type bridge".split())
        undo.callback(run, *f"ip link del {BRIDGE}".split())
        run(*f"ip addr add {SUBNET}.1/24 dev {BRIDGE}".split())
        run(*f"ip link set {BRIDGE} up".split())
        for i, container in enumerate(containers):
            inside = f"ip -n {container.namespace}"
            run("ip", "netns", "add", container.namespace)
            undo.callback(run, "ip", "netns", "del", container.namespace)
            run(*f"ip link add veth{i} type veth peer name eth0 netns {container.namespace}".split())
            run(*f"ip link set veth{i} master {BRIDGE} up".split())
            run(*f"{inside} addr add {container.address}/24 dev eth0".split())
            run(*f"{inside} link set eth0 up".split())
            run(*f"{inside} link set lo up".split())
            run(*f"{inside} route add default via {SUBNET}.1".split())
        yield


def mind(containers: list[Container]) -> None:
    """Start again what failed and is to be started again; end all where another one has ended."""
    for container in containers:
        if container.ended() and container.service.get("restart") == "on-failure" and container.exit_code():
            say(f"{container.name} ended with exit code {container.exit_code()}; it is started again")
            container.start()
        elif container.ended() and container is not containers[-1]:
            sys.exit(f"{container.name} ended with exit code {container.exit_code()}.")


def say(text: str) -> None:
    """Tell how things are."""
    print(f"-- {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
