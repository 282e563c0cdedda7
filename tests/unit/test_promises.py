"""What the documents name is there."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from streamlearn.config_file import resolve

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    ROOT / "README.md",
    ROOT / "ARCHITECTURE.md",
    ROOT / "CONTRIBUTING.md",
    ROOT / "SECURITY.md",
    *sorted((ROOT / "docs/adr").glob("*.md")),
]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_test_that_a_document_names_exists(document: Path) -> None:
    """A promise is worth the test behind it."""
    for file, name in re.findall(r"(tests/[\w/]+\.py)(?:::(\w+))?", document.read_text("utf-8")):
        assert (ROOT / file).is_file(), file
        assert not name or f"def {name}(" in (ROOT / file).read_text("utf-8"), f"{file}::{name}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_link_leads_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text("utf-8")):
        assert (document.parent / target).exists(), target


@pytest.mark.parametrize(
    "block",
    [
        block
        for document in (ROOT / "README.md", ROOT / "docs/configuration.md")
        for block in re.findall(r"```toml\n(.*?)```", document.read_text("utf-8"), re.DOTALL)
    ],
)
def test_every_configuration_in_a_document_loads(block: str) -> None:
    """What a reader copies works as it stands."""
    resolve(tomllib.loads(block), {})


def test_no_document_has_a_figure_still_to_come() -> None:
    for document in DOCUMENTS:
        assert not re.search(r"_FIGURES|TODO|TBD|<!--", document.read_text("utf-8")), document.name
