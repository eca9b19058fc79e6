"""The settings of TLS for programs that were written for other servers.

*Owns*: the files of the certificate that `'adhoc'` asks for; they go when the process ends. *Runs on*: any thread.
"""

from __future__ import annotations

import atexit
import datetime
import importlib
import ipaddress
import os
import shutil
import tempfile
from typing import Any

#: What to do instead of passing an object of the module ssl, which does not give its key away.
FILES = "an object of the module ssl does not give its key away: name the files with certfile= and keyfile="

_ADHOC_DAYS = 30


def settings_of(ssl_context: object, host: str) -> dict[str, Any]:
    """Returns the settings for an argument `ssl_context` of werkzeug: `(certificate, key)`, `'adhoc'`, or None.

    Raises ValueError for an `ssl.SSLContext`, and ImportError if 'adhoc' needs a package that is not installed.
    """
    if ssl_context is None:
        return {}
    if ssl_context == "adhoc":
        return _adhoc(host)
    if isinstance(ssl_context, (tuple, list)) and 1 <= len(ssl_context) <= 2:
        names = ("certfile", "keyfile")
        return {name: os.fspath(path) for name, path in zip(names, ssl_context) if path is not None}
    raise ValueError(f"ssl_context must be (certificate, key) or 'adhoc': {FILES}")


def settings_of_socket(sock: Any) -> dict[str, Any]:
    """Returns the settings for a socket that eventlet has wrapped for TLS and that knows its files.

    Raises ValueError if it does not know them.
    """
    certfile, keyfile = getattr(sock, "certfile", None), getattr(sock, "keyfile", None)
    if not certfile:
        raise ValueError(f"the socket is wrapped for TLS, and does not name its certificate; {FILES}")
    settings = {"certfile": os.fspath(certfile)}
    if keyfile:
        settings["keyfile"] = os.fspath(keyfile)
    authorities = getattr(sock, "ca_certs", None)
    if authorities and getattr(sock, "cert_reqs", 0):
        settings |= {"ca_certs": os.fspath(authorities), "cert_reqs": int(sock.cert_reqs)}
    return settings


def _adhoc(host: str) -> dict[str, Any]:
    """Makes a certificate that is signed by itself, as werkzeug does."""
    try:
        x509: Any = importlib.import_module("cryptography.x509")
        hashes: Any = importlib.import_module("cryptography.hazmat.primitives.hashes")
        serialization: Any = importlib.import_module("cryptography.hazmat.primitives.serialization")
        ec: Any = importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
    except ModuleNotFoundError as error:
        raise ImportError("ssl_context='adhoc' needs the package cryptography: pip install cryptography") from error
    try:
        name = x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        name = x509.DNSName(host)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, host[:64] or "localhost")])
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.datetime.now(datetime.timezone.utc)
    names = x509.SubjectAlternativeName([name, x509.DNSName("localhost")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(minutes=5))
        .not_valid_after(now + datetime.timedelta(days=_ADHOC_DAYS))
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    # Only the owner can look into the directory.
    directory = tempfile.mkdtemp(prefix="maypole-adhoc-")
    atexit.register(_remove, directory, os.getpid())
    certfile, keyfile = os.path.join(directory, "cert.pem"), os.path.join(directory, "key.pem")
    encoding = serialization.Encoding.PEM
    private = key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for path, content in ((certfile, certificate.public_bytes(encoding)), (keyfile, private)):
        with open(path, "wb") as file:
            file.write(content)
    return {"certfile": certfile, "keyfile": keyfile}


def _remove(directory: str, owner: int) -> None:
    """Removes the files, unless this is a fork of the process that has made them."""
    if os.getpid() == owner:
        shutil.rmtree(directory, ignore_errors=True)
