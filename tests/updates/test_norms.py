import math

import pytest

from effopd.errors import DataError
from effopd.updates import layer_norms, module_movements, nearly_unmoved

Q0, K0 = "model.layers.0.self_attn.q_proj.weight", "model.layers.0.self_attn.k_proj.weight"
BIAS = "model.layers.0.self_attn.q_proj.bias"
UP1, EMBED, ODD = "model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight", "model.layers.1.gadget.weight"


def test_layer_norms_add_squares_within_a_layer_and_kind():
    norms = layer_norms([(UP1, 1.0), (Q0, 3.0), (K0, 4.0), (EMBED, 2.0), (ODD, 0.5)])
    assert norms == {"attention": {0: 5.0}, "mlp": {1: 1.0}, "embedding": {None: 2.0}, "other": {1: 0.5}}


def test_layers_are_ascending():
    norms = layer_norms([(f"layers.{i}.mlp.up_proj.weight", float(i)) for i in (10, 2, 0)])
    assert list(norms["mlp"]) == [0, 2, 10]


def test_squared_norms_add_up_to_the_whole():
    records = [(Q0, 3.0), (K0, 4.0), (UP1, 12.0)]
    total = sum(norm**2 for layers in layer_norms(records).values() for norm in layers.values())
    assert math.sqrt(total) == pytest.approx(13)


def test_a_module_is_a_weight_with_its_bias():
    movements = module_movements([(UP1, 12.0, 24.0), (Q0, 3.0, 6.0), (BIAS, 4.0, 8.0)])
    assert [movement.names for movement in movements] == [(UP1,), (Q0, BIAS)]
    assert movements[1].update_norm == 5
    assert movements[1].relative_update == 0.5
    assert movements[1].share == pytest.approx(25 / 169)
    assert sum(movement.share for movement in movements) == pytest.approx(1)


def test_nearly_unmoved_goes_by_the_relative_update():
    movements = module_movements([(Q0, 1e-3, 10.0), (K0, 1.0, 10.0), (BIAS, 0.0, 0.0), (UP1, 1e-6, 0.0)])
    unmoved = nearly_unmoved(movements, max_relative_update=1e-3)
    # A bias shares its weight's module; up_proj left zero, so it moved.
    assert [movement.names for movement in unmoved] == [(Q0, BIAS)]
    assert {m.names: m.relative_update for m in movements}[(UP1,)] is None


def test_no_movement_at_all():
    (movement,) = module_movements([(Q0, 0.0, 0.0)])
    assert (movement.share, movement.relative_update) == (0, 0)
    assert layer_norms([]) == {}
    assert module_movements([]) == []


@pytest.mark.parametrize("norm", [-1.0, math.nan, math.inf])
def test_refuses_what_is_not_a_norm(norm):
    with pytest.raises(DataError, match="finite norm"):
        layer_norms([(Q0, norm)])
    with pytest.raises(DataError, match="finite norm"):
        module_movements([(Q0, 1.0, norm)])


def test_refuses_a_name_twice():
    with pytest.raises(DataError, match="second time"):
        layer_norms([(Q0, 1.0), (Q0, 1.0)])
