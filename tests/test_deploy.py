"""The files of examples/deploy: against the pages, against their schemas, and with a process manager.

`make test-deploy` builds the Dockerfile and runs the image.
"""

import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

import image
from client import PATIENCE, Client
from ports import free_port
from process import MAYPOLE, ROOT, Lines, clean_environment, run

# The environments of the smoke tests lack these packages.
yaml = pytest.importorskip("yaml")
pytest.importorskip("flask")
EXAMPLES = ROOT / "examples" / "deploy"
HOWTO = ROOT / "docs" / "howto"
FILE = re.compile(r"^<!-- snippet: file (\S+) -->\n```[^\n]*\n(.*?)^```$", re.M | re.S)
PAGES = {
    "docker.md": ["shop.py", "requirements.txt", "Dockerfile", ".dockerignore", "compose.yaml"],
    "kubernetes.md": ["deployment.yaml", "service.yaml", "disruption-budget.yaml", "autoscaler.yaml"],
    "heroku.md": ["Procfile"],
}


def tool(name):
    """Returns the path of a program in the tests' environment."""
    return pathlib.Path(sys.executable).with_name(name)


def manifest():
    return yaml.safe_load((EXAMPLES / "kubernetes/deployment.yaml").read_text())


def pod():
    return manifest()["spec"]["template"]["spec"]


@pytest.mark.parametrize("page", PAGES)
def test_page_shows_the_files_as_they_are(page):
    shown = dict(FILE.findall((HOWTO / page).read_text()))
    for name in PAGES[page]:
        place = EXAMPLES / "kubernetes" / name if page == "kubernetes.md" else EXAMPLES / name
        assert shown.get(name) == place.read_text(), f"{page}: {name} is not {place.relative_to(ROOT)}"


# --- Docker -------------------------------------------------------------------------------------------------------


def instructions(*names):
    return [one for one in image.parse((EXAMPLES / "Dockerfile").read_text()) if one.name in names]


def test_dockerfile_copies_every_file_that_the_build_of_the_wheel_names():
    words = [word for one in instructions("COPY") if one.flags.get("from") == ["maypole"] for word in one.words()[:-1]]
    assert all(list(ROOT.glob(word)) for word in words)
    copied = {place.name for word in words for place in ROOT.glob(word)}
    project = (ROOT / "pyproject.toml").read_text()
    named = re.findall(r'^readme = "(.+)"', project, re.M)
    for listed in re.findall(r"^license-files = \[(.*?)\]", project, re.M | re.S):
        named += re.findall(r'"(.+?)"', listed)
    named += re.findall(r'^python-source = "(.+)"', project, re.M)
    manifest = (ROOT / "Cargo.toml").read_text()
    named += [f"{kind}s" if kind == "example" else f"{kind}es" for kind in re.findall(r"^\[\[(example|bench)\]\]", manifest, re.M)]
    assert len(named) > 5
    assert set(named) | {"Cargo.toml", "Cargo.lock", "build.rs", "pyproject.toml", "src"} <= copied


def test_dockerfile_starts_the_server_itself_as_a_user_without_rights():
    cmd, user = instructions("CMD")[-1], instructions("USER")[-1]
    assert cmd.exec_form()[0] == "maypole"
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user.value)


def test_rust_of_the_dockerfile_suffices():
    text = (EXAMPLES / "Dockerfile").read_text()
    needed = re.search(r'^rust-version = "(.+)"', (ROOT / "Cargo.toml").read_text(), re.M)[1]
    assert f"Maypole needs Rust {needed} " in text


def test_health_check_fails_without_a_server_and_where_it_answers_an_error(server):
    check = image.instruction(0, instructions("HEALTHCHECK")[-1].value).exec_form()
    check[0] = sys.executable
    started = server("probe")
    shop = server("shop", cwd=EXAMPLES)
    # `probe` has no /livez, and no server listens on the last port.
    for port, is_well in [(shop.port, True), (started.port, False), (free_port(), False)]:
        done = subprocess.run(check, env=clean_environment(PORT=str(port)), timeout=3 * PATIENCE, capture_output=True)
        assert (done.returncode == 0) == is_well, done


def test_ignored_files_are_no_part_of_the_image():
    patterns = image.ignored(EXAMPLES / ".dockerignore")
    for path in [".git/config", ".env", ".env.local", "server.key", "a/b/__pycache__/c.pyc", "venv/bin/python", "Dockerfile"]:
        assert image.is_ignored(path, patterns), path
    for path in ["shop.py", "requirements.txt", "static/logo.png", "shop/views.py", "shop/venv.py"]:
        assert not image.is_ignored(path, patterns), path


def test_compose_file_is_as_its_specification_says():
    command = [tool("check-jsonschema"), "--builtin-schema", "vendor.compose-spec", EXAMPLES / "compose.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_file_lets_the_server_end(server):
    service = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]["shop"]
    [port] = [line.value for line in instructions("EXPOSE")]
    assert [one.rpartition(":")[2] for one in service["ports"]] == [port]
    assert_settings(service["environment"])
    graceful = seconds(service["environment"]["MAYPOLE_GRACEFUL_TIMEOUT"])
    assert seconds(service["stop_grace_period"]) >= graceful + 10
    source = (EXAMPLES / service["build"]["additional_contexts"]["maypole"].rpartition(":-")[2].rstrip("}")).resolve()
    assert source == ROOT
    declared = {one.value.partition("=")[0] for one in instructions("ARG")}
    assert set(service["build"]["args"]) <= declared


def seconds(text):
    return float(re.fullmatch(r"(\d+)s", text)[1])


def assert_settings(env):
    """Checks that Maypole accepts these variables and their values."""
    env = {name: str(value) for name, value in env.items()}
    done = run("--print-config", "shop", cwd=EXAMPLES, env=env)
    assert done.returncode == 0 and "WARNING" not in done.stderr, done
    known = {line.split(" = ")[0] for line in done.stdout.splitlines()}
    assert {name.removeprefix("MAYPOLE_").lower() for name in env if name.startswith("MAYPOLE_")} <= known


# --- Kubernetes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PAGES["kubernetes.md"])
def test_manifest_is_as_the_api_says(name):
    validate = pytest.importorskip("kubernetes_validate")
    document = yaml.safe_load((EXAMPLES / "kubernetes" / name).read_text())
    validate.validate(document, validate.latest_version(), strict=True)


def test_manifests_mean_the_same_pods():
    labels = manifest()["spec"]["template"]["metadata"]["labels"]
    service, budget = (yaml.safe_load((EXAMPLES / f"kubernetes/{name}.yaml").read_text()) for name in ("service", "disruption-budget"))
    selectors = [manifest()["spec"]["selector"], budget["spec"]["selector"]]
    assert all(selector["matchLabels"] == labels for selector in selectors)
    assert service["spec"]["selector"] == labels
    target = yaml.safe_load((EXAMPLES / "kubernetes/autoscaler.yaml").read_text())["spec"]["scaleTargetRef"]
    assert (target["kind"], target["name"]) == (manifest()["kind"], manifest()["metadata"]["name"])
    [container] = pod()["containers"]
    ports = {one["name"] for one in container["ports"]}
    assert {one["targetPort"] for one in service["spec"]["ports"]} <= ports
    assert {probe["httpGet"]["port"] for name, probe in container.items() if name.endswith("Probe")} <= ports
    assert {mount["name"] for mount in container["volumeMounts"]} == {volume["name"] for volume in pod()["volumes"]}


def test_pod_has_time_for_its_end():
    [container] = pod()["containers"]
    env = {one["name"]: one["value"] for one in container["env"]}
    assert_settings({name: value for name, value in env.items() if name != "MAYPOLE_SPOOL_DIR"})
    [program, pause] = container["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    assert pod()["terminationGracePeriodSeconds"] >= int(pause) + seconds(env["MAYPOLE_GRACEFUL_TIMEOUT"]) + 10
    [spool] = [volume["emptyDir"]["sizeLimit"] for volume in pod()["volumes"] if volume["name"] == "spool"]
    assert spool == "1Gi" and int(env["MAYPOLE_SPOOL_TOTAL"].removesuffix("MiB")) < 1024


def test_probes_are_answered(server):
    started = server("shop", cwd=EXAMPLES)
    [container] = pod()["containers"]
    for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
        assert started.get(container[probe]["httpGet"]["path"]).status == 200


# --- Heroku -------------------------------------------------------------------------------------------------------


def test_procfile_serves_on_its_port_and_answers_what_runs_when_it_is_stopped():
    path = os.pathsep.join([os.path.dirname(MAYPOLE), os.environ["PATH"]])
    shown = re.search(r"^honcho (start --port) 8000$", (HOWTO / "heroku.md").read_text(), re.M)[1].split()
    command = [tool("honcho"), *shown, str(free_port()), "--no-prefix", "--no-colour"]
    process = subprocess.Popen(
        command, cwd=EXAMPLES, env=clean_environment(PATH=path, PYTHONUNBUFFERED="1"), start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        lines = Lines(process.stdout)
        address = lines.wait(r"listening on (http://0\.0\.0\.0:\d+)")[1]
        with Client(address) as client:
            client.request("GET /slow HTTP/1.1").head()
            pieces = client.chunks()
            assert next(pieces) == b"first line\n"
            process.send_signal(signal.SIGTERM)
            assert list(pieces) == [b"last line\n"]
        # This is the status of the shell around the server. The shell got SIGTERM as well.
        assert process.wait(PATIENCE) in (0, 128 + signal.SIGTERM), lines.text()
        said = lines.wait_end()
        assert "stopped" in said and '"GET /slow HTTP/1.1" 200 ' in said
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(PATIENCE)


def test_procfile_ends_before_heroku_kills_it():
    [line] = (EXAMPLES / "Procfile").read_text().splitlines()
    # Heroku sends SIGKILL 30 s after SIGTERM. Its router closes a connection that was idle for 90 s.
    assert seconds(re.search(r"--graceful-timeout (\S+)", line)[1]) + 5 <= 25
    assert seconds(re.search(r"--keep-alive (\S+)", line)[1]) > 90
