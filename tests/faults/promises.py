"""The faults that lensd survives, and what it guarantees. Tests name theirs: `mark.fault(NAME)`."""

from __future__ import annotations

PROMISES = {
    "killed": "After a kill between any two system calls of a commit, or of the recovery after it, "
    "the name holds the complete old or the complete new bytes, the original can be restored, the "
    "next start completes the job, and no temporary remains",
    "power cut": "The same as for killed; the ledger never records more than is on the disk",
    "EIO": "The original stays unchanged; lensd tries again, with growing delays",
    "disk full": "lensd pauses the jobs that need a disk which is full, of bytes or of inodes, and "
    "continues within a minute after there is space; it loses no job",
    "archive elsewhere": "lensd copies the original to an archive on another disk, and compares "
    "the hash of the copy, before it replaces the file",
    "archive gone": "When the archive is unmounted during a job, lensd replaces nothing and writes "
    "nothing below the mount point; the job is done when the archive is back",
    "archive shown": "When a mount shows the archive in a watched folder, lensd reports the "
    "folder as degraded and compresses no archived original",
    "private": "No folder in the archive is more open than the watched folder that it mirrors",
    "read-only": "lensd reports the disk once, and continues when the disk is writable again",
    "folder gone": "lensd reports an unmounted, renamed or deleted watched folder as degraded "
    "within 30 s, and never treats it as empty; it sees all files within 60 s after the folder is "
    "back",
    "hanging": "When the filesystem of a watched folder does not answer (a stopped FUSE server), "
    "lensd reports the folder as degraded within 30 s and compresses the files of all other "
    "folders meanwhile; SIGTERM ends it; when the folder answers, lensd sees all files",
    "event overflow": "lensd sees all of 20,000 files that pass through a queue of 64 events",
    "watch limit": "lensd names the folders that the kernel does not watch, with the sysctl to "
    "raise, and rescans them regularly",
    "stuck": "lensd replaces a dead observer thread within 30 s; systemd's watchdog restarts a "
    "lensd whose main loop is stuck",
    "half-written": "lensd compresses no file before its writer has finished, and forgets no "
    "complete file",
    "written meanwhile": "When a program writes to a file during its job, the bytes of that "
    "program stay",
    "truncated meanwhile": "When a file is truncated while lensd reads it, only its job ends; the "
    "daemon continues",
    "filesystem": "On filesystems whose leases, exchanges and inodes prove nothing (FUSE, "
    "overlayfs, SFTP), the original can be restored, and what a program writes by another path "
    "stays",
    "links": "Links, pipes, devices, and folders replaced by links: lensd writes nothing outside "
    "the watched folders",
    "hostile header": "lensd refuses the file within 1 s and 300 MB, with a reason, and archives "
    "nothing",
    "killing file": "lensd refuses a file that would cost too much, and quarantines one that ends "
    "its worker three times or takes too long twice; the other files continue",
    "two daemons": "A second lensd with the same state folder or the same watched folder refuses "
    "to start and names the first one",
    "clock": "When the clock jumps by a year, no job starts early or late, and no original is "
    "deleted before lensd has seen `keep_days` pass",
    "names": "lensd processes names that are not UTF-8, contain newlines or have 255 bytes; the "
    "log stays valid JSON. An archive on a disk that refuses such names, or folds their case, "
    "keeps each original",
    "own output": "lensd never compresses its own output again, also after the ledger is lost",
    "ledger": "A kill at any system call of a start that creates, converts or rebuilds the ledger "
    "costs nothing: the next start continues. A damaged or deleted ledger is rebuilt from marks "
    "and archive; new files are processed meanwhile",
    "restart": "With 10,000 queued files lensd is ready within 5 s; it loses none and processes "
    "none twice",
    "anything": "Whatever users, other programs, faults and clocks do in whatever order: each byte "
    "string that a program completed under a watched name is under a name, in the archive or in "
    "`rescued/`, unless a program overwrote or deleted it",
    "immutable": "A file that is immutable or append-only (`chattr`) is left alone with a reason "
    "that says so, and leaves no copy in the archive",
    "undo killed": "After a kill between any two system calls of `restore`, `restore --purge`, "
    "`once --redo`, `prune` (also with `--deleted` or `max_size`), of the look for deleted files, "
    "or of following a rename onto another output, no bytes are lost; the next start completes it "
    "or takes it back, `lensd verify` finds no fault, and a restored file is not compressed again",
    "undo": "`lensd restore` brings back exact bytes, mode, owner, date and attributes",
}
