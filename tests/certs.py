"""Makes certificates with `openssl`, for the tests of TLS.

*Invariants*: every certificate is for clients and servers of this test run alone. Keys are ECDSA, which take no time.
"""

import ssl
import subprocess

from client import Client

EC = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]


class Authority:
    """A directory with an authority and the certificates that it has issued."""

    def __init__(self, directory):
        self.directory = directory
        self.openssl("req", "-x509", *EC, "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "30", "-subj", "/CN=Authority")

    def path(self, name):
        return str(self.directory / name)

    def openssl(self, *words):
        subprocess.run(["openssl", *words], cwd=self.directory, check=True, capture_output=True)

    def issue(self, name, *hosts, days=30, subject=None):
        """Makes NAME.pem and NAME.key for these hosts. Returns the options of a server."""
        names = ",".join(f"DNS:{host}" for host in hosts or [f"{name}.example"])
        self.openssl(
            "req", "-x509", *EC, "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.pem", "-days", str(days),
            "-CA", "ca.pem", "-CAkey", "ca.key", "-subj", subject or f"/CN={name}", "-addext", f"subjectAltName={names}",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )
        return self.options(name)

    def options(self, name):
        return ["--certfile", self.path(f"{name}.pem"), "--keyfile", self.path(f"{name}.key")]

    def context(self, client=None, version=None):
        """Returns the settings of a client that trusts the authority."""
        made = ssl.create_default_context(cafile=self.path("ca.pem"))
        if client:
            made.load_cert_chain(self.path(f"{client}.pem"), self.path(f"{client}.key"))
        if version:
            made.minimum_version = made.maximum_version = version
        return made


class Secured(Client):
    """A client that speaks TLS, and asks for a host."""

    def __init__(self, address, settings, host, session=None):
        super().__init__(address)
        self.socket = settings.wrap_socket(self.socket, server_hostname=host, session=session)

    def names(self):
        """Returns the names of the server's certificate."""
        return [name for kind, name in self.socket.getpeercert().get("subjectAltName", ()) if kind == "DNS"]
