from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

from cd4lm_jax.data.gsm_mini.generate import generate
from cd4lm_jax.evaluation import answers
from cd4lm_jax.evaluation.answers import AnswersConfig, write_answers
from cd4lm_jax.evaluation.judges import numbers
from cd4lm_jax.language_model import LanguageModel, load
from experiments.configs import gsm_mini
from tests import exported

pytestmark = pytest.mark.slow

TEACHER = pathlib.Path(__file__).parents[2] / gsm_mini.TEACHER
PROBLEMS = [{"question": p.question, "answer": p.answer} for p in generate("validation", 8)]
IMPOSSIBLE = {"question": PROBLEMS[0]["question"], "answer": "#### 1000"}


@pytest.fixture
def config(tmp_path: pathlib.Path) -> AnswersConfig:
    source = tmp_path / "problems.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in [IMPOSSIBLE, *PROBLEMS]))
    return AnswersConfig(
        output=str(tmp_path / "answers"), model=str(TEACHER), source=str(source), splits=("all",)
    )


def test_right_answers_are_kept_in_the_models_own_words(config: AnswersConfig) -> None:
    assert write_answers(config) == {"all": {"asked": 9, "kept": 8}}
    lines = (pathlib.Path(config.output) / "all.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert [row["question"] for row in kept] == [row["question"] for row in PROBLEMS]
    references = [row["answer"] for row in PROBLEMS]
    assert numbers.score([row["answer"] for row in kept], references).all()
    # There are four voices to answer in, and the model has one for each question.
    assert [row["answer"] for row in kept] != references


def test_what_is_there_is_left_unless_the_settings_are_others(
    config: AnswersConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(config, problems=3)
    assert write_answers(few) == {"all": {"asked": 3, "kept": 2}}
    loads: list[str] = []

    def counted(folder: str) -> LanguageModel:
        loads.append(folder)
        return load(folder)

    monkeypatch.setattr(answers, "load", counted)
    assert write_answers(few) == {"all": {"asked": 3, "kept": 2}}
    assert not loads
    assert write_answers(dataclasses.replace(few, problems=2)) == {"all": {"asked": 2, "kept": 1}}
    assert loads == [config.model]


def test_a_model_without_a_right_answer_is_an_error(
    config: AnswersConfig, tmp_path: pathlib.Path
) -> None:
    untrained = exported.export(tmp_path / "untrained")
    with pytest.raises(ValueError, match="answers none of 9 questions") as raised:
        write_answers(dataclasses.replace(config, model=untrained))
    assert "problems.jsonl" in str(raised.value)
    assert not pathlib.Path(config.output).exists()


def test_the_bundled_answers_are_the_bundled_teachers(tmp_path: pathlib.Path) -> None:
    bundled = pathlib.Path(__file__).parents[2] / gsm_mini.ANSWERS
    lines = (bundled / "distill.jsonl").read_text().splitlines()
    few = AnswersConfig(output=str(tmp_path), model=str(TEACHER), splits=("distill",), problems=16)
    kept = write_answers(few)["distill"]["kept"]
    found = (tmp_path / "distill.jsonl").read_text().splitlines()
    assert kept >= 14
    # Another machine's rounding may tip a choice of words now and then.
    assert sum(map(str.__eq__, found, lines)) >= kept - 2
