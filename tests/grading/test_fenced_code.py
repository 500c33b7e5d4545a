"""Which part of a completion is the program."""

import time

import pytest

from effopd.grading.fenced_code import extract_code


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
        ("  ```python\n  x = 1\n  ```", "x = 1\n"),
        ("1. So:\n\n   ```python\n   if x:\n       y\n   ```\n", "if x:\n    y\n"),
        ("- ```python\n  x = 1\n  ```", "x = 1\n"),
        ("```python\n    x = 1\n```", "    x = 1\n"),
        ("```python\r\nx = 1\r\n```\r\n", "x = 1\n"),
        ("Here it is: ```python\nx = 1\n```\n", "x = 1\n"),
        ("```python\nx = 1```\nor\n```python\nx = 2```\nDone.", "x = 2"),
        *(
            (f"```{language}\nx = 1\n```", "x = 1\n")
            for language in ("py3", "python3.11", "{.python .a}", "python:a.py")
        ),
        *((f"```{language}\nx = 1\n```", "") for language in ("pycon", "python2", "pytb", "perl")),
        ("```python title='a.py'\nx = 1\n```", "x = 1\n"),
        ("~~~python\nx = 1\n~~~", "x = 1\n"),
        ("```python\nx = 1\n````\n```python\ny", "y"),
        ("```python\nx = 1\n````\nDone.", "x = 1\n"),
        ("```python\nx = 1\n   ```\nDone.", "x = 1\n"),
        ('```python\ns = """\n    ```\n    1\n    ```\n"""\n```\n', 's = """\n    ```\n    1\n    ```\n"""\n'),
        ('- ```python\n  s = """\n      ```\n  """\n  ```\nDone.', 's = """\n    ```\n"""\n'),
        ('```python\ns = """\n\t```\n"""\n```\n', 's = """\n\t```\n"""\n'),
        ("     So: ```python\n     x = 1\n     ```\nDone.", "     x = 1\n"),
        ("```python\nx = '```'\n```", "x = '```'\n"),
        ("<think>\n```python\ndraft\n```\n</think>\nfinal = 1", "final = 1"),
        ("<think>```python\ndraft\n```</think>\n```python\nfinal = 1\n```", "final = 1\n"),
        ("```python\nx = 1\n```\n</think>", ""),
        ("```python\ns = '</think>'\n```", "s = '</think>'\n"),
        ('say "</think>"</think>x = 1', "x = 1"),
        ("", ""),
        ("```python", ""),
    ],
)
def test_extract_code(text: str, program: str) -> None:
    assert extract_code(text) == program


INDENTED = "".join(f"{' ' * columns}```python\nx```\n" for columns in range(700)) + (" " * 800 + "```\n") * 300


@pytest.mark.parametrize(
    "text",
    [
        *("```python\nx```\n" * 50_000, "a ```" * 100_000, " " * 500_000 + "x", "- " * 500_000, INDENTED),
        *("```" + "a" * 500_000 + "`", "```" + " " * 500_000 + "`"),
    ],
)
def test_long_completions_take_no_long_time(text: str) -> None:
    started = time.process_time()
    extract_code(text)
    assert time.process_time() - started < 5
