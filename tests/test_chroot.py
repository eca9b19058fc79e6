"""Tests of tools/chroot.py: it finds this machine's mirror of Debian, and leaves no mount behind."""

import os
import pathlib
import subprocess

import pytest

import chroot

ONE_LINE = """\
# deb http://old.example/debian bookworm main
deb http://security.example/debian-security bookworm-security main
deb [arch=amd64 signed-by=/usr/share/keyrings/some.gpg] http://mirror.example/debian/ bookworm main contrib
"""
PARAGRAPHS = """\
Types: deb
URIs: https://packages.example/apt
Suites: stable
Components: main

Enabled: no
Types: deb
URIs: http://off.example/debian
Suites: bookworm
Components: main

Types: deb
# A comment.
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: /usr/share/keyrings/other.gpg
"""


@pytest.mark.parametrize("name, text, expected", [
    ("sources.list", ONE_LINE, ("http://mirror.example/debian/", "/usr/share/keyrings/some.gpg")),
    ("sources.list", "deb http://mirror.example/debian sid main\n", ("http://mirror.example/debian", None)),
    ("sources.list.d/debian.sources", PARAGRAPHS, ("http://mirror.example/debian", "/usr/share/keyrings/other.gpg")),
    ("sources.list.d/debian.list", ONE_LINE, ("http://mirror.example/debian/", "/usr/share/keyrings/some.gpg")),
    ("sources.list", "deb http://archive.example/ubuntu noble main\n", None),
    ("sources.list", "", None),
])  # fmt: skip
def test_mirror_is_the_one_of_this_machines_apt(tmp_path, monkeypatch, name, text, expected):
    monkeypatch.setattr(chroot, "SOURCES", tmp_path)
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert chroot.mirror() == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="a chroot needs root")
@pytest.mark.parametrize("command, code", [(["true"], 0), (["sh", "-c", "kill -9 $$"], -9)])
def test_no_mount_is_left_behind_however_the_command_ends(tmp_path, command, code):
    if subprocess.run(["unshare", "--mount", "true"], capture_output=True).returncode:
        pytest.skip("no mount namespace may be made here")
    for name in ("dev", "proc", "sys", "tmp"):
        (tmp_path / name).mkdir()
    # The root directory has this machine's own programs.
    binds = [(place, place) for place in ("/usr", "/bin", "/lib", "/lib64", "/sbin") if os.path.isdir(place)]
    env = {"PATH": os.environ["PATH"]}
    done = subprocess.run(chroot.entering(tmp_path, command, binds, env=env), capture_output=True, text=True, timeout=60)
    assert done.returncode == code, done
    assert str(tmp_path) not in pathlib.Path("/proc/mounts").read_text()
    assert not any((tmp_path / "usr").iterdir())
