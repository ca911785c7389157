"""The copy of the ledger in memory that a table of files is made from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lensd.store.identity import Identity
from lensd.store.ledger import Ledger, Outcome
from lensd.store.ledger.catalog import Catalog, Query

ROOT = "/srv/loras"


def add(ledger: Ledger, path: str, number: int, outcome: Outcome = Outcome.COMPRESSED) -> str:
    """A finished row; returns its job."""
    job, identity = f"{number:016x}", Identity(1, number, 100, 0, 0)
    ledger.files.record(
        job,
        ROOT,
        "loras",
        path,
        identity,
        outcome=outcome,
        bytes_in=1000 + number,
        bytes_out=100,
        sha256_in=f"{number:064x}",
        published=1_800_000_000.0 + number,
        line={"family": "sdxl" if number % 2 else "flux", "mode": "ultra", "delta_error": 0.08},
    )
    return job


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    found = Ledger(str(tmp_path), "1")
    yield found
    found.close()


@pytest.fixture
def catalog(ledger: Ledger) -> Iterator[Catalog]:
    found = Catalog(ledger.folder)
    yield found
    found.close()


def names(catalog: Catalog, **query: object) -> list[str]:
    rows, total = catalog.page(Query(**query), 100)  # type: ignore[arg-type]
    assert total == len(rows)
    return [row.name for row in rows]


def test_it_follows_the_ledger(ledger: Ledger, catalog: Catalog) -> None:
    """New, changed, moved and withdrawn rows are taken over, and nothing without a change."""
    assert names(catalog) == []
    add(ledger, "a/one.safetensors", 1)
    two = add(ledger, "two.safetensors", 2)
    assert catalog.refresh()
    assert not catalog.refresh()
    assert names(catalog) == ["two.safetensors", "one.safetensors"]
    entry = ledger.files.find(ROOT, "two.safetensors")
    assert entry is not None
    assert ledger.files.move(entry, ROOT, "loras", "b/moved.safetensors")
    ledger.jobs.finish(two, Outcome.RESTORED)
    assert catalog.refresh()
    assert names(catalog, outcome="restored", folder="loras/b") == ["moved.safetensors"]
    ledger.gone.change([(two, "file")])
    assert catalog.refresh()
    assert names(catalog) == ["one.safetensors"]
    ledger.files.withdraw(two)
    assert catalog.refresh()
    assert names(catalog) == ["one.safetensors"]
    ledger.jobs.finish(f"{1:016x}", Outcome.SUPERSEDED)
    assert catalog.refresh()
    assert names(catalog) == []
    add(ledger, "three.safetensors", 3, Outcome.FAILED)
    add(ledger, "three.safetensors", 4)
    assert catalog.refresh()
    assert names(catalog, outcome="failed") == []
    assert names(catalog) == ["three.safetensors"]


def test_queries(ledger: Ledger, catalog: Catalog) -> None:
    """Words in any order, the start of a hash, a folder with those below it, family, order."""
    for number in range(1, 5):
        add(ledger, f"{'style/' * (number > 2)}ink%_{number}.safetensors", number)
    add(ledger, "style2/x.safetensors", 9, Outcome.FAILED)
    catalog.refresh()
    assert names(catalog, search="%_ SDXL ink") == ["ink%_3.safetensors", "ink%_1.safetensors"]
    assert names(catalog, search="0" * 16) != []
    assert names(catalog, search="1111") == []
    assert names(catalog, folder="loras/style", sort="before", down=False) == [
        "ink%_3.safetensors",
        "ink%_4.safetensors",
    ]
    assert len(names(catalog, folder="loras")) == 5
    assert names(catalog, outcome="failed", family="sdxl") == ["x.safetensors"]
    assert catalog.values("folder") == ["loras", "loras/style", "loras/style2"]
    assert [day[1:] for day in catalog.days()] == [(4, 4010 - 400)]
    assert catalog.sizes() == (4010, 400)
    rows, total = catalog.page(Query(page=1), 2)
    assert (len(rows), total) == (2, 5)


def test_names_that_are_no_text(ledger: Ledger, catalog: Catalog) -> None:
    """Bytes that are not UTF-8 are shown as escapes; a damaged line has no family."""
    add(ledger, "bad\udcff.safetensors", 1)
    with ledger._database.change() as db:
        db.execute("UPDATE files SET line = '{'")
    catalog.refresh()
    [row], _ = catalog.page(Query(), 10)
    assert row.name == "bad\\xff.safetensors"
    assert row.family is None
