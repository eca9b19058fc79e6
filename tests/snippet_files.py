"""Checks files in the documentation by their names: the program that reads such a file must accept it."""

import configparser
import json
import os
import re
import shlex
import shutil
import subprocess

import yaml

from client import PATIENCE
from process import run

UNITS = (".service", ".socket", ".timer", ".path", ".target")
# The programs that a unit in the documentation may start. They are installed on the reader's machine.
STAND_IN = "/bin/true"
SETTINGS_OF_A_UNIT = re.compile(r"^(Environment|EnvironmentFile|ExecStart|WorkingDirectory)=(.*)$", re.M)


class Failure(Exception):
    """A block does not do as its page says."""


class Missing(Exception):
    """A program that a block needs is not on this machine."""


def fail(place, text):
    raise Failure(f"{place}: {text}")


def needs(place, program, page):
    if not shutil.which(program, path=page.env["PATH"]):
        raise Missing(f"{place} needs {program}")


def command(place, page, *words, quiet=False, **env):
    done = subprocess.run(
        words, cwd=page.directory, env={**page.env, **env}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, errors="replace", timeout=3 * PATIENCE,
    )  # fmt: skip
    if done.returncode or (quiet and done.stdout.strip()):
        fail(place, f"{' '.join(map(str, words))}\n{done.stdout[-4000:]}")


def check(place, path, page):
    """Checks the file by its name. Without a rule for the name, there is no check."""
    name, text = path.name, path.read_text()
    if name.endswith(".py"):
        check_python(place, text)
    elif name.endswith(".sh"):
        check_shell(place, text)
    elif name.endswith((".json", ".yaml", ".yml", ".toml", ".ini")):
        check_data(place, name, text)
    elif name.endswith(".env") or name == ".env":
        check_variables(place, text)
    elif name == "Procfile":
        check_commands(place, re.findall(r"^\w+:\s*(.*)", text, re.M), {})
    elif name.startswith("nginx") and name.endswith(".conf"):
        check_nginx(place, path, page)
    elif name == "haproxy.cfg":
        needs(place, "haproxy", page)
        command(place, page, "haproxy", "-c", "-f", path)
    elif name == "Caddyfile":
        needs(place, "caddy", page)
        command(place, page, "caddy", "validate", "--adapter", "caddyfile", "--config", path)


def check_python(place, text):
    try:
        compile(text, place, "exec", dont_inherit=True)
    except SyntaxError as error:
        fail(place, f"no Python: {error}")


def check_shell(place, text):
    done = subprocess.run(["bash", "-n", "-c", text], capture_output=True, text=True, timeout=3 * PATIENCE)
    if done.returncode:
        fail(place, f"no shell script: {done.stderr}")


def check_data(place, name, text):
    try:
        if name.endswith(".json"):
            json.loads(text)
        elif name.endswith(".ini"):
            configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True).read_string(text)
        elif name.endswith(".toml"):
            import tomllib  # CPython 3.11

            tomllib.loads(text)
        else:
            list(yaml.safe_load_all(text))
    except (ValueError, configparser.Error, yaml.YAMLError) as error:
        fail(place, f"{name} cannot be read: {error}")


def check_variables(place, text):
    """Checks a file of variables, as systemd and Docker read it: Maypole accepts each value of its variables."""
    env = {}
    for line in text.splitlines():
        if not line.strip() or line.lstrip().startswith(("#", ";")):
            continue
        if not (match := re.fullmatch(r"([A-Za-z_]\w*)=(.*)", line)):
            fail(place, f"not a variable: {line!r}")
        env[match[1]] = match[2].strip("\"'")
    check_commands(place, ["maypole probe"], env)


def check_commands(place, lines, env):
    """Checks that Maypole accepts the options and values in each of its command lines."""
    env = {name: value for name, value in env.items() if name.startswith("MAYPOLE_") or name == "PORT"}
    for line in lines:
        program, *words = shlex.split(line)
        if os.path.basename(program) == "maypole":
            done = run("--print-config", *words, env=env)
            if done.returncode:
                fail(place, f"{line!r} with {env}: {done.stderr[-2000:]}")


def check_nginx(place, path, page):
    """Runs `nginx -t` with the usual context of a file in conf.d, and with a self-signed certificate."""
    needs(place, "nginx", page)
    text = path.read_text()
    if re.search(r"ssl_certificate", text):
        needs(place, "openssl", page)
        certificate, key = page.directory / "tls.crt", page.directory / "tls.key"
        if not key.exists():
            command(place, page, "openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj",
                    "/CN=localhost", "-keyout", key, "-out", certificate)  # fmt: skip
        text = re.sub(r"(ssl_certificate\s+)[^;]+;", rf"\g<1>{certificate};", text)
        text = re.sub(r"(ssl_certificate_key\s+)[^;]+;", rf"\g<1>{key};", text)
        path.write_text(text)
    whole = text
    if not re.search(r"^\s*(http|stream|events)\s*\{", text, re.M):
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {page.directory}/nginx-{kind};" for kind in kinds)
        whole = f"http {{ access_log off; {temporary}\n{text}\n}}"
    if not re.search(r"^\s*events\s*\{", text, re.M):
        whole = f"events {{}}\n{whole}"
    if not re.search(r"^\s*pid\s", text, re.M):
        whole = f"pid {page.directory}/nginx.pid;\n{whole}"
    tried = path.with_name(f".tried-{path.name}")
    tried.write_text(whole)
    command(place, page, "nginx", "-t", "-q", "-e", "stderr", "-p", page.directory, "-c", tried)


def check_units(units, page):
    """Runs `systemd-analyze verify` for all units of a page together, and checks Maypole's command lines in them."""
    for place, path in units:
        check_unit_commands(place, path, page)
    needs(units[0][0], "systemd-analyze", page)
    directory = page.directory / ".units"
    directory.mkdir()
    names = []
    for _, path in units:
        # A program that is missing on this machine is not a fault of the unit.
        text = re.sub(r"^(Exec\w+=[-@:+!]*)(/\S+)", lambda m: m[1] + (m[2] if os.path.exists(m[2]) else STAND_IN),
                      path.read_text(), flags=re.M)  # fmt: skip
        (directory / path.name).write_text(text)
        names.append(str(directory / path.name))
    command(units[0][0], page, "systemd-analyze", "verify", "--man=no", "--generators=no", *names, quiet=True,
            SYSTEMD_UNIT_PATH=f"{directory}:", SYSTEMD_LOG_LEVEL="warning")  # fmt: skip


def check_unit_commands(place, path, page):
    env, commands = {}, []
    for name, value in SETTINGS_OF_A_UNIT.findall(path.read_text().replace("\\\n", " ")):
        value = value.replace("%i", "1").replace("%%", "%")
        if name == "Environment":
            env.update(word.partition("=")[::2] for word in shlex.split(value))
        elif name == "EnvironmentFile":
            for block, file in page.files:
                if block.argument.endswith(value.lstrip("-/")) or file.name == os.path.basename(value):
                    env.update(re.findall(r"^(\w+)=(.*)$", block.text, re.M))
        elif name == "ExecStart":
            commands.append(re.sub(r"\$\{?(\w+)\}?", lambda m: env.get(m[1], ""), value).lstrip("-@:+!"))
    check_commands(place, commands, env)
