"""The program in a completion, which is mostly in a fenced block."""

import re

from effopd.grading.completion import without_thinking

_FENCE = re.compile(
    r"(?:^(?P<indent>[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?)|(?<=[^\s`~])[ \t]*(?=```[ \t]*(?:python3?|py)[ \t]*$))"
    r"(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n`]*$",
    re.MULTILINE | re.IGNORECASE,
)
_PYTHON = re.compile(r"\{?\.?py(?:thon)?(?:3[\d.]*)?(?:[:,}].*)?", re.IGNORECASE)


def extract_code(text: str) -> str:
    """Find the program in a completion.

    Everything up to the last `</think>` is dropped. Then the program is the last fenced block that is marked as Python
    (`python`, `py`, `python3`, `{.python}`, ...). If there is none, it is the last block without a language, and if
    there is no block at all, the whole text. A block that is never closed reaches to the end. If a block is indented,
    as in a list, the indentation of its fence is taken off every line.

    Returns:
        The program. It is empty where all blocks are in other languages, or where nothing is left.
    """
    text = without_thinking(text.replace("\r\n", "\n"))
    blocks = _blocks(text)
    marked = [content for language, content in blocks if _PYTHON.fullmatch(language)]
    unmarked = [content for language, content in blocks if not language]
    if blocks:
        return (marked or unmarked or [""])[-1]
    return text.strip()


def _blocks(text: str) -> list[tuple[str, str]]:
    """List the language and the content of each fenced block."""
    blocks = []
    position = 0
    # Fences that no longer occur on a line of their own: from there on, one at the end of a line closes a block.
    without: set[str] = set()
    while opening := _FENCE.search(text, position):
        start = min(opening.end() + 1, len(text))
        marks = opening["marks"]
        closing = None
        if marks not in without:
            closing = re.compile(rf"^[ \t]*{marks}[ \t]*$", re.MULTILINE).search(text, start)
        if closing is None:
            without.add(marks)
            closing = re.compile(rf"(?<=[^\s`~]){marks}[ \t]*$", re.MULTILINE).search(text, start)
        content = text[start : closing.start() if closing else len(text)]
        if indent := len(opening["indent"] or ""):
            content = re.sub(rf"^[ \t]{{1,{indent}}}", "", content, flags=re.MULTILINE)
        blocks.append((opening["language"], content))
        position = closing.end() if closing else len(text)
    return blocks
