"""Wheels that lend what is installed here, so that installers run for real and fetch nothing.

Such a wheel has the name, version and requirements of an installed distribution. Its content is one
`.pth` file with the folder where that lies. So pip, pipx and uv resolve the true bounds, without
an index and without the gigabytes of torch.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name


def lend(folder: Path, *names: str) -> None:
    """Put the named distributions and all that they require into `folder`, each as a wheel."""
    for found in _with_requirements(names):
        _write(folder, found)


def _with_requirements(names: tuple[str, ...]) -> Iterator[Distribution]:
    open_names, seen = list(names), set[str]()
    while open_names:
        name = canonicalize_name(open_names.pop())
        if name in seen:
            continue
        seen.add(name)
        found = distribution(name)
        yield found
        for text in found.requires or ():
            requirement = Requirement(text)
            if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                open_names.append(requirement.name)


def _write(folder: Path, found: Distribution) -> None:
    stem = f"{canonicalize_name(found.name).replace('-', '_')}-{found.version}"
    files = {
        f"{stem}.pth": f"{found.locate_file('')}\n",
        f"{stem}.dist-info/METADATA": found.read_text("METADATA") or "",
        f"{stem}.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = f"{stem}.dist-info/RECORD"
    files[record] = "".join(f"{name},,\n" for name in [*files, record])
    with zipfile.ZipFile(folder / f"{stem}-py3-none-any.whl", "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
