"""Opens and closes a ledger, as each start of lensd does; a line of its input names the folder.

`python -S -m tests.faults.one_start` serves as one_job.py does. A line is a plan in JSON: `state`,
and with `top` and `archive` also the rebuild of the folder `loras` below `top`. It answers with the
exit code 5 for a ledger that was refused.
"""

from __future__ import annotations

import sys
from contextlib import closing
from typing import Any

from lensd.errors import StorageError
from lensd.store.ledger import Ledger
from tests.faults import one_job


def main(plan: dict[str, Any]) -> int:
    try:
        with closing(Ledger(plan["state"], "1")):
            return 0
    except StorageError as error:
        sys.stderr.write(f"{error}\n")
        return one_job.STORAGE


if __name__ == "__main__":
    one_job.serve(main)
