"""Replacing the embeddings by those of the base."""

from pathlib import Path

import pytest
import torch
from checkpoints.tiny_pairs import write_raw

from effopd.checkpoints import Pair, open_pair
from effopd.errors import ConfigurationError
from effopd.interventions import ReplaceEmbeddings
from interventions.changed import weights


def test_embeddings_are_the_bases_and_an_untied_head_is_not(pair: Pair) -> None:
    changed = weights(pair, [ReplaceEmbeddings()])
    for name, tensor in changed.items():
        source = pair.base if name == "model.embed_tokens.weight" else pair.trained
        assert torch.equal(tensor, source.read(name))


@pytest.mark.parametrize("stored", ["base", "trained", "both", "neither"])
def test_a_tied_head_goes_with_its_embedding(tmp_path: Path, stored: str) -> None:
    embedding = {"base": torch.randn(8, 4), "trained": torch.randn(8, 4)}
    models = {}
    for which, tensor in embedding.items():
        tensors = {"model.embed_tokens.weight": tensor, "model.layers.0.mlp.up_proj.weight": torch.randn(4, 4)}
        tensors |= {"lm_head.weight": tensor.clone()} if stored in (which, "both") else {}
        models[which] = write_raw(tmp_path / which, tensors, tie_word_embeddings=True)
    changed = weights(open_pair(models["base"], models["trained"]), [ReplaceEmbeddings()])
    assert ("lm_head.weight" in changed) == (stored != "neither")
    for name in changed.keys() - {"model.layers.0.mlp.up_proj.weight"}:
        assert torch.equal(changed[name], embedding["base"]), name


def test_a_model_without_an_embedding() -> None:
    with pytest.raises(ConfigurationError, match="none of the 2 tensors is an embedding"):
        ReplaceEmbeddings().check({"model.norm.weight": (4,), "model.layers.0.mlp.up_proj.bias": (4,)})
