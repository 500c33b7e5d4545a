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
    for page in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")):
        for target in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if not target.startswith("http"):
                assert (page.parent / target).exists(), f"{page.relative_to(ROOT)} links to {target}"
