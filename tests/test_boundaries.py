"""What the daemon's process may load, seen in a real process (lint-imports reads the source)."""

from __future__ import annotations

import json
import pkgutil
import subprocess
import sys

import lensd

# The only rooms that compute.
COMPUTING = ("lensd.lora", "lensd.engine")
# Their libraries load numpy: Dask and pyarrow.
OF_LIBRARIES = (
    "lensd.collection.on_cluster",
    "lensd.collection.parquet",
    "lensd.worker.cluster.connection",
    "lensd.worker.cluster.task",
)

LOAD = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    importlib.import_module(name)
print(json.dumps(sorted(name for name in sys.modules if "." not in name)))
"""


def test_no_module_outside_the_computing_rooms_loads_torch() -> None:
    """Importing all of them in one process loads neither torch nor numpy: both are large."""
    found = pkgutil.walk_packages(lensd.__path__, "lensd.", onerror=_ignore_import_errors)
    others = COMPUTING + OF_LIBRARIES
    modules = [module.name for module in found if not module.name.startswith(others)]
    modules = [name for name in modules if not name.endswith("__main__")]
    assert {"lensd.errors", "lensd.store.header"} <= set(modules)
    command = [sys.executable, "-c", LOAD, json.dumps(modules)]
    loaded = json.loads(subprocess.check_output(command, text=True))
    assert not {"torch", "numpy"} & set(loaded)


def _ignore_import_errors(name: str) -> None:
    """A package that does not import fails in the process above, with its traceback."""
