from __future__ import annotations

import pytest

from model_registry.errors import RegistryError, UnknownModel
from model_registry.refs import ModelRef, parse_ref
from model_registry.versions import Shelf, state_of


@pytest.mark.parametrize(
    ("text", "ref"),
    [
        ("cover", ModelRef("cover")),
        ("cover@canary", ModelRef("cover", alias="canary")),
        ("land-cover_2.1:12", ModelRef("land-cover_2.1", version=12)),
    ],
)
def test_a_reference_is_read_and_written_the_same(text: str, ref: ModelRef):
    assert parse_ref(text) == ref and str(ref) == text and parse_ref(ref) is ref


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "cannot be a model name"),
        ("3cover", "cannot be a model name"),
        ("../cover", "cannot be a model name"),
        ("co ver", "cannot be a model name"),
        (".staging-x", "cannot be a model name"),
        ("c" * 101, "cannot be a model name"),
        ("cover@", "'' cannot be an alias"),
        ("cover@a/b", "'a/b' cannot be a"),
        ("cover:", "'' is not a version of 'cover'"),
        ("cover:0", "'0' is not a version"),
        ("cover:03", "'03' is not a version"),
        ("cover:-1", "'-1' is not a version"),
        ("cover:1.0", "'1.0' is not a version"),
        ("cover:latest", "or cover@alias"),
        ("cover:\u0663", "is not a version"),
        ("cover:1:2", "'1:2' is not a version"),
        ("cover@a:1", "an alias and a version"),
        ("cover:1@a", "an alias and a version"),
    ],
)
def test_anything_else_is_refused_with_what_is_wrong(text: str, says: str):
    with pytest.raises(RegistryError) as caught:
        parse_ref(text)
    assert says in str(caught.value) and caught.value.remedy


def test_both_alias_and_version_cannot_be_built_either():
    with pytest.raises(RegistryError, match="by alias and by version"):
        ModelRef("cover", alias="a", version=1)
    with pytest.raises(RegistryError, match="version 0"):
        ModelRef("cover", version=0)


def shelf(aliases: dict[str, int], retired: frozenset[int] = frozenset()) -> Shelf:
    return Shelf("cover", (1, 2, 10), aliases, retired)


@pytest.mark.parametrize(
    ("ref", "aliases", "retired", "number"),
    [
        ("cover", {}, (), 10),
        ("cover", {"default": 1}, (), 1),
        ("cover", {"canary": 1}, (10,), 2),
        ("cover@canary", {"default": 2, "canary": 1}, (), 1),
        ("cover:2", {"default": 1}, (2,), 2),
    ],
)
def test_what_a_reference_means(ref, aliases, retired, number):
    assert shelf(aliases, frozenset(retired)).pick(parse_ref(ref)) == number


@pytest.mark.parametrize(
    ("ref", "aliases", "retired", "says"),
    [
        (
            "cover:3",
            {"default": 1},
            (),
            "no version 3 of 'cover'. Known are: cover@default, cover:1, cover:2, cover:10",
        ),
        ("cover@canary", {"default": 1}, (), "no alias 'canary'"),
        # Not the newest in its stead: that would change the map without anybody having asked for it.
        ("cover", {"default": 7}, (), "cover@default points to version 7, which is not there"),
        ("cover", {}, (1, 2, 10), "every version of 'cover' is retired"),
    ],
)
def test_what_is_not_there_is_told_with_what_is(ref, aliases, retired, says):
    with pytest.raises(UnknownModel) as caught:
        shelf(aliases, frozenset(retired)).pick(parse_ref(ref))
    assert says in str(caught.value)


def test_states_follow_from_what_is_known():
    assert str(state_of()) == "registered"
    assert str(state_of(verified=True)) == "verified"
    assert str(state_of(verified=True, probed=True)) == "probed"
    assert str(state_of(failed="no room", probed=True)) == "failed (no room)"
    assert str(state_of(loaded=True, failed="no room")) == "ready"
    assert str(state_of(retired=True, loaded=True)) == "retired"
