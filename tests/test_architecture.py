"""The map in docs/architecture.md is that of the files, and what it links to exists."""

import re
import runpy
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "architecture.md"


def test_the_map_is_that_of_the_files() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "file_map.py"))
    text = PAGE.read_text()
    assert script["page_with_map"](text) == text, "run: python scripts/file_map.py --write"


def test_every_file_says_what_it_is() -> None:
    script = runpy.run_path(str(ROOT / "scripts" / "file_map.py"))
    for path in (ROOT / "src" / "effopd").rglob("*.py"):
        assert script["first_sentence"](path), path


def test_links_between_pages_lead_somewhere() -> None:
    for page in (*map(ROOT.joinpath, ("README.md", "CONTRIBUTING.md", "CHANGELOG.md")), *(ROOT / "docs").rglob("*.md")):
        for target, anchor in re.findall(r"\]\(([^)#\s]*)#?([^)\s]*)", page.read_text()):
            if target.startswith("http"):
                continue
            to = page.parent / target if target else page
            assert to.exists(), f"{page.relative_to(ROOT)} links to {target}"
            if anchor:
                assert anchor in _anchors(to), f"{page.relative_to(ROOT)} links to {target}#{anchor}"


def _anchors(page: Path) -> set[str]:
    """List the anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    texts = (re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).lower() for heading in headings)
    return {re.sub(r"[^\w\- ]", "", text).replace(" ", "-") for text in texts}
