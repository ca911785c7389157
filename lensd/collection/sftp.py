"""A collection on an SFTP server. Keys, agent and known hosts are those of ssh."""

from __future__ import annotations

import datetime as dt
import errno
import getpass
import os
import posixpath
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple
from urllib.parse import SplitResult, unquote, urlsplit

import paramiko

from lensd.collection.item import Item, Version, is_wanted
from lensd.errors import UsageError
from lensd.store.fs import new_token, temporary_name

SECONDS = 60.0  # for a connection, and for each answer
# One connection a thread: paramiko's SFTP client is not for several.
_open = threading.local()


class Sftp:
    """`address`: sftp://[USER[:PASSWORD]@]HOST[:PORT]/FOLDER, from the root of the server."""

    has_file_permissions = True

    def __init__(self, address: str) -> None:
        try:
            self._address = urlsplit(address)
            _ = self._address.port
        except ValueError as error:
            raise UsageError(f"{address}: {error}; write sftp://HOST:PORT/FOLDER") from None
        if not self._address.hostname:
            raise UsageError(f"{address} names no host: sftp://HOST/FOLDER")
        self._root = posixpath.normpath(
            f"/{unquote(self._address.path, errors='surrogateescape').lstrip('/')}"
        )
        self._server_url = f"sftp://{_without_password(self._address)}"
        self.url = f"{self._server_url}{self._root}"
        self.left_out: list[str] = []

    def real_url(self) -> str:
        """A folder that is not there as yet counts as below the one that is."""
        folder, rest = self._root, ""
        with self._server() as server:
            while True:
                try:
                    real = server.normalize(folder)
                    server.stat(real)
                    break
                except FileNotFoundError:
                    folder, base = posixpath.split(folder)
                    rest = posixpath.join(base, rest)
        return f"{self._server_url}{posixpath.join(real, rest)}"

    def prepare(self) -> None:
        """Also tries whether files can be made there."""
        trial = posixpath.join(self._root, temporary_name(new_token()))
        with self._server() as server:
            _make_folders(server, self._root)
            try:
                server.open(trial, "wx").close()
                server.remove(trial)
            except PermissionError:
                raise PermissionError(f"lensd may not write to {self._root}") from None

    def find(self) -> Iterator[Item]:
        """The entries of one folder are in memory at a time; links are left out."""
        folders = [""]
        while folders:
            folder = folders.pop()
            for entry in self._list(folder):
                name, mode = folder + entry.filename, entry.st_mode or 0
                if stat.S_ISDIR(mode):
                    folders.append(f"{name}/")
                elif stat.S_ISREG(mode) and is_wanted(name):
                    yield Item(name, _version_of(entry))

    def _list(self, folder: str) -> list[paramiko.SFTPAttributes]:
        """Nothing for a folder that may not be read or is gone, unless it is the whole source."""
        with self._server() as server:
            try:
                return server.listdir_attr(self._path(folder))
            except FileNotFoundError:
                if not folder:
                    raise
            except PermissionError as error:
                if not folder:
                    raise
                reason = os.strerror(error.errno or errno.EACCES)
                self.left_out.append(f"{self.url.rstrip('/')}/{folder} cannot be read: {reason}")
        return []

    def version(self, name: str) -> Version | None:
        with self._server() as server:
            try:
                found = server.stat(self._path(name))
            except FileNotFoundError:
                return None
        return _version_of(found) if stat.S_ISREG(found.st_mode or 0) else None

    def fetch(self, name: str, folder: str) -> str:
        path = os.path.join(folder, "original")
        with self._server() as server:
            server.get(self._path(name), path)  # raises OSError for another size than stat's
        return path

    def publish(self, name: str, path: str, token: str, *, replace: bool) -> None:
        target = self._path(name)
        folder = posixpath.dirname(target)
        temporary = f"{folder}/{temporary_name(token)}"
        with self._server() as server:
            if not replace and _is_there(server, target):
                raise FileExistsError(target)
            _make_folders(server, folder)
            try:
                _upload(server, path, temporary)
                if replace:
                    server.posix_rename(temporary, target)
                else:
                    server.rename(temporary, target)  # fails where there is a file
            except OSError:
                with suppress(OSError, EOFError, paramiko.SSHException):
                    server.remove(temporary)  # a part of it may fill the disk of the server
                if not replace and _is_there(server, target):
                    raise FileExistsError(target) from None
                raise

    def _path(self, name: str) -> str:
        return posixpath.join(self._root, name).rstrip("/") or "/"

    @contextmanager
    def _server(self) -> Iterator[paramiko.SFTPClient]:
        """The connection of this thread. One that broke is replaced at the next call."""
        address = self._address.geturl()
        known: dict[str, _Connection] = _open.__dict__
        if address in known and not known[address].is_active():
            known.pop(address).ssh.close()
        try:
            if address not in known:
                known[address] = _connect(self._address)
            yield known[address].sftp
        except (EOFError, paramiko.SSHException) as error:
            if address in known:
                known.pop(address).ssh.close()
            host = self._address.hostname
            raise ConnectionError(f"{host}: {error or 'the connection ended'}") from error


class _Answer(paramiko.Message):
    """An answer of the server. Its texts, such as names of files, may be no UTF-8."""

    def __init__(self, message: paramiko.Message) -> None:
        super().__init__()
        self.packet = message.packet  # from where it has been read to

    def get_text(self) -> str:
        return self.get_string().decode("utf-8", "surrogateescape")


class _Client(paramiko.SFTPClient):
    """For names of any bytes, which Python holds as surrogates: paramiko's own raises for them."""

    def _request(self, kind: Any, *arguments: Any) -> tuple[int, Any]:
        number, message = super()._request(kind, *arguments)  # type: ignore[misc]
        return number, message and _Answer(message)

    def _convert_status(self, message: paramiko.Message) -> None:
        super()._convert_status(_Answer(message))  # type: ignore[misc]

    def _adjust_cwd(self, path: str | bytes) -> bytes:
        if isinstance(path, str):
            path = path.encode("utf-8", "surrogateescape")
        adjusted: bytes = super()._adjust_cwd(path)  # type: ignore[misc]
        return adjusted


class _Connection(NamedTuple):
    ssh: paramiko.SSHClient
    sftp: paramiko.SFTPClient

    def is_active(self) -> bool:
        transport = self.ssh.get_transport()
        return transport is not None and transport.is_active()


def _connect(address: SplitResult) -> _Connection:
    """A host whose key is not in known_hosts is refused."""
    ssh = paramiko.SSHClient()
    ssh.load_system_host_keys()
    ssh.connect(
        address.hostname or "",
        address.port or paramiko.config.SSH_PORT,
        _user(address),
        unquote(address.password) if address.password else None,
        timeout=SECONDS,
        banner_timeout=SECONDS,
        auth_timeout=SECONDS,
    )
    transport = ssh.get_transport()
    sftp = None if transport is None else _Client.from_transport(transport)
    if sftp is None:
        raise ConnectionError(f"{address.hostname}: the connection ended")
    channel = sftp.get_channel()
    if channel is not None:
        channel.settimeout(SECONDS)
    return _Connection(ssh, sftp)


def _upload(server: paramiko.SFTPClient, path: str, target: str) -> None:
    """Raises OSError also for one part that the server could not write.

    paramiko's own `put` does not read the answers to the last hundred writes: it takes a file with
    a hole for whole. They are read before a write that is not pipelined, as the last one is here.
    """
    with open(path, "rb") as file, server.open(target, "wb") as new:
        size = remaining = os.fstat(file.fileno()).st_size
        new.set_pipelined(True)
        while part := file.read(paramiko.SFTPFile.MAX_REQUEST_SIZE):
            remaining -= len(part)
            new.set_pipelined(remaining > 0)
            new.write(part)
    if server.stat(target).st_size != size:
        raise OSError(f"the server has another size of {target} than was sent")


def _is_there(server: paramiko.SFTPClient, path: str) -> bool:
    """Also a folder, or a link to nothing."""
    try:
        server.lstat(path)
    except FileNotFoundError:
        return False
    return True


def _make_folders(server: paramiko.SFTPClient, folder: str) -> None:
    """Create a folder and those above it. Raises NotADirectoryError where a file has its name."""
    try:
        found = server.stat(folder)
    except FileNotFoundError:
        _make_folders(server, posixpath.dirname(folder))
        try:
            server.mkdir(folder)
        except OSError:  # another thread may have made it
            server.stat(folder)
        return
    if not stat.S_ISDIR(found.st_mode or stat.S_IFDIR):
        raise NotADirectoryError(f"{folder} is no folder")


def _without_password(address: SplitResult) -> str:
    """The same text for each way to write a user and a port."""
    port = "" if address.port in (None, paramiko.config.SSH_PORT) else f":{address.port}"
    host = address.hostname or ""
    return f"{_user(address)}@{f'[{host}]' if ':' in host else host}{port}"


def _user(address: SplitResult) -> str:
    return unquote(address.username) if address.username else getpass.getuser()


def _version_of(found: paramiko.SFTPAttributes) -> Version:
    changed = dt.datetime.fromtimestamp(found.st_mtime or 0, dt.UTC)
    return Version(found.st_size or 0, None, changed.isoformat())
