"""The tables of a sweep, one for each figure, with the points that the figure draws."""

import math

import pandas as pd

from effopd.report.sweep.captions import sweep_captions
from effopd.report.sweep.points import shows_kl
from effopd.report.sweep.precision import percent
from effopd.report.sweep.records import SweepRecords
from effopd.report.table import NONE, Table

WITHOUT_VALUE = ("base", "trained", "replace-embeddings")


def sweep_tables(records: SweepRecords, points: pd.DataFrame) -> dict[str, Table]:
    """Make a table for each figure, by the name of the figure's files.

    Args:
        records: The sweep.
        points: Its points, from `sweep_points`.
    """
    tables = {}
    for caption in sweep_captions(records, points):
        chosen = points[(points["sweep"] == caption.sweep) & (points["task"] == caption.task)]
        with_kl = shows_kl(records.sweeps[caption.sweep], chosen)
        measured = ("accuracy, %", "KL, nats / token") if with_kl else ("accuracy, %",)
        with_error = chosen["relative_error"].notna().any()  # earlier versions did not measure it
        norm = ("norm of the update", *(("its error",) if with_error else ()))
        header = ("run", "curve", "value", *norm, *measured, "training seeds")
        rows = []
        for point in chosen.to_dict("records"):
            accuracy = _cell([100 * point[name] for name in ("accuracy", "accuracy_low", "accuracy_high")], ".1f")
            kl = [_cell([point[name] for name in ("kl", "kl_low", "kl_high")], ".3g")] if with_kl else []
            seeds = f"{point['num_training_seeds']} of {records.num_training_seeds[point['run']]}"
            value = "" if point["kind"] in WITHOUT_VALUE else f"{point['value']:g}"
            error = NONE if math.isnan(point["relative_error"]) else percent(point["relative_error"])
            norm = (f"{point['update_norm']:.4g}", *((error,) if with_error else ()))
            curve = (point["run"], point["kind"], value, *norm)
            rows.append((*curve, accuracy, *kl, seeds))
        tables[caption.name] = Table(caption.name, caption.title, caption.text, header, tuple(rows), text_columns=2)
    return tables


def _cell(values: list[float], spec: str) -> str:
    mean, low, high = values
    return NONE if math.isnan(mean) else f"{mean:{spec}} [{low:{spec}}, {high:{spec}}]"
