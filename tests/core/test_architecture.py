import copy
import pickle
import sys
import types

import pytest
from expecting import raises

from nasforge.core.architecture import Architecture
from nasforge.core.errors import SpaceError
from nasforge.core.space import Choice, Decision, SearchSpace

VALUES = {"model.stage0.width": 16, "model.stage0.block": "plain", "train.rate": 0.1}


def test_the_two_hashes_name_network_and_point():
    one, other_recipe = Architecture(VALUES), Architecture({**VALUES, "train.rate": 0.2})
    other_network = Architecture({**VALUES, "model.stage0.width": 32})
    assert one.arch_id == other_recipe.arch_id != other_network.arch_id
    assert len({one.point_id, other_recipe.point_id, other_network.point_id}) == 3
    assert one.arch_id == Architecture(dict(reversed(VALUES.items()))).arch_id
    assert (one.model, one.train) == ({"stage0.width": 16, "stage0.block": "plain"}, {"rate": 0.1})


def test_the_hash_is_the_same_in_every_process_and_version():
    # printf '{"a":1}' | sha256sum: journals of earlier versions must keep their names
    assert Architecture({"model.a": 1, "train.b": 0.5}).arch_id == "015abd7f5cc5"


def test_isomorphic_networks_share_their_name():
    module = types.ModuleType("canonical_here")
    module.sorted_ops = lambda model: "+".join(sorted(str(value) for value in model.values()))
    sys.modules["canonical_here"] = module
    try:
        decisions = tuple(Decision(f"model.{edge}", Choice(("conv", "pool"))) for edge in "ab")
        space = SearchSpace("s", decisions, canonical="canonical_here:sorted_ops")
        a = space.point({"model.a": "conv", "model.b": "pool"})
        b = space.point({"model.a": "pool", "model.b": "conv"})
        assert a.arch_id == b.arch_id
        assert a.point_id == b.point_id
        assert a != b
        assert Architecture.from_json(a.to_json()) == a
    finally:
        del sys.modules["canonical_here"]
    with raises(SpaceError, "missing", None, "no_such_module"):
        SearchSpace("s", decisions, canonical="no_such_module:f").default_point()


def test_the_key_is_equal_where_the_point_id_is():
    points = [
        Architecture(values, canonical)
        for values in (VALUES, {**VALUES, "train.rate": 1}, {**VALUES, "train.rate": True}, {"model.a": 1})
        for canonical in (None, "same", "other")
    ]
    points += [Architecture({**VALUES, "model.stage0.width": 32}, "same"), Architecture(dict(VALUES))]
    for a in points:
        for b in points:
            assert (a.key == b.key) == (a.point_id == b.point_id)


def test_it_is_a_value():
    one = Architecture(VALUES)
    assert pickle.loads(pickle.dumps(one)) == one == copy.deepcopy(one)
    assert {one: 1}[Architecture(VALUES)] == 1
    with pytest.raises(TypeError):
        one.values["train.rate"] = 0.5


def test_what_is_no_architecture_is_refused():
    for content in ({}, {"values": 3}, []):
        with raises(SpaceError, "type", "values"):
            Architecture.from_json(content)
