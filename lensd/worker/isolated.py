"""How lensd starts a child process: isolated from the daemon's folder and its PYTHON variables.

Python imports modules from the current folder and from PYTHONPATH before its own: the worker would
run a `random.py` that lies there. So a child runs in `/`, with the option -P, and without the
variables by which Python finds code.

The child runs this file as a script, with the name of a module of lensd. It takes the package that
this file belongs to, even if another lensd is installed. The folder that contains the package comes
last on `sys.path`: libraries that `pip install --target` put there are found, and nothing in a
source tree hides a module of Python or a library.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
from collections.abc import Sequence
from importlib.util import module_from_spec, spec_from_file_location

FOLDER = "/"
# Variables of Python that do not say where code is.
_HARMLESS = frozenset(
    f"PYTHON{name}"
    for name in ("COERCECLOCALE", "DONTWRITEBYTECODE", "HASHSEED", "NOUSERSITE", "UTF8")
)


def command(module: str) -> tuple[str, ...]:
    """Runs a module of lensd; to be started in FOLDER with `environment()`."""
    return sys.executable, "-P", os.path.abspath(__file__), module


def environment() -> dict[str, str]:
    """The variables of the current process, without those by which Python finds code."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("PYTHON") or name in _HARMLESS
    }


def _run(module: str, arguments: Sequence[str]) -> None:
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    sys.path.append(os.path.dirname(package))
    spec = spec_from_file_location("lensd", os.path.join(package, "__init__.py"))
    if spec is None or spec.loader is None:
        raise ImportError(f"no lensd in {package}")
    sys.modules["lensd"] = module_from_spec(spec)
    spec.loader.exec_module(sys.modules["lensd"])
    sys.argv[1:] = arguments
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    # ^C and the end of a terminal go to all processes there; lensd itself ends its children, also
    # while they import torch.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    _run(sys.argv[1], sys.argv[2:])
