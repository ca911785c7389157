"""The faults that lensd survives, and what it promises. Tests name theirs: `mark.fault(NAME)`."""

from __future__ import annotations

PROMISES = {
    "killed": "Killed between any two system calls of a commit, or of the recovery after it: the "
    "name holds the whole old or the whole new bytes, the original can be had back, the next start "
    "finishes, no temporary is left",
    "power cut": "As above, and the ledger never says more than the disk holds",
    "EIO": "The original is untouched; lensd tries again, later each time",
    "disk full": "lensd pauses and goes on within a minute of space; no job is lost",
    "archive elsewhere": "On another disk the original is copied, and its hash compared, before it "
    "is replaced",
    "read-only": "One alert; lensd goes on by itself when the disk is writable again",
    "folder gone": "A watched folder that is unmounted, renamed or gone is degraded within 30 s, "
    "never taken for empty; all files are seen within 60 s of its return",
    "event overflow": "20,000 files through a queue of 64 events: all are seen",
    "watch limit": "Folders that the kernel does not watch are named with the sysctl to raise, "
    "and looked at regularly",
    "stuck": "A dead observer thread is replaced within 30 s; a stuck main loop is restarted by "
    "systemd's watchdog",
    "half-written": "No file is taken before its writer is done, and no whole file is forgotten",
    "written meanwhile": "Who writes to a file while it is compressed or replaced wins",
    "truncated meanwhile": "A file cut off while it is read costs its job, never the daemon",
    "links": "Links, pipes, devices and folders swapped for links: nothing outside the watched "
    "folders is written",
    "hostile header": "Refused within 1 s and 300 MB, with a reason, and nothing is archived",
    "killing file": "A file that ends its worker is set aside after three attempts; others go on",
    "two daemons": "The second on one state folder or one watched folder refuses, naming the first",
    "clock": "A clock that jumps by a year makes no job early or late",
    "names": "Names that are not UTF-8, with newlines or of 255 bytes are processed; the log stays "
    "valid JSON",
    "own output": "Never compressed again, also after the ledger is lost",
    "restart": "With 10,000 queued files lensd is ready within 5 s; none is lost, none done twice",
    "undo": "`lensd restore` is bit-exact and brings mode, owner, date and attributes back",
}
