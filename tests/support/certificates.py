"""A certificate authority of its own, and a certificate that it signed, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import NamedTuple

# As in docs/scale.md, where a person makes them.
COMMANDS = """
openssl req -x509 -newkey rsa:2048 -nodes -days 3650 -subj /CN=lensd -keyout ca.key -out ca.pem
openssl req -newkey rsa:2048 -nodes -subj /CN=lensd -keyout lensd.key -out lensd.csr
openssl x509 -req -in lensd.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 3650 -out lensd.pem
"""


class Certificates(NamedTuple):
    """Paths of files in PEM format."""

    ca: str
    cert: str
    key: str

    @property
    def options(self) -> tuple[str, ...]:
        """Of Dask's commands."""
        ca, cert, key = self
        return "--tls-ca-file", ca, "--tls-cert", cert, "--tls-key", key


def make_certificates(folder: Path) -> Certificates:
    folder.mkdir()
    for command in COMMANDS.strip().splitlines():
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return Certificates(*(str(folder / name) for name in ("ca.pem", "lensd.pem", "lensd.key")))
