"""Makes the map of the package: its tree of files, each with the first sentence of its docstring.

    python scripts/file_map.py --write      # puts the map into docs/architecture.md

`tests/test_architecture.py` fails when the page and the files differ.
"""

import argparse
import ast
import re
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "effopd"
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- file map: python scripts/file_map.py --write -->\n```text\n", "```\n<!-- end of file map -->"
WIDTH = 28
LONGEST = 90


def file_map() -> str:
    """Make the map, one line for each folder and each file with code, in the order of their names."""
    return "\n".join(["effopd/", *_lines(PACKAGE, 1)]) + "\n"


def _lines(folder: Path, depth: int) -> Iterator[str]:
    for path in sorted(folder.iterdir(), key=lambda path: (path.is_dir(), path.name)):
        if path.is_dir() and (path / "__init__.py").exists():
            yield _line(path.name + "/", path / "__init__.py", depth)
            yield from _lines(path, depth + 1)
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield _line(path.stem, path, depth)


def _line(name: str, path: Path, depth: int) -> str:
    return f"{'  ' * depth + name:<{WIDTH}} {first_sentence(path)}".rstrip()


def first_sentence(path: Path) -> str:
    """Take the first sentence of a file's docstring; a long one without brackets, up to a colon, semicolon or comma."""
    text = " ".join((ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n\n")[0].split())
    sentence = text.partition(". ")[0].rstrip(".:")
    if len(sentence) > LONGEST:
        sentence = re.sub(r" \([^)]*\)", "", sentence)
    if len(sentence) <= LONGEST:
        return sentence
    cuts = [place for mark in (": ", "; ", ", ") if (place := sentence.rfind(mark, 0, LONGEST)) > 0]
    return sentence[: max(cuts)] if cuts else sentence


def page_with_map(page: str) -> str:
    """Put the map between the two marks of the page, and return the page."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{PAGE} lacks the two marks between which the map belongs. Put them back.")
    return before + begin + file_map() + end + after


def main() -> None:
    """Print the map, or write it into the page."""
    parser = argparse.ArgumentParser(description="Print the map of the package.")
    parser.add_argument("--write", action="store_true", help=f"write the map into {PAGE.relative_to(ROOT)}")
    if parser.parse_args().write:
        PAGE.write_text(page_with_map(PAGE.read_text()))
    else:
        print(file_map(), end="")


if __name__ == "__main__":
    main()
