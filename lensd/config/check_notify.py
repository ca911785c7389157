"""Check whether messages can be sent: apprise, the command, and who may read the addresses."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
from collections.abc import Iterator

from lensd.config.faults import Fault
from lensd.config.model import Config

MISSING = "apprise, which sends to notify.urls, is not installed"
MISSING_REMEDY = "pip install apprise in the environment of lensd; or use notify.command"


def check_notify(config: Config) -> Iterator[Fault]:
    """Yield the faults of the section `notify`."""
    notify = config.notify
    if notify.urls and importlib.util.find_spec("apprise") is None:
        yield config.fault("notify.urls", MISSING, MISSING_REMEDY)
    if notify.command is not None and shutil.which(notify.command[0]) is None:
        message = f"there is no program {notify.command[0]}"
        yield config.fault("notify.command", message, "write its path, and make it executable")


def secrets_warning(config: Config) -> Fault | None:
    """Return a warning if users outside of the file's group may read addresses."""
    mode = os.stat(config.source).st_mode
    if not (config.notify.urls and mode & stat.S_IROTH):
        return None
    message = "every user of this machine can read these addresses and their passwords"
    remedy = f"chgrp it to the group of lensd, then chmod 640 '{config.source}'"
    return config.fault("notify.urls", message, remedy)
