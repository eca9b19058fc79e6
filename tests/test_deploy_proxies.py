"""The files of examples/deploy for systemd and for proxies: the programs that read them take them."""

import os
import re
import subprocess

import pytest

from client import PATIENCE
from deployment import needs, place, program_path  # noqa: F401 (a fixture)
from process import ROOT
from test_systemd import analyze, unit

EXAMPLES = ROOT / "examples" / "deploy"


def test_units_are_what_systemd_takes(place):  # noqa: F811
    needs("systemd-analyze")
    for name in ("shop.socket", "shop.service"):
        (place / name).write_text(unit((EXAMPLES / "systemd" / name).read_text()))
    done = analyze("verify", "--man=no", place / "shop.socket", place / "shop.service")
    assert done.returncode == 0 and not done.stderr.strip(), done.stderr
    done = analyze("security", "--offline=true", "--no-pager", place / "shop.service")
    assert float(re.search(r"Overall exposure level for shop.service: ([\d.]+)", done.stdout)[1]) < 3, done.stdout


def test_caddy_takes_its_file(place):  # noqa: F811
    needs("caddy")
    env = {**os.environ, "HOME": str(place), "XDG_DATA_HOME": str(place), "XDG_CONFIG_HOME": str(place)}
    command = [program_path("caddy"), "validate", "--config", EXAMPLES / "proxies/Caddyfile", "--adapter", "caddyfile"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=3 * PATIENCE, env=env)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["envoy", "traefik"])
def test_files_name_both_instances(name):
    """Debian has neither program. test_rolling.py tries Traefik if it is there; Envoy's file has only its form checked."""
    yaml = pytest.importorskip("yaml")
    text = (EXAMPLES / f"proxies/{name}.yaml").read_text()
    assert yaml.safe_load(text) and "8001" in text and "8002" in text
    assert re.search(r"maypole --workers 2 --keep-alive \d+[sm]", text)
