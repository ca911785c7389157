"""Addresses of a network: which of them only this machine reaches."""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach the address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def host_of(address: str) -> str:
    """Return the host in tcp://HOST:PORT, an IPv6 address without its brackets."""
    return address.partition("://")[2].rpartition(":")[0].strip("[]")


def is_exposed(address: str) -> bool:
    """Whether a connection to tcp://HOST:PORT leaves this machine; tls:// is encrypted."""
    return not (address.startswith("tls://") or is_loopback(host_of(address)))
