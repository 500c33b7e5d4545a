"""Which part of a completion is the program."""

import pytest

from effopd.evaluation.extract import extract_code


@pytest.mark.parametrize(
    ("text", "program"),
    [
        ("print(1)", "print(1)"),
        ("```python\nprint(1)\n```", "print(1)\n"),
        ("So:\n```python\nprint(1)\n```\nor better\n```Python\nprint(2)\n```\ndone", "print(2)\n"),
        ("```py\nprint(1)\n```\n```text\noutput\n```", "print(1)\n"),
        ("```\nprint(1)\n```\nInput:\n```bash\nls\n```", "print(1)\n"),
        ("```python\nprint(1)\n```\n```\n1\n```", "print(1)\n"),
        ("```bash\nls\n```", ""),
        ("```python\nprint(1)", "print(1)"),
        ("````python\ns = '''\n```\n'''\n````", "s = '''\n```\n'''\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("```python title='a.py'\nx = 1\n```", "x = 1\n"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("```python\nx = '```'\n```", "x = '```'\n"),
        ("<think>\n```python\ndraft\n```\n</think>\nfinal = 1", "final = 1"),
        ("<think>```python\ndraft\n```</think>\n```python\nfinal = 1\n```", "final = 1\n"),
        ("```python\nx = 1\n```\n</think>", ""),
        ("", ""),
        ("```python", ""),
    ],
)
def test_extract_code(text: str, program: str) -> None:
    assert extract_code(text) == program
