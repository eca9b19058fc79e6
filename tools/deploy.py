"""deploy.py TARGET: tests examples/deploy on a machine without a container engine and without a cluster.

Builds the Dockerfile (tools/image.py says how), runs the image as Docker does, runs it again as the Kubernetes manifest
says, asks its health check and its probes, and stops it while a response is under way. Build files go into TARGET/deploy.
"""

import contextlib
import pathlib
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time

import chroot
import image
import yaml

ROOT = pathlib.Path(__file__).resolve().parent.parent
EXAMPLES = ROOT / "examples" / "deploy"
PATIENCE = 60
READ = """
import http.client, sys
c = http.client.HTTPConnection("127.0.0.1", {port}, timeout=30)
c.request("GET", {path!r})
r = c.getresponse()
print(r.status, flush=True)
for line in r:
    print(line.decode(), end="", flush=True)
"""


class Lines(threading.Thread):
    """Prints the lines of a pipe, and lets other threads wait for one."""

    def __init__(self, stream):
        super().__init__(daemon=True)
        self.stream, self.text, self.changed = stream, "", threading.Condition()
        self.start()

    def run(self):
        for line in self.stream:
            print(f"    {line}", end="", flush=True)
            with self.changed:
                self.text += line
                self.changed.notify_all()

    def wait(self, pattern):
        with self.changed:
            assert self.changed.wait_for(lambda: re.search(pattern, self.text), PATIENCE), f"no {pattern!r}"


@contextlib.contextmanager
def running(stage, **more):
    container = image.Container(stage, **more)
    out, err = Lines(container.process.stdout), Lines(container.process.stderr)
    try:
        err.wait(r"listening on http://0\.0\.0\.0:")
        yield container, out, err
    finally:
        container.kill()


def stop_during_a_response(container, port, patience=PATIENCE):
    """Sends SIGTERM to process 1 while a client reads. The client gets everything, and the exit code is 0."""
    slow = container.client(READ.format(port=port, path="/slow"))
    assert [slow.stdout.readline() for _ in range(2)] == ["200\n", "first line\n"]
    subprocess.run(["kill", "-TERM", str(container.first)], check=True)
    assert slow.stdout.read() == "last line\n"
    assert slow.wait(PATIENCE) == 0
    assert container.process.wait(patience) == 0
    print("    stopped with status 0; the client had the whole response")


def try_docker(stage):
    say("the image, as `docker run` starts it")
    [port] = stage.ports
    assert int(stage.env["PORT"]) == port
    with running(stage) as (container, out, err):
        status = pathlib.Path(f"/proc/{container.first}/status").read_text()
        uid, gid = stage.user.split(":")
        assert re.search(rf"^Uid:\t{uid}\t{uid}\t", status, re.M) and re.search(rf"^Gid:\t{gid}\t{gid}\t", status, re.M)
        # Process 1 of the container is the server itself, without a shell.
        assert re.search(r"^NSpid:.*\t1$", status, re.M) and "/maypole" in command_of(container.first)
        command, timeout = stage.healthcheck
        done = container.execute(command, timeout)
        assert done.returncode == 0, done
        out.wait(r'"GET /livez HTTP/1\.1" 200 ')
        stop_during_a_response(container, port)
        out.wait(r'"GET /slow HTTP/1\.1" 200 ')
        assert_calm(err)
    with running(stage, env={"PORT": "9000"}) as (container, _, _):
        assert container.execute(command, timeout).returncode == 0
        # A stuck server does not respond to health checks.
        [server] = children(container.first)
        subprocess.run(["kill", "-STOP", str(server)], check=True)
        assert container.execute(command, timeout).returncode != 0
        subprocess.run(["kill", "-CONT", str(server)], check=True)


def try_kubernetes(stage):
    say("the image, as the manifest says")
    pod = yaml.safe_load((EXAMPLES / "kubernetes/deployment.yaml").read_text())["spec"]["template"]["spec"]
    [spec] = pod["containers"]
    assert stage.user == f"{pod['securityContext']['runAsUser']}:{pod['securityContext']['runAsGroup']}"
    env = {one["name"]: one["value"] for one in spec["env"]}
    [port] = [one["containerPort"] for one in spec["ports"] if one["name"] == "http"]
    with tempfile.TemporaryDirectory() as volumes:
        binds = []
        for mount in spec["volumeMounts"]:
            place = pathlib.Path(volumes, mount["name"])
            place.mkdir()
            place.chmod(0o777)
            binds.append((place, mount["mountPath"]))
            (stage.root / mount["mountPath"].lstrip("/")).mkdir(parents=True, exist_ok=True)
        with running(stage, env=env, binds=binds, read_only=True) as (container, out, err):
            assert container.execute(["touch", "/srv/shop/file"], 20).returncode != 0, "the root is not read-only"
            for kind in ("startupProbe", "livenessProbe", "readinessProbe"):
                path = spec[kind]["httpGet"]["path"]
                with container.client(READ.format(port=port, path=path)) as probe:
                    assert probe.communicate(timeout=PATIENCE)[0].startswith("200\n"), path
            out.wait(r'"path": ?"/readyz"')
            hook = spec["lifecycle"]["preStop"]["exec"]["command"]
            grace = pod["terminationGracePeriodSeconds"]
            began = time.monotonic()
            done = container.execute(hook, grace)
            assert done.returncode == 0, done
            # The page's command that shows what a pod is doing.
            assert container.execute(["sh", "-c", "kill -QUIT 1"], 20).returncode == 0
            err.wait(r"Python threads?:\s+MainThread")
            stop_during_a_response(container, port, grace)
            seconds = time.monotonic() - began
            assert seconds < grace
            print(f"    the end took {seconds:.1f} s of {grace} s")
        assert_calm(err)


def assert_calm(err):
    """Checks that the server logged no warning or error."""
    err.join(PATIENCE)
    assert not re.search(r"\[(WARNING|ERROR|CRITICAL)\]", err.text)


def children(pid):
    return [int(child) for child in pathlib.Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def command_of(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def say(text):
    print(f"\n=== {text}", flush=True)


def main():
    target = pathlib.Path(sys.argv[1]).resolve()
    if reason := chroot.lacking():
        print(f"deploy: SKIPPED, {reason}")
        return
    signal.signal(signal.SIGINT, signal.default_int_handler)
    work = target / "deploy" / "stages"
    work.mkdir(parents=True, exist_ok=True)
    builder = image.Builder(
        EXAMPLES / "Dockerfile", work, context=EXAMPLES, contexts={"maypole": ROOT}, args={"MAYPOLE": "source"}
    )
    stage = builder.build()
    try_docker(stage)
    try_kubernetes(stage)
    say("all is well")


if __name__ == "__main__":
    main()
