"""Which user the service runs as, and which capabilities it then lacks. No I/O.

The kernel lets only a file's owner lease it, link it (protected_hardlinks), or set its attributes.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from lensd.systemd.facts import Facts

DEFAULT_USER = "lensd"
CAPABILITIES = {
    "CAP_CHOWN": "an output gets the owner and group of its original",
    "CAP_FOWNER": "its mode, date and attributes too, and an original is linked into the archive",
    "CAP_DAC_OVERRIDE": "files and folders are read and written whatever their mode says",
    "CAP_LEASE": "a lease proves that nobody is writing to a file",
}


@dataclass(frozen=True, slots=True)
class Identity:
    """`groups` come beside the primary `group`; None: the user's own. `why` is for people."""

    user: str
    group: str | None
    groups: tuple[str, ...]
    capabilities: tuple[str, ...]
    why: tuple[str, ...]


def identity(facts: Facts) -> Identity:
    """The owner of all files, or the unit's own user with capabilities where there is no such."""
    seen: Counter[tuple[int, int]] = Counter()
    for of_root in facts.owners.values():
        seen.update(of_root)
    uids = {uid for uid, _ in seen}
    if len(uids) == 1 and 0 not in uids:
        return _owner(facts, seen)
    if not uids:
        nobody = ("None of the watched folders is there to tell whose files they hold.",)
        return Identity(DEFAULT_USER, None, (), (), nobody)
    why = tuple(_whose(facts, root) for root in facts.owners)
    return Identity(DEFAULT_USER, None, (), tuple(CAPABILITIES), why)


def _owner(facts: Facts, seen: Counter[tuple[int, int]]) -> Identity:
    (uid,) = {uid for uid, _ in seen}
    groups: Counter[int] = Counter()
    for (_, gid), count in seen.items():
        groups[gid] += count
    names = [facts.groups[gid] for gid, _ in groups.most_common() if gid != 0]
    return Identity(facts.users[uid], names[0] if names else None, tuple(names[1:]), (), ())


def _whose(facts: Facts, root: str) -> str:
    owners = sorted({facts.users[uid] for uid, _ in facts.owners[root]})
    return f"{root}: files of {', '.join(owners) or 'nobody, the folder is not there'}"
