from __future__ import annotations

import contextlib
import json
import math
import pathlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.evaluation.report import curves
from cd4lm_jax.evaluation.report.curves import Curve, CurvePoint

PEERS = pathlib.Path(__file__).parents[3] / "experiments" / "peers"


def curve(*points: tuple[float, float], source: str | None = None, task: str = "t") -> Curve:
    """A curve of (TPF, accuracy)."""
    found = tuple(CurvePoint(tpf=tpf, accuracy=accuracy) for tpf, accuracy in points)
    return Curve(name="c", task=task, setting="", points=found, source=source)


def evaluation(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    rows = [
        {
            "name": f"{model} {rule}",
            "model": model,
            "rule": rule,
            "accuracy": accuracy,
            "accuracy_interval": [accuracy - 0.01, accuracy + 0.01],
            "nfe": 64 / tpf,
            "tpf": tpf,
            "canvas_tpf": 2 * tpf,
            "tps": 1000.0,
        }
        for model, rule, tpf, accuracy in (
            ("teacher", "fixed:1", 0.5, 0.9),
            ("student", "confidence:0.9", 6.0, 0.88),
            ("student", "confidence:0.5", 9.0, 0.8),
        )
    ]
    summary = {"rows": rows, "source": "gsm_mini", "gen_length": 64, "block_length": 32} | changes
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "summary.json").write_text(json.dumps(summary))
    return folder


def test_an_evaluation_is_a_curve_for_each_model_and_rule(tmp_path: pathlib.Path) -> None:
    teacher, student = curves.read_evaluation(evaluation(tmp_path))
    assert (teacher.name, student.name) == ("teacher, fixed", "student, confidence")
    assert student.task == "gsm_mini"
    assert student.setting == "64 generated, block 32"
    assert student.source is None
    assert [(p.label, p.tpf, p.nfe) for p in student.points] == [
        ("0.9", 6.0, 64 / 6),
        ("0.5", 9.0, 64 / 9),
    ]
    assert student.points[0].accuracy_interval == pytest.approx((0.87, 0.89))
    (labelled, _) = curves.read_evaluation(tmp_path, "block 8")
    assert labelled.name == "block 8: teacher, fixed"


def test_a_task_is_named_before_its_source(tmp_path: pathlib.Path) -> None:
    found = curves.read_evaluation(evaluation(tmp_path, task="gsm8k"))
    assert {one.task for one in found} == {"gsm8k"}


@pytest.mark.parametrize("path", sorted(PEERS.glob("*.json")), ids=lambda path: path.stem)
def test_published_figures_have_sources_and_plausible_numbers(path: pathlib.Path) -> None:
    for one in curves.read_peers(path):
        assert one.source is not None
        assert "arXiv" in one.source
        for point in one.points:
            assert 0.3 < point.accuracy < 1
            assert (point.tpf or 1) < 20
            assert (point.nfe or 256) >= 10


def test_published_curves_give_the_published_aup() -> None:
    found = {one.name: one for one in curves.read_peers(PEERS / "llada_8b_gsm8k.json")}
    everything = list(found.values())
    # As published for the same points (see test_aup.py).
    assert curves.aup(found["Fast-dLLM"], everything) == pytest.approx(205.7811, abs=6e-5)
    assert curves.aup(found["dParallel"], everything) == pytest.approx(358.1422, abs=6e-5)
    # Counted in passes: no TPF, no AUP, and no part in the best accuracy (it has 76.1 %).
    assert curves.aup(found["dParallel, its own paper"], everything) is None


def test_aup_is_relative_to_the_best_of_the_same_task() -> None:
    one = curve((1.0, 0.5), (2.0, 0.5))
    alone = curves.aup(one, [one, curve((1.0, 0.9), task="other")])
    beside = curves.aup(one, [one, curve((1.0, 0.9))])
    assert alone == pytest.approx(100)
    assert beside == pytest.approx(50 + 50 * math.exp(-3 * (1 - 5 / 9)))


def test_unbeaten_points_are_found_within_kind_and_task() -> None:
    ours = curve((1.0, 0.9), (2.0, 0.8), (1.5, 0.7))
    also = curve((1.8, 0.85), (2.0, 0.8))
    theirs = curve((1.0, 0.2), source="a paper")
    elsewhere = curve((0.5, 0.1), task="other")
    found = curves.unbeaten([ours, also, theirs, elsewhere], "tpf")
    # (1, 1) equals (0, 1), of which the first stays.
    assert found == {(0, 0), (0, 1), (1, 0), (2, 0), (3, 0)}


def test_fewer_passes_are_faster() -> None:
    points = tuple(CurvePoint(nfe=nfe, accuracy=accuracy) for nfe, accuracy in ((8, 0.9), (4, 0.9)))
    one = Curve(name="c", task="t", setting="", points=points)
    assert curves.unbeaten([one], "nfe") == {(0, 1)}
    assert curves.unbeaten([one], "tpf") == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"curves": []}, "expected task, setting, source and a list of curves"),
        ({"curve": 1}, "a list of curves, got .'curve'."),
        ({"source": ""}, "lacks a name, a task, a source or points"),
        ({"curves": [{"name": "a", "points": []}]}, "lacks a name, a task, a source or points"),
        ({"curves": [{"name": "a", "points": [{"accuracy": 0.5}]}]}, "a positive tpf"),
        ({"curves": [{"name": "a", "points": [{"accuracy": 72.5, "tpf": 1}]}]}, "from 0 to 1"),
        ({"curves": [{"name": "a", "points": [{"tfp": 1.0}]}]}, "did you mean 'tpf'"),
        ({"curves": ["a"]}, r"curves\[0\]"),
    ],
)
def test_says_what_is_wrong_with_published_figures(
    change: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    good = {"name": "a", "points": [{"tpf": 1.0, "accuracy": 0.5}]}
    file = {"task": "t", "setting": "", "source": "arXiv 1", "curves": [good]}
    path = tmp_path / "peers.json"
    path.write_text(json.dumps(file))
    assert curves.read_peers(path)[0].name == "a"
    path.write_text(json.dumps(file | change))
    with pytest.raises(ValueError, match=message) as raised:
        curves.read_peers(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('\ufeff{"rows": []}', "has no rows"),
        ('{"rows": [7]}', "row 0 is no object"),
        ('{"rows": 7}', "is no list of runs"),
        ("[]", "expected a JSON object"),
        ('{"rows": []}', "has no rows"),
        ('{"rows": [{"model": "a"}]}', "no row of an evaluation"),
        ('{"rows": [{"model": "a", "rule": "b"}]}', "no row of an evaluation"),
    ],
)
def test_says_what_is_wrong_with_an_evaluation(
    text: str, message: str, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "summary.json").write_text(text)
    with pytest.raises(ValueError, match=message):
        curves.read_evaluation(tmp_path)


KEYS = ("name", "model", "rule", "commit", "accuracy", "accuracy_interval", "tpf")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=4,
)


@given(
    rows=JSON
    | st.lists(
        st.fixed_dictionaries(
            {},
            optional=dict.fromkeys(KEYS, JSON),
        ),
        max_size=3,
    ),
    baseline=JSON,
)
def test_any_summary_is_read_or_refused_in_words(
    rows: Any, baseline: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    (folder / "summary.json").write_text(json.dumps({"rows": rows, "baseline": baseline}))
    with contextlib.suppress(ValueError):
        assert curves.read_evaluation(folder)
