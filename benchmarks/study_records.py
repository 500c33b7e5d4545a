"""The records of the finished worlds of a study, small enough to commit, so that the study can go on elsewhere.

    effopd study --short --out runs/study                  # interrupted by Ctrl-C once a world is finished, or not
    python benchmarks/study_records.py pack runs/study     # to benchmarks/results/study-records
    python benchmarks/study_records.py unpack runs/study   # later, or on another machine
    effopd study --short --out runs/study                  # judges what is there, and goes on with the other worlds

Weights, singular vectors and completions are left out: no claim needs them, and `effopd study` does not look at a world
that is finished.
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
COPIED = (FINISHED, "sweep/sweep.json", "linearized/*/linearized.json")
TABLES = (
    "analysis/updates.parquet",
    "analysis/alignments.parquet",
    "analysis/embeddings.parquet",
    "sweep/results.parquet",
)
# A line for each run: its name, its run.json, and the rows of its metrics.jsonl with an accuracy.
RUNS = "runs.jsonl.gz"


def pack(study: Path, records: Path) -> list[str]:
    """Write the records of the worlds that are finished, and return their names."""
    worlds = _copy_json(study, records)
    for world in worlds:
        source, to = study / world, records / world
        for name in TABLES:
            with replaced(to / name) as temporary:
                pq.write_table(
                    _narrow(pq.read_table(source / name)), temporary, compression="zstd", compression_level=19
                )
        runs = read_json(source / FINISHED)["runs"]
        lines = "".join(json.dumps(_run(source / "runs" / name)) + "\n" for name in runs)
        with replaced(to / RUNS) as temporary:
            temporary.write_bytes(gzip.compress(lines.encode(), mtime=0))
    return worlds


def unpack(records: Path, study: Path) -> list[str]:
    """Put the records of the worlds where `effopd study` looks for them, and return their names."""
    worlds = _copy_json(records, study)
    for world in worlds:
        source, to = records / world, study / world
        for name in TABLES:
            with replaced(to / name) as temporary:
                temporary.write_bytes((source / name).read_bytes())
        for run in read_json_lines(source / RUNS, may_be_cut=False):
            write_json(to / "runs" / run["name"] / "run.json", run["run"])
            write_json_lines(to / "runs" / run["name"] / "metrics.jsonl", run["metrics"])
    return worlds


def _copy_json(source: Path, to: Path) -> list[str]:
    """Copy what is small as it is: the study's settings, and of finished worlds, whose names are returned, `COPIED`."""
    worlds = sorted(path.parent.name for path in source.glob(f"*/{FINISHED}"))
    files = [path for world in worlds for pattern in COPIED for path in (source / world).glob(pattern)]
    for file in [source / STUDY, *files]:
        write_json(to / file.relative_to(source), read_json(file))
    return worlds


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
    print(f"{args.do}ed: {', '.join(worlds) or 'no world is finished'}")


if __name__ == "__main__":
    main()
