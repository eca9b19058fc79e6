"""Directories with a Debian of another release, and commands that run in them.

The mirror and its keys are those of this machine's apt. Each command gets its own mount namespace for its mounts, which
the kernel removes when the command ends.
"""

import os
import pathlib
import re
import shutil
import subprocess

SOURCES = pathlib.Path("/etc/apt")
# A command that uses apt or pip gets these files from the machine, if they exist.
MACHINE = ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs", "/etc/pip.conf"]
# Mounts what a program expects, then the rest as pairs of words up to `--`, and starts the command in the root
# directory $1.
ENTER = r"""
root=$1; shift
mount --rbind /dev "$root/dev"
mount -t proc proc "$root/proc" 2>/dev/null || mount --rbind /proc "$root/proc"
mount --rbind /sys "$root/sys"
while [ "$1" != -- ]; do
    if [ -d "$1" ]; then mkdir -p "$root$2"; else mkdir -p "$(dirname "$root$2")"; [ -e "$root$2" ] || : > "$root$2"; fi
    mount --rbind "$1" "$root$2"
    shift 2
done
shift
exec "$@"
"""


def mirror():
    """Returns the address and the keyring of Debian's packages from this machine's apt, or `None` without one."""
    for file in sorted([SOURCES / "sources.list", *(SOURCES / "sources.list.d").glob("*")]):
        if not file.is_file():
            continue
        text = "\n".join(line for line in file.read_text().splitlines() if not line.startswith("#"))
        if file.suffix == ".sources":
            for paragraph in re.split(r"\n\s*\n", text):
                fields = dict(re.findall(r"^([\w-]+):\s*(.*)$", paragraph, re.M))
                uri = fields.get("URIs", "").split()
                if uri and is_debian(uri[0]) and fields.get("Enabled", "yes") != "no":
                    return uri[0], fields.get("Signed-By")
        for options, uri in re.findall(r"^deb\s+(?:\[(.*?)\]\s+)?(\S+)", text, re.M):
            if is_debian(uri):
                return uri, dict(option.split("=", 1) for option in options.split()).get("signed-by")
    return None


def is_debian(uri):
    return uri.rstrip("/").endswith("/debian")


def lacking():
    """Returns what this machine lacks to make a Debian of another release, in a few words, or `None`."""
    if os.geteuid() != 0:
        return "a Debian of another release needs root"
    if shutil.which("mmdebstrap") is None:
        return "mmdebstrap is missing (Debian: apt install mmdebstrap)"
    if mirror() is None:
        return "this machine's apt has no source of Debian packages"
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True, text=True)
    if done.returncode:
        return f"no mount namespace may be made here: {done.stderr.strip()}"
    return None


def make(directory, suite, packages):
    """Makes a Debian with these packages, unless the directory exists."""
    directory = pathlib.Path(directory)
    if directory.is_dir():
        return directory
    partial = directory.with_name(directory.name + ".partial")
    subprocess.run(["rm", "-rf", "--one-file-system", partial], check=True)
    partial.parent.mkdir(parents=True, exist_ok=True)
    uri, keyring = mirror()
    signed = f"[signed-by={keyring}] " if keyring and keyring.startswith("/") else ""
    subprocess.run(
        [
            "unshare", "--mount", "mmdebstrap", "--quiet", "--mode=root", "--variant=apt",
            # A mirror may be some weeks old. Its index is still signed.
            "--aptopt=Acquire::Check-Valid-Until \"false\"",
            f"--include={','.join(packages)}", suite, partial, f"deb {signed}{uri} {suite} main",
        ],
        check=True,
    )  # fmt: skip
    partial.rename(directory)
    return directory


def entering(root, command, binds=(), *, workdir="/", env=None, user=None, unshare=(), before="", prefix=()):
    """Returns the words that run `command` in the root directory. `binds` has pairs of a path here and its path there.
    `before` is a shell script for the new namespaces, before the mounts. `prefix` has words before chroot(8)."""
    pairs = [(path, path) for path in MACHINE if os.path.exists(path)]
    words = [str(word) for pair in [*pairs, *binds] for word in pair]
    settings = [f"{name}={value}" for name, value in (env or {}).items()]
    userspec = [f"--userspec={user}", "--groups="] if user else []
    # The shell changes to the working directory inside, and then becomes the command.
    shell = ["/bin/sh", "-c", 'cd "$1"; shift; exec "$@"', "sh", workdir]
    return [
        "unshare", "--mount", "--propagation", "private", *unshare, "sh", "-euc", before + ENTER, "sh", root, *words, "--",
        *prefix, "chroot", *userspec, root, "env", "-i", *settings, *shell, *command,
    ]  # fmt: skip


def pip_environment():
    """Returns the variables with which this machine's pip finds packages."""
    return {name: value for name, value in os.environ.items() if name.startswith("PIP_") or name.lower().endswith("_proxy")}


def pip_binds():
    """Returns the directories with packages for pip, and its cache."""
    places = [*os.environ.get("PIP_FIND_LINKS", "").split(), os.path.expanduser("~/.cache/pip")]
    return [(place, place) for place in places if os.path.isdir(place)]
