"""A fresh site for each test; a promoted model where asked for."""

from pathlib import Path

import pytest

from tests.service.running import Site


@pytest.fixture
def site(tmp_path: Path) -> Site:
    """An empty site."""
    return Site(tmp_path)


@pytest.fixture
def live(site: Site) -> Site:
    """A site with a model in production."""
    site.promote(site.add().version)
    return site
