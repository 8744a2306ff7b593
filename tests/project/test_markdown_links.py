"""Links between documents of the repository lead somewhere, also to a heading. (mkdocs checks those
within the site.)"""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *(ROOT / "benchmarks").rglob("*.md"),
    *(ROOT / "docs" / "dev").glob("*.md"),
]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def headings(document: Path) -> set[str]:
    """The anchors of a document, as GitHub and mkdocs make them of headings of plain words."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    plain = (re.sub(r"[^\w\s-]", "", title.lower()).strip() for title in titles)
    return {re.sub(r"[-\s]+", "-", title) for title in plain}


def leads_nowhere(document: Path, link: str) -> bool:
    if link.startswith("http"):
        return False
    path, _, anchor = link.partition("#")
    target = document.parent / path if path else document
    return not target.exists() or (bool(anchor) and anchor not in headings(target))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_links_of_a_document_lead_somewhere(document: Path) -> None:
    links = LINK.findall(document.read_text(encoding="utf-8"))
    assert [link for link in links if leads_nowhere(document, link)] == []


def test_a_link_to_no_heading_is_noticed() -> None:
    assert leads_nowhere(ROOT / "README.md", "docs/validation.md#no-such-heading")
    assert not leads_nowhere(ROOT / "README.md", "docs/validation.md#cost")
