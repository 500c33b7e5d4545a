"""New models from a part of what training did to the weights, to see what that part is worth (arXiv 2605.11739).

This writes a model with the top 10 % of the singular components of every update:

    from effopd.interventions import TopComponents, intervene

    intervene("Qwen/Qwen2.5-1.5B", "runs/opd", [TopComponents(10)], out="models/opd-top10")

This sweeps over window positions with a model in memory, which is itself again after each:

    from effopd.interventions import LiveModel, Window

    live = LiveModel(model, base="Qwen/Qwen2.5-1.5B")
    for centre in range(model.config.num_hidden_layers):
        with live.intervened(Window("mlp", centre)):
            print(centre, accuracy(model))

Several interventions in a list apply to the update one after the other: `[Window("mlp", 12), Scale(2)]`. Each is a
function of dW = W - W_base. The new weight is computed in float64 and rounded once: to float32, or to the dtype of the
trained model where that holds the update. Where an intervention leaves the update as it is, the weight is the stored
one. Each new model comes with the norms of its intended and its realised update. The mathematics underneath is
in functions of tensors, numbers and names: `keep_top`, `keep_bottom`, `decompose`, `norm_match_factor`, `in_window`,
`add_scaled`.

Each intervention has a file of its own, which registers it: docs/interventions.md says how to add one.
"""

import importlib
import pkgutil

from effopd.interventions.apply import intervene, summary
from effopd.interventions.decomposition import Decomposition, decompose
from effopd.interventions.factors import SavedFactors, open_factors
from effopd.interventions.live import LiveModel
from effopd.interventions.norm_match import NormMatch, norm_match_factor
from effopd.interventions.norms import UpdateNorms, update_norms
from effopd.interventions.plan import read_plan
from effopd.interventions.realised import Realised, RealisedByKind
from effopd.interventions.registry import KINDS, make_intervention
from effopd.interventions.replace_embeddings import ReplaceEmbeddings
from effopd.interventions.scale import Scale
from effopd.interventions.scaled_sum import add_scaled
from effopd.interventions.truncate import BottomComponents, TopComponents, keep_bottom, keep_top
from effopd.interventions.update import Intervention, Update
from effopd.interventions.window import Window, in_window

__all__ = [
    "BottomComponents",
    "Decomposition",
    "Intervention",
    "KINDS",
    "LiveModel",
    "NormMatch",
    "Realised",
    "RealisedByKind",
    "ReplaceEmbeddings",
    "SavedFactors",
    "Scale",
    "TopComponents",
    "Update",
    "UpdateNorms",
    "Window",
    "add_scaled",
    "decompose",
    "in_window",
    "intervene",
    "keep_bottom",
    "keep_top",
    "make_intervention",
    "norm_match_factor",
    "open_factors",
    "read_plan",
    "summary",
    "update_norms",
]

for _module in pkgutil.iter_modules(__path__):  # a file that nothing above imports registers its intervention too
    importlib.import_module(f"{__name__}.{_module.name}")
