"""Write a configuration file, and return its faults by key."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lensd.config.faults import Fault, FaultyConfigError
from lensd.config.load import load, load_for_run
from lensd.config.model import Config

Faults = Callable[[str], dict[str, Fault]]


@pytest.fixture
def read(tmp_path: Path) -> Callable[[str], Config]:
    """A function from YAML text to the Config."""

    def read_text(text: str) -> Config:
        file = tmp_path / "config.yaml"
        file.write_text(text, encoding="utf-8")
        return load(str(file))

    return read_text


@pytest.fixture
def faults(read: Callable[[str], Config]) -> Faults:
    """A function from YAML text to its faults by key, each of which must have a remedy."""

    def faults_of(text: str) -> dict[str, Fault]:
        with pytest.raises(FaultyConfigError) as caught:
            read(text)
        return _by_key(caught.value)

    return faults_of


@pytest.fixture
def run_faults(tmp_path: Path) -> Faults:
    """A function from YAML text to its faults by key, including those of the folders."""

    def faults_of(text: str) -> dict[str, Fault]:
        file = tmp_path / "config.yaml"
        file.write_text(text, encoding="utf-8")
        try:
            load_for_run(str(file))
        except FaultyConfigError as error:
            return _by_key(error)
        return {}

    return faults_of


def _by_key(error: FaultyConfigError) -> dict[str, Fault]:
    assert error.exit_code == 4
    assert error.faults
    assert all(fault.message and fault.remedy for fault in error.faults)
    assert len({fault.key for fault in error.faults}) == len(error.faults)
    return {fault.key: fault for fault in error.faults}
