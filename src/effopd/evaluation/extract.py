"""The program in a completion."""

import re

_THINKING_END = "</think>"
_FENCE = re.compile(r"^[ \t]*(?P<marks>`{3,}|~{3,})[ \t]*(?P<language>[^\s`]*)[^\n]*$", re.MULTILINE)
_PYTHON = frozenset({"python", "py", "python3"})


def extract_code(text: str) -> str:
    """Find the program in a completion.

    What comes before the last `</think>` is dropped. Then the program is the last fenced block marked as Python
    (`python`, `py`, `python3`); else the last block without a language; else, if no block is marked at all, the whole
    text. A block that is never closed reaches to the end.

    Returns:
        The program; empty where all blocks are of other languages, or nothing is left.
    """
    text = text.rpartition(_THINKING_END)[2]
    blocks = _blocks(text)
    for wanted in (_PYTHON, {""}):
        matching = [content for language, content in blocks if language.lower() in wanted]
        if matching:
            return matching[-1]
    return "" if blocks else text.strip()


def _blocks(text: str) -> list[tuple[str, str]]:
    """Language and content of all fenced blocks."""
    blocks = []
    position = 0
    while opening := _FENCE.search(text, position):
        start = min(opening.end() + 1, len(text))
        marks = opening["marks"]
        closing = re.compile(rf"^[ \t]*{re.escape(marks)}[ \t]*$", re.MULTILINE).search(text, start)
        end = closing.start() if closing else len(text)
        blocks.append((opening["language"], text[start:end]))
        position = closing.end() if closing else len(text)
    return blocks
