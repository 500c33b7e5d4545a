"""The table of docs/faults.md, from the records of the harness in tests/faults.

PYTHONPATH=src:tests python tests/faults/kill_everywhere.py WORK --out benchmarks/results/kills.jsonl --most 30
PYTHONPATH=src:tests python tests/faults/causes.py WORK --out benchmarks/results/causes.jsonl
PYTHONPATH=src:tests python tests/faults/processes.py WORK --out benchmarks/results/processes.jsonl
PYTHONPATH=src:tests python tests/faults/two_hosts.py WORK --out benchmarks/results/hosts.jsonl
python benchmarks/fault_tables.py     # writes the tables into docs/faults.md
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from effopd.files import read_json_lines

HERE = Path(__file__).parent
PAGE = HERE.parent / "docs" / "faults.md"
KILLS, *CAUSES = (HERE / "results" / f"{name}.jsonl" for name in ("kills", "causes", "processes", "hosts"))

Record = dict[str, Any]

# Phases of a command by what its points are about, the first that fits.
PHASES = (
    (r"call (Snapshot\.(?!save)|validate|publish|NextRollouts)", "a trigger"),
    (r"call (CallbackHandler|AcceleratedOptimizer)", "a training step"),
    (r"call Accelerator", "waiting for other processes"),
    (r"\.removed|^re(move|name) checkpoint-\d+$", "removing an old checkpoint"),
    (r"checkpoint-\d+/effopd-complete", "marking a checkpoint complete"),
    (r"Snapshot\.save|/effopd(/|$)", "saving the anchor"),
    (r"checkpoint-\d+", "saving model, optimizer and state"),
    (r"(metrics|extrapolations|updates|progress|examples)\.jsonl", "appending records"),
    (r"cells/|completions/|results\.parquet|unused\.parquet|failed\.jsonl", "results of cells"),
    (r"subspaces/|spectra/|alignments", "singular vectors and spectra"),
    (r"README\.md", "the model card"),
    (r"figures|report|\.html|\.md|\.svg|\.png|\.pdf", "figures and report"),
    (r"\.parquet", "tables"),
    (r"model\.safetensors|config\.json|tokenizer|training_args|generation_config|chat_template", "the final model"),
    (r"", "settings, summary and folders"),
)


def phase_of(point: str) -> str:
    """Tell to which phase of its command a point belongs."""
    return next(phase for pattern, phase in PHASES if re.search(pattern, point))


def kills_table(records: Iterable[Record]) -> str:
    """Write the table of kills: a row for each phase of each command."""
    lines = ["| command | phase | killed at | same | steps done again, at most |", "|---|---|---|---|---|"]
    points: dict[tuple[str, str], list[Record]] = {}
    for record in records:
        if "point" in record:
            points.setdefault((record["workload"], phase_of(record["point"])), []).append(record)
    for (workload, phase), found in points.items():
        outcomes = Counter(record["outcome"] for record in found)
        redone = max((record["redone"] for record in found if "redone" in record), default=None)
        lines.append(
            f"| {workload} | {phase} | {len(found)} | {outcomes['same']} | {'' if redone is None else redone} |"
        )
    return "\n".join(lines)


def totals_table(records: Iterable[Record]) -> str:
    """Write the number of points of each command, and at how many of them it was killed."""
    lines = ["| command | points | killed at |", "|---|---|---|"]
    lines += [f"| {each['workload']} | {each['points']} | {each['killed']} |" for each in records if "points" in each]
    return "\n".join(lines)


def causes_table(records: Iterable[Record]) -> str:
    """Write the table of causes, with the line that the user sees."""
    lines = ["| cause | what the user sees | afterwards |", "|---|---|---|"]
    for record in records:
        says = record["says"].replace("|", "\\|").replace("<", "&lt;") or "nothing: the run goes on"
        says = re.sub(r"\(/\S*/", "(", says)  # the folder of the checkout
        lines.append(f"| {record['cause']} | {says} | {record['outcome']} |")
    return "\n".join(lines)


def page(text: str, kills: list[Record], causes: list[Record]) -> str:
    """Put the tables into the page, each between its two marks."""
    tables: dict[str, Callable[[], str]] = {
        "totals": lambda: totals_table(kills),
        "kills": lambda: kills_table(kills),
        "causes": lambda: causes_table(causes),
    }
    for name, make in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, _, rest = text.partition(begin)
        text = f"{before}{begin}\n{make()}\n{end}{rest.partition(end)[2]}"
    return text


def main() -> None:
    """Write the tables into the page."""
    causes = [record for path in CAUSES for record in read_json_lines(path)]
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8"), read_json_lines(KILLS), causes), encoding="utf-8")


if __name__ == "__main__":
    main()
