"""The program in a completion, which is mostly in a fenced block."""

import re

from effopd.grading.completion import without_thinking

_MARGIN = re.compile(r"[ \t]*(?:(?:[-*+]|\d{1,9}[.)])[ \t]+)?")
_FENCE = re.compile(
    rf"(?:^(?P<indent>{_MARGIN.pattern})|(?<=[^\s`~])[ \t]*(?=```[ \t]*(?:python3?|py)[ \t]*$))"
    r"(?P<marks>`{3,}|~{3,})[ \t]*+(?P<language>[^\s`]*+)[^\n`]*+$",
    re.MULTILINE | re.IGNORECASE,
)
_FENCE_LINE = re.compile(r"^([ \t]*)(`{3,}|~{3,})[ \t]*$", re.MULTILINE)
_PYTHON = re.compile(r"\{?\.?py(?:thon)?(?:3[\d.]*)?(?:[:,}].*)?", re.IGNORECASE)


def extract_code(text: str) -> str:
    """Find the program in a completion.

    Everything up to the last `</think>` is dropped. Then the program is the last fenced block that is marked as Python
    (`python`, `py`, `python3`, `{.python}`, ...). If there is none, it is the last block without a language, and if
    there is no block at all, the whole text. A block ends with a fence of at least as many marks, indented at most
    three columns more; one that is never closed reaches to the end. If a block is indented, as in a list, the
    indentation of its fence is taken off every line.

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
    lines = [(line, _columns(line[1])) for line in _FENCE_LINE.finditer(text)][::-1]
    # Fences that nothing closes any more on a line of its own: from there on, one at the end of a line closes them.
    without: set[tuple[str, int]] = set()
    while opening := _FENCE.search(text, position):
        start = min(opening.end() + 1, len(text))
        marks = opening["marks"]
        margin = _MARGIN.match(text, text.rfind("\n", 0, opening.start("marks")) + 1)
        columns = _columns(margin[0] if margin else "")
        while lines and lines[-1][0].start() < start:
            lines.pop()
        closing = None
        if (marks, columns) not in without:
            # As CommonMark has it, a fence that is indented further belongs to the program.
            closing = next(
                (line for line, at in reversed(lines) if line[2].startswith(marks) and at <= columns + 3), None
            )
        if closing is None:
            without.add((marks, columns))
            closing = re.compile(rf"(?<=[^\s`~]){marks}{marks[0]}*[ \t]*$", re.MULTILINE).search(text, start)
        content = text[start : closing.start() if closing else len(text)]
        if indent := len(opening["indent"] or ""):
            content = re.sub(rf"^[ \t]{{1,{indent}}}", "", content, flags=re.MULTILINE)
        blocks.append((opening["language"], content))
        position = closing.end() if closing else len(text)
    return blocks


def _columns(margin: str) -> int:
    return len(margin.expandtabs(4))
