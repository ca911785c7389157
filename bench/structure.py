"""Count lines, layers and other figures of the code: `python -m bench.structure [TREE...]`.

Each TREE is a checkout of lensd (default: this one). Prints one table with a column for each, as in
docs/decisions/0028-nine-layers.md. The files of the trees are read, but not imported.
"""

from __future__ import annotations

import ast
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
LONG_FUNCTION = 40


def main(trees: list[str]) -> None:
    """Print the table."""
    columns = [_figures(Path(tree)) for tree in trees or [str(REPOSITORY)]]
    width = max(map(len, columns[0]))
    for name in columns[0]:
        print(name.ljust(width), *(f"{column[name]:>8}" for column in columns))


def _figures(tree: Path) -> dict[str, int]:
    modules = {path: path.read_text(encoding="utf-8") for path in _tracked(tree, ".py")}
    parsed = {path: ast.parse(text) for path, text in modules.items()}
    return {
        "lines of Python in lensd/": sum(text.count("\n") for text in modules.values()),
        "modules loose in lensd/": sum(path.parent == tree / "lensd" for path in modules),
        "layers of imports": len(_layers(tree)),
        "dict[str, Any] in lensd/": sum(t.count("dict[str, Any]") for t in modules.values()),
        "methods that a Ledger has": len(_methods(parsed.values(), "Ledger")),
        f"functions over {LONG_FUNCTION} lines": sum(
            _length(node) > LONG_FUNCTION for root in parsed.values() for node in _functions(root)
        ),
        "lines of hand-written schemas": _schema_lines(tree),
    }


def _tracked(tree: Path, suffix: str) -> list[Path]:
    command = ["git", "-C", os.fspath(tree), "ls-files", "-z", "lensd"]
    names = subprocess.check_output(command, text=True).split("\0")
    return [tree / name for name in names if name.endswith(suffix)]


def _layers(tree: Path) -> list[str]:
    with open(tree / "pyproject.toml", "rb") as file:
        contracts = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    return next(list(c["layers"]) for c in contracts if c["type"] == "layers")


def _functions(root: ast.Module) -> Iterator[ast.FunctionDef]:
    return (node for node in ast.walk(root) if isinstance(node, ast.FunctionDef))


def _length(node: ast.FunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


def _methods(roots: Iterable[ast.Module], name: str) -> set[str]:
    """Return the public methods of a class and of its bases in the tree."""
    classes = {
        node.name: node
        for root in roots
        for node in ast.walk(root)
        if isinstance(node, ast.ClassDef)
    }
    found: set[str] = set()
    wanted = [name]
    while wanted:
        node = classes.get(wanted.pop())
        if node is None:
            continue
        found |= {f.name for f in node.body if isinstance(f, ast.FunctionDef) and f.name[:1] != "_"}
        wanted += [base.id for base in node.bases if isinstance(base, ast.Name)]
    return found


def _schema_lines(tree: Path) -> int:
    """Count the lines of all JSON Schemas but those that the renderer writes from types."""
    renderer = (tree / "tests" / "docs" / "rendering.py").read_text(encoding="utf-8")
    files = [path for path in _tracked(tree, ".schema.json") if path.name not in renderer]
    return sum(path.read_text(encoding="utf-8").count("\n") for path in files)


if __name__ == "__main__":
    main(sys.argv[1:])
