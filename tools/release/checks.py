"""Checks a wheel before it is published. Each check yields a sentence for each fault."""

import base64
import csv
import email
import functools
import hashlib
import io
import json
import pathlib
import re
import subprocess
import sys
import sysconfig
import tempfile
import zipfile

from elftools.elf.elffile import ELFFile

import tree

# Libraries that each such system has. Python's symbols come from the interpreter, never from libpython.
LIBRARIES = {
    "gnu": r"(libc\.so\.6|libm\.so\.6|libdl\.so\.2|libpthread\.so\.0|librt\.so\.1|ld-linux-(x86-64|aarch64)\.so\.[12])",
    "musl": r"(libc\.so|libc\.musl-(x86_64|aarch64)\.so\.1)",
}
MACHINES = {"x86_64": "EM_X86_64", "aarch64": "EM_AARCH64"}
LICENCES = {"LICENSE-MIT", "LICENSE-APACHE", "LICENSE-THIRD-PARTY.txt"}


@functools.cache
def crates(target=None):
    """Returns the names and versions of all crates in a wheel for this target, or for any."""
    tree_of = ["cargo", "tree", "--locked", "--edges", "normal", "--prefix", "none", "--format", "{p}"]
    targets = [target] if target else ["x86_64-unknown-linux-gnu", "aarch64-unknown-linux-musl"]
    lines = set()
    for one in targets:
        lines.update(subprocess.check_output([*tree_of, "--target", one], cwd=tree.ROOT, text=True).splitlines())
    found = {tuple(line.split()[:2]) for line in lines if line}
    return {(name, number.removeprefix("v")) for name, number in found if name != "maypole"}


def third_party_problems(text, wanted):
    unnamed = [f"{name} {number}" for name, number in sorted(wanted)
               if not re.search(rf"^    {re.escape(name)} {re.escape(number)}\b", text, re.MULTILINE)]
    if unnamed:
        yield f"LICENSE-THIRD-PARTY.txt does not name {', '.join(unnamed)}: run `make licences`"


def is_promised(found, promised):
    """Returns whether a platform tag is the promised one, or one of the same kind for older systems."""
    kind, *oldest = re.match(r"([a-z]+)_(\d+)_(\d+)_", promised).groups()
    return bool(match := re.match(rf"{kind}_(\d+)_(\d+)_", found)) and \
        tuple(map(int, match.groups())) <= tuple(map(int, oldest))


def strange_symbols(elf, symbols, libc):
    """Returns the symbols that the library requires and that neither Python nor the C library has.

    The linker takes them for Python's. glibc gives each of its names a version; a name without one is not in the glibc
    that zig linked to. musl has no versions, but zig has the list of its names.
    """
    versions = elf.get_section_by_name(".gnu.version")
    of_musl = musl_names() if libc == "musl" else set()
    for number, symbol in enumerate(symbols):
        wanted = symbol.name and symbol["st_shndx"] == "SHN_UNDEF" and symbol["st_info"]["bind"] != "STB_WEAK"
        if not wanted or re.match("_?Py", symbol.name):
            continue
        versioned = versions is not None and versions.get_symbol(number)["ndx"] not in ("VER_NDX_LOCAL", "VER_NDX_GLOBAL")
        if not versioned and symbol.name not in of_musl:
            yield symbol.name


def musl_names():
    """Returns the symbols that musl's libc.so exports, from zig's list for its stub."""
    where = pathlib.Path(sysconfig.get_path("purelib"), "ziglang/lib/libc/musl/libc.S")
    return set(re.findall(r"^\.type (\w+),", where.read_text(), re.MULTILINE))


class Wheel:
    """A wheel that was built for a target triple and a CPython, "3.14" or "3.14t"."""

    def __init__(self, path, target, python):
        self.path, self.target, self.python = path, target, python
        self.archive = zipfile.ZipFile(path)
        self.names = self.archive.namelist()
        self.info = f"maypole-{tree.version()}.dist-info/"

    def read(self, name):
        return self.archive.read(name)

    def problems(self):
        for check in (self.tags, self.record, self.places, self.metadata, self.licences, self.bill_of_materials,
                      self.library, self.auditwheel, self.twine):
            yield from check()

    def platform(self):
        machine, libc = self.target.split("-")[0], self.target.rsplit("-", 1)[1]
        return f"musllinux_1_2_{machine}" if libc == "musl" else f"manylinux2014_{machine}.manylinux_2_17_{machine}"

    def tags(self):
        tag = "cp" + self.python.replace(".", "")
        expected = f"maypole-{tree.version()}-{tag.rstrip('t')}-{tag}-{self.platform()}.whl"
        if self.path.name != expected:
            yield f"its name should be {expected}"
        inside = set(re.findall(r"^Tag: (\S+)$", self.read(self.info + "WHEEL").decode(), re.MULTILINE))
        if inside != {f"{tag.rstrip('t')}-{tag}-{one}" for one in self.platform().split(".")}:
            yield f"WHEEL has other tags: {', '.join(sorted(inside))}"

    def record(self):
        """Checks that RECORD has each file with its hash, and no other file."""
        rows = list(csv.reader(io.StringIO(self.read(self.info + "RECORD").decode())))
        files = {name for name in self.names if not name.endswith("/")}
        if {row[0] for row in rows} != files:
            yield "RECORD does not list the files of the wheel"
            return
        for name, expected, _ in rows:
            digest = base64.urlsafe_b64encode(hashlib.sha256(self.read(name)).digest()).rstrip(b"=").decode()
            if expected and expected != f"sha256={digest}":
                yield f"{name} has another hash than RECORD says"
        for name in files:
            if not name.startswith(("maypole/", "pytest_maypole/", self.info)):
                yield f"{name} is in a directory that is not ours"

    def places(self):
        """Checks that no file names directories of the machine that built it."""
        for place in (tree.cargo_home(), tree.ROOT):
            if named := [name for name in self.names if bytes(place) in self.read(name)]:
                yield f"{', '.join(named)}: it names {place}"

    def metadata(self):
        message = email.message_from_bytes(self.read(self.info + "METADATA"))
        if message["Version"] != tree.version():
            yield f"METADATA says version {message['Version']}, Cargo.toml says {tree.version()}"
        if message["License-Expression"] != "MIT OR Apache-2.0":
            yield f"METADATA says the licence is {message['License-Expression']}"
        minor = self.python.rstrip("t")
        if f"Programming Language :: Python :: {minor}" not in message.get_all("Classifier", []):
            yield f"METADATA has no classifier for Python {minor}"
        for link in tree.relative_links(message.get_payload(decode=True).decode()):
            yield f"the description has a relative link, which PyPI cannot follow: {link}"

    def licences(self):
        for name in sorted(LICENCES):
            if f"{self.info}licenses/{name}" not in self.names:
                yield f"{name} is missing"
                return
        text = self.read(f"{self.info}licenses/LICENSE-THIRD-PARTY.txt").decode()
        yield from third_party_problems(text, crates(self.target))

    def bill_of_materials(self):
        """Checks that there is a CycloneDX file at the place of PEP 770, with each crate."""
        name = f"{self.info}sboms/maypole.cyclonedx.json"
        if name not in self.names:
            yield "it has no SBOM"
            return
        bill = json.loads(self.read(name))
        listed = {(part["name"], part["version"]) for part in bill["components"]}
        if missing := crates(self.target) - listed:
            yield f"the SBOM does not name {missing}"

    def library(self):
        """Checks that the extension needs only the C library, and only symbols of Python and the C library."""
        (name,) = [name for name in self.names if name.startswith("maypole/_native") and name.endswith(".so")]
        suffix = f"cpython-{self.python.replace('.', '')}"
        if f".{suffix}-" not in name:
            yield f"{name} is not named for {suffix}"
        machine, libc = self.target.split("-")[0], self.target.rsplit("-", 1)[1]
        elf = ELFFile(io.BytesIO(self.read(name)))
        if elf["e_machine"] != MACHINES[machine]:
            yield f"{name} is for {elf['e_machine']}"
        dynamic = elf.get_section_by_name(".dynamic")
        for entry in dynamic.iter_tags("DT_NEEDED"):
            if not re.fullmatch(LIBRARIES[libc], entry.needed):
                yield f"{name} needs {entry.needed}"
        if any(dynamic.iter_tags("DT_RPATH")) or any(dynamic.iter_tags("DT_RUNPATH")):
            yield f"{name} has a search path of the machine that built it"
        symbols = list(elf.get_section_by_name(".dynsym").iter_symbols())
        exported = [symbol.name for symbol in symbols
                    if symbol["st_shndx"] != "SHN_UNDEF" and symbol.name.startswith("PyInit_")]
        if exported != ["PyInit__native"]:
            yield f"{name} exports {exported} instead of PyInit__native"
        if strange := set(strange_symbols(elf, symbols, libc)):
            yield f"{name} needs {', '.join(sorted(strange))}, which neither Python nor the oldest C library has"

    def auditwheel(self):
        """Checks symbols and libraries against the platform tag. The libraries of this machine play no part in that."""
        with tempfile.TemporaryDirectory() as empty:
            done = subprocess.run([sys.executable, "-m", "auditwheel", "show", "--json", "--ldpaths", empty, str(self.path)],
                                  capture_output=True, text=True, timeout=300)
        if done.returncode:
            yield f"auditwheel: {done.stdout}{done.stderr}".strip()
            return
        found = json.loads(done.stdout)
        promised = self.platform().split(".")[-1]
        # auditwheel wants Alpine's name of the C library. musl's loader takes each name that begins with "libc." for
        # itself.
        wanted = found["policy_upgrades"].get(promised)
        only_a_name = promised.startswith("musl") and wanted == {"libs_to_eliminate": ["libc.so"]}
        if not is_promised(found["overall_tag"], promised) and not only_a_name:
            yield f"auditwheel says {found['overall_tag']} instead of {promised}: {found['policy_upgrades']}"
        if set(found["external_libs"]) - {"libc.so"}:
            yield f"auditwheel finds libraries of the system: {found['external_libs']}"

    def twine(self):
        done = subprocess.run([sys.executable, "-m", "twine", "check", "--strict", str(self.path)],
                              capture_output=True, text=True, timeout=120)
        if done.returncode:
            yield f"twine: {done.stdout}{done.stderr}".strip()
