from __future__ import annotations

import dataclasses
import json
import math
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.settings.choices import ConfigError
from cd4lm_jax.settings.config import (
    config_from_json,
    config_to_json,
    describe,
    from_plain,
    override,
    to_plain,
    validate,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    rank: int = 8
    targets: tuple[str, ...] = ("q", "v")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Optimizer:
    learning_rate: float = 1e-3
    betas: tuple[float, float] = (0.9, 0.95)
    clip: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Constant:
    value: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cosine:
    value: float = 2.0
    share: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
    steps: int
    name: str = "run"
    shuffle: bool = True
    kind: Literal["same", "shifted"] = "same"
    chunks: Literal[1, 2, "auto"] = "auto"
    resume: str | None = None
    ids: tuple[int, ...] = ()
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    adapter: Adapter | None = None
    schedule: Constant | Cosine = Constant()

    def __post_init__(self) -> None:
        if self.steps % 2 and self.name == "even":
            raise ValueError(f"steps={self.steps} is odd")


BASE = Settings(steps=10)


def error(**changes: str) -> str:
    """The message for overrides, `__` standing for a dot."""
    with pytest.raises(ConfigError) as raised:
        override(BASE, {name.replace("__", "."): text for name, text in changes.items()})
    return str(raised.value)


@given(
    st.builds(
        Settings,
        steps=st.integers(),
        name=st.text(),
        shuffle=st.booleans(),
        kind=st.sampled_from(["same", "shifted"]),
        chunks=st.sampled_from([1, 2, "auto"]),
        resume=st.none() | st.text(),
        ids=st.lists(st.integers()).map(tuple),
        optimizer=st.builds(
            Optimizer,
            learning_rate=st.floats(allow_nan=False),
            clip=st.none() | st.floats(allow_nan=False),
        ),
        adapter=st.none() | st.builds(Adapter, rank=st.integers()),
        schedule=st.builds(Constant) | st.builds(Cosine, share=st.floats(allow_nan=False)),
    )
)
def test_json_round_trip(settings: Settings) -> None:
    text = config_to_json(settings)
    assert config_from_json(Settings, text) == settings
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is not strict JSON"))


def test_nan_survives_the_round_trip() -> None:
    settings = Settings(steps=1, optimizer=Optimizer(learning_rate=math.nan))
    back = config_from_json(Settings, config_to_json(settings))
    assert math.isnan(back.optimizer.learning_rate)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "20", 20),
        ("name", "a=b, c", "a=b, c"),
        ("shuffle", "false", False),
        ("shuffle", "1", True),
        ("kind", "shifted", "shifted"),
        ("chunks", "2", 2),
        ("chunks", "auto", "auto"),
        ("resume", "none", None),
        ("resume", "runs/a", "runs/a"),
        ("ids", "1,2", (1, 2)),
        ("ids", "(3,)", (3,)),
        ("ids", "", ()),
        ("optimizer.learning_rate", "1e-5", 1e-5),
        ("optimizer.learning_rate", "2", 2.0),
        ("optimizer.betas", "0.5, 0.6", (0.5, 0.6)),
        ("optimizer.clip", "1", 1.0),
    ],
)
def test_override_parses_by_the_type_of_the_field(name: str, text: str, value: Any) -> None:
    got: Any = override(BASE, {name: text})
    for part in name.split("."):
        got = getattr(got, part)
    assert got == value
    assert type(got) is type(value)


def test_override_changes_nothing_else() -> None:
    base = Settings(steps=10, optimizer=Optimizer(clip=2.0))
    got = override(base, {"optimizer.learning_rate": "0.5", "steps": "4"})
    want = Settings(steps=4, optimizer=Optimizer(clip=2.0, learning_rate=0.5))
    assert got == want
    assert base == Settings(steps=10, optimizer=Optimizer(clip=2.0))


def test_optional_group_can_be_made_and_removed() -> None:
    with_adapter = override(BASE, {"adapter.rank": "4"})
    assert with_adapter.adapter == Adapter(rank=4)
    assert override(with_adapter, {"adapter": "none"}).adapter is None


def test_one_of_several_groups_is_chosen_by_name() -> None:
    cosine = override(BASE, {"schedule.kind": "Cosine", "schedule.share": "0.1"})
    assert cosine.schedule == Cosine(share=0.1)
    # Without a name the one that is there is meant, and only another one starts afresh.
    assert override(cosine, {"schedule.value": "3"}).schedule == Cosine(share=0.1, value=3)
    assert override(cosine, {"schedule.kind": "Cosine"}) == cosine
    assert override(cosine, {"schedule.kind": "Constant"}).schedule == Constant()
    assert to_plain(cosine)["schedule"] == {"kind": "Cosine", "value": 2.0, "share": 0.1}
    # Before there was a choice, none was named.
    assert from_plain(Settings, {"steps": 1, "schedule": {"value": 3.0}}).schedule == Constant(
        value=3.0
    )
    rows = {name: (kind, value) for name, kind, value in describe(Settings, cosine)}
    assert rows["config.schedule.kind"] == ("Constant or Cosine", "Cosine")
    assert rows["config.schedule.share"] == ("float", 0.1)


def test_says_which_groups_there_are() -> None:
    assert error(schedule__kind="Cosin") == (
        "config.schedule.kind: no 'Cosin'; did you mean 'Cosine'?"
    )
    assert error(schedule__share="1") == "no field 'share' in config.schedule; known: value"
    assert error(schedule="x") == "config.schedule: no 'x'; known: Constant, Cosine"
    assert error(schedule="Cosine(") == (
        "config.schedule: 'Cosine(' is not of the form NAME or NAME(FIELD=VALUE, ...)"
    )


def test_checks_across_fields_see_all_changes_at_once() -> None:
    odd = Settings(steps=9)
    assert override(odd, {"steps": "8", "name": "even"}).name == "even"
    with pytest.raises(ValueError, match="steps=9 is odd"):
        override(odd, {"name": "even"})


def test_unknown_field_names_the_nearest() -> None:
    want = "no field 'learning_rte' in config.optimizer; did you mean 'learning_rate'?"
    assert error(optimizer__learning_rte="1") == want
    assert error(optimizer__zzz="1").endswith("known: learning_rate, betas, clip")
    assert error(stps="1") == "no field 'stps' in config; did you mean 'steps'?"
    assert error(adapter__rnk="1") == "no field 'rnk' in config.adapter; did you mean 'rank'?"


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("steps", "1.5", "config.steps: expected int, got '1.5'"),
        ("shuffle", "maybe", "config.shuffle: expected bool, got 'maybe'"),
        ("kind", "other", "config.kind: expected 'same' or 'shifted', got 'other'"),
        ("optimizer.clip", "x", "config.optimizer.clip: expected float or None, got 'x'"),
        ("optimizer.betas", "1", "config.optimizer.betas: expected 2 values, got 1"),
        ("ids", "1,x", "config.ids: expected int, got 'x'"),
        ("optimizer", "adam", "config.optimizer is a group of fields, got 'adam'; "),
        ("steps.more", "1", "config.steps is int, it has no fields to set"),
    ],
)
def test_ill_typed_text_names_field_value_and_type(name: str, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        override(BASE, {name: text})
    assert str(raised.value).startswith(message)


def test_group_and_its_field_cannot_both_be_set() -> None:
    assert "also set as a whole" in error(adapter="none", adapter__rank="1")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"steps": 1.0}, "config.steps: expected int, got 1.0"),
        ({"steps": True}, "config.steps: expected int, got True"),
        ({"shuffle": 1}, "config.shuffle: expected bool, got 1"),
        ({"chunks": True}, "config.chunks: expected 1 or 2 or 'auto', got True"),
        ({"ids": ["1"]}, "config.ids[0]: expected int, got '1'"),
        ({"ids": 3}, "config.ids: expected tuple of int, got 3"),
        ({"optimizer": {"clip": "1"}}, "config.optimizer.clip: expected float or None, got '1'"),
        ({"optimizer": None}, "config.optimizer is a group of fields, got None"),
        ({"stps": 1}, "no field 'stps' in config; did you mean 'steps'?"),
    ],
)
def test_plain_data_is_checked(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as raised:
        from_plain(Settings, {**to_plain(BASE), **change})
    assert str(raised.value).startswith(message)


def test_groups_within_a_tuple() -> None:
    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Several:
        adapters: tuple[Adapter, ...] = ()

    several = Several(adapters=(Adapter(rank=4), Adapter()))
    assert from_plain(Several, to_plain(several)) == several
    with pytest.raises(ConfigError, match=r"'rnk' in config.adapters\[1\]; did you mean 'rank'"):
        from_plain(Several, {"adapters": [{}, {"rnk": 1}]})


def test_missing_fields_take_defaults_or_are_named() -> None:
    assert from_plain(Settings, {"steps": 10}) == BASE
    with pytest.raises(ConfigError, match="config lacks 'steps', which has no default"):
        from_plain(Settings, {"name": "x"})


def test_validate_finds_what_a_config_file_got_wrong() -> None:
    wrong: Any = "1e-5"
    with pytest.raises(ConfigError, match="learning_rate: expected float, got '1e-5'"):
        validate(Settings(steps=1, optimizer=Optimizer(learning_rate=wrong)))
    rate = validate(Settings(steps=1, optimizer=Optimizer(learning_rate=1))).optimizer.learning_rate
    assert isinstance(rate, float)


@pytest.mark.parametrize("text", ["{", "[1]", ""])
def test_broken_json_is_one_line(text: str) -> None:
    with pytest.raises(ConfigError, match="JSON") as raised:
        config_from_json(Settings, text, where="runs/a/config.json")
    assert str(raised.value).startswith("runs/a/config.json: ")
    assert "\n" not in str(raised.value)


def test_describe_lists_every_field_with_its_value() -> None:
    rows = {name: (kind, value) for name, kind, value in describe(Settings)}
    assert rows["config.steps"] == ("int", ...)
    assert rows["config.optimizer.learning_rate"] == ("float", 1e-3)
    assert rows["config.adapter"] == ("Adapter or None", None)
    given = {name: value for name, _, value in describe(Settings, override(BASE, {"steps": "3"}))}
    assert given["config.steps"] == 3


@pytest.mark.parametrize("count", [1, 2, 4])
def test_an_optional_tuple_has_any_length(count: int) -> None:
    @dataclasses.dataclass(frozen=True)
    class Ids:
        ends: tuple[int, ...] | None = None

    config = Ids(tuple(range(count)))
    assert from_plain(Ids, to_plain(config)) == config
    assert to_plain(Ids()) == {"ends": None}
