"""A small web of 120 addresses, built once and served on loopback for the tests of this folder."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from capfilt.config.miniweb import MiniwebConfig
from capfilt.miniweb.build import build
from capfilt.miniweb.server import MiniwebServer


@pytest.fixture(scope="session")
def config() -> MiniwebConfig:
    return MiniwebConfig(pictures=120, human_pairs=12, heldout_pairs=12)


@pytest.fixture(scope="session")
def web(config: MiniwebConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("miniweb")
    build(config, folder, seed=3)
    return folder


@pytest.fixture(scope="session")
def server(config: MiniwebConfig, web: Path) -> Iterator[MiniwebServer]:
    with MiniwebServer(config, web, 3) as running:
        yield running
