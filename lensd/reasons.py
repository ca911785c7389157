"""How a file ends and why, and why a folder or disk is degraded: each code with its text.

docs/errors.md and docs/operations.md show these tables.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Self


class Outcome(StrEnum):
    """How one version of a file ended: the ledger, the log, metrics and reports use these names."""

    text: str

    def __new__(cls, value: str, text: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.text = text
        return member

    BASELINE = "baseline", "the file was there before lensd first saw the folder; it is left alone"
    OUTPUT = "output", "the file is an output of lensd that came from elsewhere"
    COMPRESSED = "compressed", "the output has replaced the original"
    REPLACED = "replaced", "the file was compressed; a newer file has taken its name"
    RESTORED = "restored", "the original has replaced the output"
    ANALYZED = "analyzed", "the file was measured and not changed"
    KEPT = "kept", "compressing the file would not help: the original stays"
    SKIPPED = "skipped", "lensd does not handle this file, or may not change it"
    FAILED = "failed", "compressing the file should have worked and did not"
    QUARANTINED = "quarantined", "the file ended the worker process again and again"
    SUPERSEDED = "superseded", "another version of the file came first"


class Reason(StrEnum):
    """Why a file was kept, skipped, failed or quarantined. Scripts match on these codes.

    `text` is the cause as a clause; `cause` and `remedy` are sentences for docs/errors.md.
    """

    outcome: Outcome
    text: str
    cause: str
    remedy: str

    # The defaults are never used: without them mypy refuses `Reason("no_gain")`.
    def __new__(
        cls,
        value: str,
        outcome: Outcome = Outcome.FAILED,
        text: str = "",
        cause: str = "",
        remedy: str = "",
    ) -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.outcome, member.text = outcome, text
        member.cause, member.remedy = cause, remedy
        return member

    # Compressing would not help.
    NO_GAIN = (
        "no_gain",
        Outcome.KEPT,
        "the result would not be smaller by `min_saving`",
        (
            "The result would save less than `min_saving` (a share of the bytes). Extracted "
            "LoRAs and LoRAs of small rank often cannot shrink further."
        ),
        (
            "Nothing; or lower `energy`, use mode `ultra`, or lower `min_saving`. If `forced_by` "
            "in the message names programs, these are not known to load int8 exactly from it."
        ),
    )
    MAX_ERROR = (
        "max_error",
        Outcome.KEPT,
        "the measured error is above `max_error`",
        "The measured error of the result is above `max_error`.",
        (
            "Raise `energy`, use mode `rank`, or raise `max_error`; then run `lensd once --redo` "
            "with the path."
        ),
    )
    STRICT_ENERGY = (
        "strict_energy",
        Outcome.KEPT,
        "the measured error cannot be as small as `strict_energy` requires",
        (
            "With `strict_energy` the error must be at most sqrt(1 - `energy`), and no rank and no "
            "encoding that the other settings permit has such an error."
        ),
        (
            "Lower `energy`, raise `max_rank`, or set `strict_energy: false`; then run `lensd once "
            "--redo` with the path."
        ),
    )
    RETURNED = (
        "returned",
        Outcome.KEPT,
        "the same original came back to a path that was already published from it",
        (
            "The same original returned to the same path for the third time: a program (rsync, "
            "Syncthing) copies it back each time."
        ),
        (
            "Let that program ignore the file, or sync in one direction only; then run `lensd "
            "once --redo` with the path."
        ),
    )
    # lensd does not handle the file, or may not change it.
    EMPTY = (
        "empty",
        Outcome.SKIPPED,
        "the file has no bytes",
        "The file has no bytes, and has had none for `settle.unproven_seconds`.",
        "Download it again.",
    )
    TRUNCATED = (
        "truncated",
        Outcome.SKIPPED,
        "the file is shorter than its header says",
        (
            "The file is shorter than its header says, and has been for "
            "`settle.unproven_seconds`. When a download continues and changes the file, lensd "
            "looks at it again."
        ),
        "Let the download finish, or start it again.",
    )
    NOT_SAFETENSORS = (
        "not_safetensors",
        Outcome.SKIPPED,
        "the file is not a safetensors file",
        (
            "The file does not begin like a safetensors file; the message names what it looks "
            "like (a web page, a PyTorch pickle, a Git LFS pointer, ...). Sites that require a "
            "login often send a web page under the name of the file."
        ),
        "Download the real file. Convert a pickle (`.ckpt`, `.pt`) with the program that made it.",
    )
    BAD_HEADER = (
        "bad_header",
        Outcome.SKIPPED,
        "the safetensors header breaks the format's rules",
        (
            "The header breaks the rules of the format: overlapping or missing bytes, bytes "
            "beyond the last tensor, duplicate keys, shapes that overflow, more than 32 MiB of "
            "header or 16,384 tensors (LoRAs have some thousands)."
        ),
        "Download it again. If that does not help, the tool that wrote the file is wrong.",
    )
    NOT_WHOLE_YET = (
        "not_whole_yet",
        Outcome.SKIPPED,
        "`once` ended while the file was still being written",
        (
            "When `lensd once` ended, a program was still writing the file, or lensd could not "
            "prove that none was."
        ),
        "Run `lensd once` again. The daemon waits for such files by itself.",
    )
    NO_LORA = (
        "no_lora",
        Outcome.SKIPPED,
        "no LoRA pair is in the file",
        (
            "The file contains no pair of LoRA factors: it is an embedding, a VAE, or uses a "
            "naming that lensd does not know."
        ),
        (
            "Move it elsewhere, or add it to `exclude`. For an unknown naming, report the tensor "
            "name in the message."
        ),
    )
    CHECKPOINT = (
        "checkpoint",
        Outcome.SKIPPED,
        "the file is a whole model, not a LoRA",
        "The file is a whole model.",
        "Watch only the folder of the LoRAs, or add the file to `exclude`.",
    )
    UNSUPPORTED_ADAPTER = (
        "unsupported_adapter",
        Outcome.SKIPPED,
        "the file is an adapter of another kind (OFT, BOFT, GLoRA, IA3; LoHa and LoKr in 16 bits)",
        "An adapter that is no product of two factors (OFT, BOFT, GLoRA, IA3; 16-bit LoHa, LoKr).",
        "Nothing; the file stays as it is.",
    )
    UNSUPPORTED_DTYPE = (
        "unsupported_dtype",
        Outcome.SKIPPED,
        "the LoRA pairs are stored in a number format that lensd does not reduce",
        (
            "The pairs are stored in a number format that lensd does not reduce, such as 8-bit "
            "floats: they are already small, and lensd cannot measure what was lost."
        ),
        "Nothing; or download the 16-bit file.",
    )
    ALPHA_ZERO = (
        "alpha_zero",
        Outcome.SKIPPED,
        "all modules of the denoiser have alpha 0",
        (
            "All modules of the denoiser have alpha 0. ComfyUI, AUTOMATIC1111 and InvokeAI apply "
            "nothing of them, and kohya's scripts take 0 for the rank, so that the file has no "
            "certain meaning. Single modules with alpha 0 are copied as they are."
        ),
        "Nothing; the file stays as it is. Ask its author for a file with the right alpha.",
    )
    TOO_COSTLY = (
        "too_costly",
        Outcome.SKIPPED,
        "the shapes of the file ask for far more work or memory than any real LoRA",
        (
            "By the shapes in its header, a module or the whole file would take far more work or "
            "memory than any LoRA that people train. The message names the module, its cost and "
            "the limit."
        ),
        (
            "Nothing; the file stays as it is. If it is a real LoRA, report its shapes; with a "
            "smaller rank lensd can compress it."
        ),
    )
    ALREADY_COMPRESSED = (
        "already_compressed",
        Outcome.SKIPPED,
        "the file is an output of lensd",
        "The file is an output of lensd, recognised by its marks.",
        (
            "To compress it with other settings, run `lensd once --redo`, which starts from the "
            "original."
        ),
    )
    VANISHED = (
        "vanished",
        Outcome.SKIPPED,
        "the file disappeared before it could be processed",
        (
            "The file disappeared before it could be processed, and is in none of the watched "
            "folders under another name."
        ),
        "Nothing.",
    )
    CHANGED = (
        "changed",
        Outcome.SKIPPED,
        "another program modified or replaced the file during the job",
        (
            "A program wrote to the file during the job. The newer bytes stay and are a new job. "
            "With `lensd restore`: the file under the name is not lensd's output any more."
        ),
        "Nothing; with `restore`, move the newer file away first.",
    )
    SYMLINK = (
        "symlink",
        Outcome.SKIPPED,
        "the path, or a folder above it, is a symbolic link",
        (
            "The path, or a folder on the path, is a symbolic link: the file is in a folder that "
            "lensd does not watch."
        ),
        "Put the file itself there, or watch the folder that contains it.",
    )
    IN_ARCHIVE = (
        "in_archive",
        Outcome.SKIPPED,
        "the file is an original in lensd's archive",
        ("A mount shows lensd's archive in a watched folder, so the file is an archived original."),
        "Unmount the archive there.",
    )
    HARDLINKED = (
        "hardlinked",
        Outcome.SKIPPED,
        "the file has other names (hard links)",
        (
            "The file has other names (hard links). A replacement would separate it from these "
            "names, and would take more space, not less. Tools that deduplicate create such "
            "links."
        ),
        "Remove the other names (`find -samefile` lists them), or replace this one with a copy.",
    )
    NOT_REGULAR = (
        "not_regular",
        Outcome.SKIPPED,
        "the path is not a regular file",
        "A pipe, a socket or a device.",
        "Move it elsewhere.",
    )
    ADAPTER_CONFIG = (
        "adapter_config",
        Outcome.SKIPPED,
        "an adapter_config.json beside the file fixes its rank and strength",
        (
            "The file is in peft naming, and an `adapter_config.json` beside it fixes its rank "
            "and strength; lensd changes no other file."
        ),
        "Move the LoRA to a folder of its own, or use `lensd compress` on a copy.",
    )
    OWNER = (
        "owner",
        Outcome.SKIPPED,
        "lensd may not give the output the owner, group, mode or attributes of the original",
        (
            "lensd may not give the output the owner, group, mode or attributes of the original. "
            "It changed nothing."
        ),
        (
            "Run lensd as the owner of the files and as a member of their group "
            "([operations.md](operations.md#permissions))."
        ),
    )
    IMMUTABLE = (
        "immutable",
        Outcome.SKIPPED,
        "the kernel does not permit lensd to replace the file",
        (
            "The file or its folder is immutable or append-only (`chattr +i`, `+a`), or the folder "
            "is sticky and the file has another owner. lensd archived nothing."
        ),
        "`chattr -i -a` with the path that `lsattr` shows; then `lensd once --redo` with the path.",
    )
    # It should have worked.
    UNREADABLE = (
        "unreadable",
        Outcome.FAILED,
        "lensd may not read the file",
        "lensd may not read the file.",
        (
            "Give its user read permission (`chmod`, `setfacl`); then run `lensd retry` with the "
            "path. `lensd check` names folders with this problem."
        ),
    )
    NOT_FINITE = (
        "not_finite",
        Outcome.FAILED,
        "a weight is NaN or infinite",
        (
            "A weight is NaN or infinite; the message names the module. The training failed, or "
            "the file is damaged."
        ),
        "Download or train it again.",
    )
    VERIFY_FAILED = (
        "verify_failed",
        Outcome.FAILED,
        "the output that was read back from the disk is not what was planned",
        "The output read back from the disk differs from the planned one. lensd replaced nothing.",
        "Check the disk and the memory (`dmesg`, `smartctl`). If they are in order, report a bug.",
    )
    NO_SPACE = (
        "no_space",
        Outcome.FAILED,
        "a disk is full or over its quota",
        (
            "A disk is full or over its quota: that of the folder (the output lies beside the "
            "file for a moment), or that of the archive. The message names it."
        ),
        (
            "Free space. The daemon then continues by itself, and the file is still queued "
            "([full disks](operations.md#disks-that-are-full-read-only-or-away)). Start `lensd "
            "once` again."
        ),
    )
    READ_ONLY = (
        "read_only",
        Outcome.FAILED,
        "a disk is mounted read-only",
        "A disk is mounted read-only.",
        "Remount it writable; then as for `no_space`.",
    )
    IO_ERROR = (
        "io_error",
        Outcome.FAILED,
        "a disk reported an error",
        (
            "A disk reported an error, or the sha256 of an archived original has changed. The "
            "message names the path. The daemon tries five times (`file.postponed`)."
        ),
        "Check the disk (`dmesg`, `smartctl`); then run `lensd retry` with the path.",
    )
    TRANSFER_FAILED = (
        "transfer_failed",
        Outcome.FAILED,
        "an object could not be read from the source or written to the destination",
        (
            "With `lensd batch`: a transfer from SOURCE or to DEST failed, four times with pauses "
            "in between, or a bucket denied access. The message has the store's error."
        ),
        "Run the same `lensd batch` again: it tries failed objects again.",
    )
    DESTINATION_TAKEN = (
        "destination_taken",
        Outcome.FAILED,
        "the destination has another object of this name",
        (
            "With `lensd batch`: DEST has an object of this name that is neither this output nor "
            "one that the manifest names. lensd left it alone."
        ),
        "Delete the object, choose another DEST, or replace such objects with `--force`.",
    )
    DESTINATION_DENIED = (
        "destination_denied",
        Outcome.FAILED,
        "lensd may not write to a folder of the destination",
        (
            "With `lensd batch`: lensd may not write to a folder of DEST. The message names the "
            "folder."
        ),
        "Give its user access to the folder; then run the same `lensd batch` again.",
    )
    UNUSABLE_NAME = (
        "unusable_name",
        Outcome.FAILED,
        "the name of the object cannot be the name of a file",
        (
            "With `lensd batch`: a bucket has an object whose name has a part that is empty, `.`, "
            "`..` or longer than 255 bytes, or has `?versionId=` in it; or DEST is a bucket, which "
            "takes no name that is not UTF-8 or, with the prefix, longer than 1,024 bytes."
        ),
        "Copy the object to another name.",
    )
    OUT_OF_MEMORY = (
        "out_of_memory",
        Outcome.FAILED,
        "the machine did not have enough memory for this file",
        "The memory did not suffice for this file.",
        "Close other programs or add swap, then run `lensd retry` with the path.",
    )
    INTERNAL = (
        "internal",
        Outcome.FAILED,
        "a bug in lensd",
        "A bug in lensd. The message has the traceback; the file is unchanged.",
        "Report the bug. After an upgrade of lensd, run `lensd retry` with the path.",
    )
    # The file ended the worker process three times, or kept it busy for too long twice.
    WORKER_CRASHED = (
        "worker_crashed",
        Outcome.QUARANTINED,
        "the worker process died on this file three times",
        (
            "The worker process died on this file three times, because the kernel killed it for "
            "memory or a library crashed. `worker.crashed` lines have the signal: 9 usually "
            "means that the kernel killed it for memory, 11 and 7 mean a crash."
        ),
        "Look in `dmesg` for a kill for memory; then run `lensd retry` with the path.",
    )
    WORKER_MEMORY = (
        "worker_memory",
        Outcome.QUARANTINED,
        "the worker process used more memory than `worker.memory_limit` three times",
        (
            "The worker took more memory than `worker.memory_limit` on this file three times, "
            "and lensd ended it each time."
        ),
        "Raise `worker.memory_limit`; then run `lensd retry` with the path.",
    )
    WRONG_ANSWER = (
        "wrong_answer",
        Outcome.QUARANTINED,
        "workers of the cluster answered with other bytes than they said, three times",
        (
            "Three times, a worker of the cluster (`worker.cluster`) answered with an output, or "
            "for an original, that does not have the sha256 that it said. lensd replaced nothing. "
            "The message names the worker."
        ),
        (
            "Check memory, disk and software of that machine, or remove it from the cluster; then "
            "run `lensd retry` with the path."
        ),
    )
    WORKER_TIMEOUT = (
        "worker_timeout",
        Outcome.QUARANTINED,
        "the worker process did not finish this file in time twice",
        (
            "The worker did not finish within `worker.timeout`, or sent no message for a minute, "
            "twice. Between the two, all other queued files had their turn."
        ),
        (
            "For very large files or a busy machine, raise `worker.timeout`; then run `lensd "
            "retry` with the path."
        ),
    )


_NEED_THE_DISK = (
    "The jobs that need the disk wait: those of the folders on it; for the archive's disk all that "
    "archive an original; for the state folder's disk all."
)


class DegradedReason(StrEnum):
    """Why a watched folder or a disk is degraded.

    `effect` says what lensd does meanwhile. docs/operations.md has both.
    """

    text: str
    effect: str

    def __new__(cls, value: str, text: str = "", effect: str = "") -> Self:
        member = str.__new__(cls, value)
        member._value_ = value
        member.text, member.effect = text, effect
        return member

    UNREACHABLE = (
        "unreachable",
        "The folder does not exist (renamed, deleted) or cannot be read.",
        "Its jobs wait.",
    )
    UNMOUNTED = (
        "unmounted",
        "Its disk is not mounted. lensd does not touch files in the empty mount point.",
        "Its jobs wait.",
    )
    NOT_RESPONDING = (
        "not_responding",
        (
            "Its filesystem does not answer: the server of a FUSE or network filesystem hangs, or "
            "a disk does. lensd opens the folder again when it answers, and scans all of it."
        ),
        "Its jobs wait; all jobs, if it is the archive.",
    )
    MOUNTED_OVER = (
        "mounted_over",
        "Another disk is mounted over it.",
        "Its jobs wait.",
    )
    IN_USE = (
        "in_use",
        "The folder is back, but another lensd watches it; the message names the process.",
        "Its jobs wait.",
    )
    OVERLAPS = (
        "overlaps",
        (
            "A mount shows lensd's archive or state folder in it, or it in one of them. lensd must "
            "not compress its own originals."
        ),
        "Its jobs wait.",
    )
    WATCH_LIMIT = (
        "watch_limit",
        (
            "The kernel watches only some of the folders in it; the message has the `sysctl` to "
            "raise."
        ),
        "lensd rescans the folder every `settle.rescan_seconds`.",
    )
    NO_SPACE = (
        "no_space",
        (
            "The disk of the folder, the archive or the state folder is full, or its quota is "
            "used up."
        ),
        _NEED_THE_DISK,
    )
    READ_ONLY = (
        "read_only",
        "A disk is mounted read-only.",
        _NEED_THE_DISK,
    )
    WORKER_UNAVAILABLE = (
        "worker_unavailable",
        (
            "No worker process can be started: the machine, or the limits of lensd's service, have "
            "no memory, processes or file descriptors left; the message says which."
        ),
        "All jobs wait.",
    )
    CLUSTER_UNAVAILABLE = (
        "cluster_unavailable",
        (
            "No worker of the cluster (`worker.cluster`) can be reached, or none can do jobs; the "
            "message says why."
        ),
        "All jobs wait. With `worker.cluster_fallback: local` this machine computes instead.",
    )
    IO_ERROR = (
        "io_error",
        "The disk of the archive is away, or the ledger or the metrics cannot be written.",
        "Without the ledger all jobs and new files wait; without the archive all that archive.",
    )
