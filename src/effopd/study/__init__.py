"""`effopd study`: the paper's argument run again, side by side with its rivals, each claim with a verdict.

    from effopd.study import make_plan, read_own_models, study

    study(make_plan("quick"), "runs/study")                 # trains on the embedded worlds
    study(read_own_models("mine.yaml"), "runs/mine")        # judges checkpoints that are there

`claims/` holds the claims by theme: what each says, its statistic, its threshold, and the function from records to the
statistic. They are copied into the study's directory before the first run, and a directory of other claims is refused.
`verdict` decides, `records` reads what the claims are measured on, and `effopd.report.study` writes the report.
"""

from effopd.study.plan import StudyPlan, make_plan
from effopd.study.run import study
from effopd.study.spec import OwnModels, read_own_models

__all__ = ["OwnModels", "StudyPlan", "make_plan", "read_own_models", "study"]
