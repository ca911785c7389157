"""Real stores on this machine: an S3 endpoint (moto's server) and an SFTP server (OpenSSH)."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from getpass import getuser
from pathlib import Path
from typing import Any

import pytest

from tests.support.limits import PATIENCE
from tests.support.marks import WITHOUT_OVERRIDE

SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
SFTP_SERVER = shutil.which("sftp-server", path="/usr/lib/openssh:/usr/libexec/openssh:/usr/lib/ssh")
needs_sshd = pytest.mark.skipif(SSHD is None, reason="needs sshd (openssh-server)")
BUCKET = "hub"
_REGION = "us-east-1"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port


@contextmanager
def _server(command: Sequence[str], port: int, log: Path) -> Iterator[None]:
    """A process that listens on the port, until the end of the block."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
    deadline = time.monotonic() + PATIENCE
    try:
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=5).close()
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError(f"no server:\n{log.read_text()}") from None
                time.sleep(0.02)
        yield
    finally:
        process.terminate()
        process.wait()


@dataclass(frozen=True, slots=True)
class S3:
    """An endpoint with the empty bucket BUCKET."""

    endpoint: str

    @property
    def env(self) -> dict[str, str]:
        """The variables by which lensd finds it."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": _REGION,
        }

    def put(self, key: str, content: bytes) -> None:
        self._client().put_object(Bucket=BUCKET, Key=key, Body=content)

    def get(self, key: str) -> bytes:
        found: bytes = self._client().get_object(Bucket=BUCKET, Key=key)["Body"].read()
        return found

    def keys(self, prefix: str = "") -> list[str]:
        pages = self._client().get_paginator("list_objects_v2")
        found = pages.paginate(Bucket=BUCKET, Prefix=prefix)
        return [entry["Key"] for page in found for entry in page.get("Contents", ())]

    def uploads(self) -> list[object]:
        """Uploads in several parts that have not ended."""
        found = self._client().list_multipart_uploads(Bucket=BUCKET)
        return list(found.get("Uploads", ()))

    def _client(self) -> Any:
        import boto3  # a third of a second, which only these tests need

        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name=_REGION,
            aws_access_key_id="test",
            aws_secret_access_key="test",  # noqa: S106  moto takes any
        )


@contextmanager
def s3(folder: Path) -> Iterator[S3]:
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with _server(command, port, folder / "moto.log"):
        found = S3(f"http://127.0.0.1:{port}")
        found._client().create_bucket(Bucket=BUCKET)
        yield found


@dataclass(frozen=True, slots=True)
class SftpServer:
    """A server of the folder `root`; a client with the home `home` may log in, and knows it."""

    port: int
    root: Path
    home: Path
    host_key: str

    @property
    def url(self) -> str:
        return self.url_by(self.port)

    def url_by(self, port: int) -> str:
        """The address of the root through another port, under which a client knows it too."""
        with (self.home / ".ssh/known_hosts").open("a") as known:
            known.write(f"[127.0.0.1]:{port} {self.host_key}\n")
        return f"sftp://{getuser()}@127.0.0.1:{port}{self.root}"


@contextmanager
def sftp(folder: Path, subsystem: str = "internal-sftp") -> Iterator[SftpServer]:
    """As the user of the tests. That of root needs /run/sshd, and gets it in a mount of its own; it
    may not read and write what its permissions deny, as other users. `subsystem`: the command of
    the server that a connection gets.
    """
    port, ssh, root = free_port(), folder / "home/.ssh", folder / "served"
    ssh.mkdir(parents=True)
    root.mkdir()
    for key in (folder / "host", ssh / "id_ed25519"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    (folder / "authorized").write_text((ssh / "id_ed25519.pub").read_text())
    public = " ".join((folder / "host.pub").read_text().split()[:2])
    settings = {
        "ListenAddress": "127.0.0.1", "Port": port, "HostKey": folder / "host",
        "AuthorizedKeysFile": folder / "authorized", "StrictModes": "no", "UsePAM": "no",
        "PasswordAuthentication": "no", "PermitRootLogin": "yes", "PidFile": "none",
        "MaxStartups": 100, "Subsystem": f"sftp {subsystem}",
    }  # fmt: skip
    config = folder / "sshd_config"
    config.write_text("".join(f"{key} {value}\n" for key, value in settings.items()))
    command = [SSHD or "", "-D", "-e", "-f", str(config)]
    if os.geteuid() == 0:
        script = 'mount -t tmpfs none /run && mkdir /run/sshd && exec "$@"'
        command = ["unshare", "-m", "sh", "-c", script, "sh", *WITHOUT_OVERRIDE, *command]
    with _server(command, port, folder / "sshd.log"):
        yield SftpServer(port, root, folder / "home", public)
