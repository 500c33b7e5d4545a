"""Models made from a part of what training did to the weights, to see what that part is worth (arXiv 2605.11739).

A model with the top 10 % of the components of every update, on disk, tensor by tensor:

    from effopd.interventions import TopComponents, intervene

    intervene("Qwen/Qwen2.5-1.5B", "runs/opd", [TopComponents(10)], out="models/opd-top10")

A sweep over window positions, of a model in memory that is itself again after each:

    from effopd.interventions import LiveModel, Window

    live = LiveModel(model, base="Qwen/Qwen2.5-1.5B")
    for centre in range(model.config.num_hidden_layers):
        with live.intervened(Window("mlp", centre)):
            print(centre, accuracy(model))

Several interventions in a list apply to the update one after the other: `[Window("mlp", 12), Scale(2)]`. Every one is a
function of dW = W - W_base, computed in float64 and rounded once to the dtype of the trained model; where it leaves the
update as it is, the weight is the stored one to the bit. Underneath are functions of tensors, numbers and names:
`keep_top`, `keep_bottom`, `decompose`, `norm_match_factor`, `in_window`, `add_scaled`.
"""

from effopd.interventions.apply import intervene
from effopd.interventions.factors import SavedFactors, open_factors
from effopd.interventions.kinds import BottomComponents, NormMatch, ReplaceEmbeddings, Scale, TopComponents, Window
from effopd.interventions.live import LiveModel
from effopd.interventions.norm_match import norm_match_factor
from effopd.interventions.norms import UpdateNorms, update_norms
from effopd.interventions.plan import KINDS, make_intervention, read_plan
from effopd.interventions.scale import add_scaled
from effopd.interventions.truncate import Decomposition, decompose, keep_bottom, keep_top
from effopd.interventions.update import Intervention, Update
from effopd.interventions.window import in_window

__all__ = [
    "BottomComponents",
    "Decomposition",
    "Intervention",
    "KINDS",
    "LiveModel",
    "NormMatch",
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
    "update_norms",
]
