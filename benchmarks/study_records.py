"""The records of a study, small enough to commit, so that it can go on elsewhere.

    effopd study --short --out runs/study                  # interrupted by Ctrl-C
    python benchmarks/study_records.py pack runs/study     # to benchmarks/results/study-records
    python benchmarks/study_records.py unpack runs/study   # later, or on another machine
    effopd study --short --out runs/study                  # judges what is there, and does what is left

Weights, singular vectors and completions are left out: no claim needs them, and `effopd study` does not look at a world
that is finished. Of other worlds, those finished runs are packed whose weights are not going to be analysed.
"""

import argparse
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from effopd.files import read_json, read_json_lines, replaced, write_json, write_json_lines
from effopd.study.run import FINISHED, STUDY

RECORDS = Path(__file__).parent / "results" / "study-records"
COPIED = ("sweep/sweep.json", "linearized/*/linearized.json")
# What these say of directories on the machine of the study is left out.
PLACES = ("student", "teacher", "base", "runs", "spec")
TABLES = (
    "analysis/updates.parquet",
    "analysis/alignments.parquet",
    "analysis/embeddings.parquet",
    "sweep/results.parquet",
)
# A line for each run: its name, its run.json, and the rows of its metrics.jsonl with an accuracy.
RUNS = "runs.jsonl.gz"


def pack(study: Path, records: Path) -> dict[str, int]:
    """Write the records, and return the number of packed runs of each world."""
    write_json(records / STUDY, read_json(study / STUDY))
    return {each.parent.name: _pack_world(study, each.parent.name, records) for each in sorted(study.glob("*/runs"))}


def _pack_world(study: Path, world: str, records: Path) -> int:
    source, to = study / world, records / world
    if (source / FINISHED).exists():
        runs = [source / "runs" / name for name in read_json(source / FINISHED)["runs"]]
        write_json(to / FINISHED, read_json(source / FINISHED))
        for file in (path for pattern in COPIED for path in source.glob(pattern)):
            content = {name: value for name, value in read_json(file).items() if name not in PLACES}
            write_json(to / file.relative_to(source), content)
        for name in TABLES:
            with replaced(to / name) as temporary:
                table = _narrow(pq.read_table(source / name))
                pq.write_table(table, temporary, compression="zstd", compression_level=19)
    else:
        analysed = {role for role, method in read_json(study / STUDY)["methods"].items() if method["swept"]}
        finished = sorted(path.parent for path in source.glob("runs/*/run.json"))
        runs = [run for run in finished if run.name.rpartition("-")[0] not in analysed]
    lines = "".join(json.dumps(_run(run)) + "\n" for run in runs)
    with replaced(to / RUNS) as temporary:
        temporary.write_bytes(gzip.compress(lines.encode(), mtime=0))
    return len(runs)


def finished_worlds(records: Path = RECORDS) -> list[str]:
    """Name the worlds of which all was packed."""
    return sorted(path.parent.name for path in records.glob(f"*/{FINISHED}"))


def unpack(records: Path, study: Path) -> dict[str, int]:
    """Put the records where `effopd study` looks for them, and return the number of runs of each world."""
    packed = {
        path.parent.name: list(read_json_lines(path, may_be_cut=False)) for path in sorted(records.glob(f"*/{RUNS}"))
    }
    for file in records.rglob("*"):
        if file.is_file() and file.name != RUNS:
            with replaced(study / file.relative_to(records)) as temporary:
                temporary.write_bytes(file.read_bytes())
    for world, runs in packed.items():
        for run in runs:
            to = study / world / "runs" / run["name"]
            write_json(to / "run.json", run["run"])
            write_json_lines(to / "metrics.jsonl", run["metrics"])
    return {world: len(runs) for world, runs in packed.items()}


def _run(directory: Path) -> dict[str, object]:
    rows = read_json_lines(directory / "metrics.jsonl")
    measured = [row for row in rows if row.get("accuracy") is not None or row is rows[-1]]
    return {"name": directory.name, "run": read_json(directory / "run.json"), "metrics": measured}


def _narrow(table: pa.Table) -> pa.Table:
    """Round what was measured to float32: seven digits, where verdicts show three. Values of sweeps are looked up."""

    def narrowed(field: pa.Field) -> pa.Field:
        return field.with_type(pa.float32()) if field.type == pa.float64() and field.name != "value" else field

    table = table.select([name for name in table.column_names if not name.startswith("vector_")])  # no claim reads them
    return table.cast(pa.schema([narrowed(field) for field in table.schema]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("do", choices=("pack", "unpack"))
    parser.add_argument("study", type=Path, help="directory that `effopd study` wrote, or is to go on in")
    parser.add_argument("--records", type=Path, default=RECORDS)
    args = parser.parse_args()
    worlds = pack(args.study, args.records) if args.do == "pack" else unpack(args.records, args.study)
    print(f"{args.do}ed: {', '.join(f'{runs} runs of {world}' for world, runs in worlds.items()) or 'nothing'}")


if __name__ == "__main__":
    main()
