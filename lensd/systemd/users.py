"""Choose the user that the service runs as, and the capabilities that it then needs. No I/O.

The kernel lets only the owner of a file lease it, link it (protected_hardlinks) or set its
attributes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lensd.systemd.facts import Facts

DEFAULT_USER = "lensd"
CAPABILITIES = {
    "CAP_CHOWN": "to give an output the owner and the group of its original",
    "CAP_FOWNER": "to give it mode, date and attributes too, and to hard-link originals",
    "CAP_DAC_OVERRIDE": "to read and write files and folders whatever their mode is",
    "CAP_LEASE": "to lease a file, which proves that no program is writing to it",
}


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """The user, groups and capabilities of the service."""

    user: str
    group: str | None  # the primary group; None: that of the user
    groups: tuple[str, ...]  # further groups
    capabilities: tuple[str, ...]
    reasons: tuple[str, ...]  # for the default user: sentences about the owners of the files


def choose_user(facts: Facts) -> ServiceUser:
    """Return the owner of all files; if there is no single one, lensd's own user.

    lensd's own user needs capabilities for files of other users.
    """
    owners: Counter[tuple[int, int]] = Counter()
    for owners_of_root in facts.owners.values():
        owners.update(owners_of_root)
    uids = {uid for uid, _ in owners}
    if len(uids) == 1 and 0 not in uids:
        return _only_owner(facts, owners)
    if not uids:
        unknown = ("No watched folder exists, so the owners of the files are unknown.",)
        return ServiceUser(DEFAULT_USER, None, (), (), unknown)
    reasons = tuple(_describe_owners(facts, root) for root in facts.owners)
    return ServiceUser(DEFAULT_USER, None, (), tuple(CAPABILITIES), reasons)


def _only_owner(facts: Facts, owners: Counter[tuple[int, int]]) -> ServiceUser:
    """Return the owner with the groups of the files, that of most files first."""
    (uid,) = {uid for uid, _ in owners}
    groups: Counter[int] = Counter()
    for (_, gid), count in owners.items():
        groups[gid] += count
    names = [facts.groups[gid] for gid, _ in groups.most_common() if gid != 0]
    return ServiceUser(facts.users[uid], names[0] if names else None, tuple(names[1:]), (), ())


def _describe_owners(facts: Facts, root: str) -> str:
    owners = sorted({facts.users[uid] for uid, _ in facts.owners[root]})
    return f"{root}: files of {', '.join(owners)}" if owners else f"{root}: the folder is missing"
