from __future__ import annotations

import dataclasses
import json
import pathlib
import shutil
from typing import Any

import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.data.gsm_mini.generate import generate
from cd4lm_jax.data.sources import open_source
from cd4lm_jax.decoding.rules import FixedStep
from cd4lm_jax.evaluation import answers
from cd4lm_jax.evaluation.answers import AnswersConfig, write_answers
from cd4lm_jax.evaluation.judges import numbers
from cd4lm_jax.evaluation.keeping import Agreeing, Confident, confidence
from cd4lm_jax.evaluation.runs import run as run_module
from cd4lm_jax.evaluation.runs.run import Run, execute
from experiments.configs import gsm_mini, gsm_mini_answers
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


def test_right_answers_are_kept_as_the_model_says_them(config: AnswersConfig) -> None:
    assert write_answers(config) == {"all": {"asked": 9, "kept": 8}}
    lines = (pathlib.Path(config.output) / "all.jsonl").read_text().splitlines()
    kept = [json.loads(line) for line in lines]
    assert [row["question"] for row in kept] == [row["question"] for row in PROBLEMS]
    references = [row["answer"] for row in PROBLEMS]
    assert numbers.score([row["answer"] for row in kept], references).all()
    # An answer has four forms, and the model has one for each question.
    assert [row["answer"] for row in kept] != references


def test_what_is_there_is_left_unless_the_settings_are_others(
    config: AnswersConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = dataclasses.replace(config, problems=3)
    assert write_answers(few) == {"all": {"asked": 3, "kept": 2}}
    runs: list[str] = []

    def counted(*args: Any, **kwargs: Any) -> Run:
        runs.append(args[1])
        return execute(*args, **kwargs)

    monkeypatch.setattr(answers, "execute", counted)
    assert write_answers(few) == {"all": {"asked": 3, "kept": 2}}
    assert not runs
    before = (pathlib.Path(config.output) / "all.jsonl").read_bytes()
    for other in (
        dataclasses.replace(few, problems=2),
        dataclasses.replace(few, model=exported.export(tmp_path / "other")),
    ):
        with pytest.raises(ValueError, match=r"holds answers of other settings \((problems|model)"):
            write_answers(other)
    assert not runs
    assert (pathlib.Path(config.output) / "all.jsonl").read_bytes() == before


def test_an_interrupted_run_continues_with_the_same_draws(
    config: AnswersConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn = dataclasses.replace(
        config, chunk=4, decode=dataclasses.replace(config.decode, temperature=0.5)
    )
    write_answers(drawn)
    whole = (pathlib.Path(drawn.output) / "all.jsonl").read_bytes()
    again = dataclasses.replace(drawn, output=str(tmp_path / "again"))
    calls: list[int] = []

    def interrupted(*args: Any, first: int, **kwargs: Any) -> Any:
        calls.append(first)
        if first == 4 and calls.count(4) == 1:
            raise KeyboardInterrupt
        return cd.decode(*args, first=first, **kwargs)

    monkeypatch.setattr(run_module, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_answers(again)
    assert write_answers(again) == {"all": {"asked": 9, "kept": whole.count(b"\n")}}
    assert calls == [0, 4, 4, 8]
    assert (tmp_path / "again/all.jsonl").read_bytes() == whole
    assert not (tmp_path / "again/runs").exists()


def test_splits_that_are_the_same_rows_are_refused(config: AnswersConfig) -> None:
    both = dataclasses.replace(config, splits=("distill", "validation"))
    with pytest.raises(ValueError, match=r"distill and validation of .* are the same 9 rows"):
        write_answers(both)
    assert not pathlib.Path(config.output).exists()


def test_a_model_without_a_right_answer_is_an_error(
    config: AnswersConfig, tmp_path: pathlib.Path
) -> None:
    untrained = exported.export(tmp_path / "untrained")
    with pytest.raises(ValueError, match="answers none of 9 questions") as raised:
        write_answers(dataclasses.replace(config, model=untrained))
    assert "problems.jsonl" in str(raised.value)
    assert not list(pathlib.Path(config.output).glob("*.jsonl"))


def test_the_bundled_answers_are_the_bundled_teachers(tmp_path: pathlib.Path) -> None:
    bundled = pathlib.Path(__file__).parents[2] / gsm_mini.ANSWERS
    lines = (bundled / "distill.jsonl").read_text().splitlines()
    few = AnswersConfig(output=str(tmp_path), model=str(TEACHER), splits=("distill",), problems=16)
    kept = write_answers(few)["distill"]["kept"]
    found = (tmp_path / "distill.jsonl").read_text().splitlines()
    assert kept >= 14
    # Another machine's rounding may tip a choice of words now and then.
    assert sum(map(str.__eq__, found, lines)) >= kept - 2


def test_what_is_bundled_is_not_written_anew(tmp_path: pathlib.Path) -> None:
    """Though its settings lack fields that came later."""
    bundled = pathlib.Path(__file__).parents[2] / gsm_mini.ANSWERS
    copy = tmp_path / "answers"
    shutil.copytree(bundled, copy)
    config = dataclasses.replace(gsm_mini_answers.get_config(), output=str(copy))
    assert write_answers(config)["distill"] == {"asked": 7473, "kept": 7424}


SYSTEM = {"role": "system", "content": "Be brief."}


@pytest.fixture
def chats(tmp_path: pathlib.Path) -> AnswersConfig:
    """Six questions alone, one after a system prompt, two in a chat, and one that is too long."""
    asked = [{"role": "user", "content": p["question"]} for p in PROBLEMS]
    said = {"role": "assistant", "content": PROBLEMS[6]["answer"]}
    rows: list[dict[str, Any]] = [{"messages": [turn]} for turn in asked[:6]]
    rows += [{"messages": [SYSTEM, asked[6], said, asked[7]]}]
    rows += [{"messages": [{"role": "user", "content": "many pens. " * 60}]}]
    source = tmp_path / "chats.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return AnswersConfig(
        output=str(tmp_path / "answers"),
        model=str(TEACHER),
        source=str(source),
        splits=("train",),
        keep=Confident(least=0.0),
    )


def kept_rows(config: AnswersConfig) -> list[dict[str, Any]]:
    path = pathlib.Path(config.output) / "train.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_chats_are_answered_without_references(chats: AnswersConfig) -> None:
    counts = write_answers(chats)["train"]
    rows = kept_rows(chats)
    assert counts == {"asked": 9, "kept": len(rows), "too_long": 1}
    alone = [row for row in rows if "question" in row]
    assert len(alone) == 6
    questions = [row["question"] for row in alone]
    assert questions == [p["question"] for p in PROBLEMS[:6]]
    references = [p["answer"] for p in PROBLEMS[:6]]
    assert numbers.score([row["answer"] for row in alone], references).sum() >= 5
    in_chats = [row for row in rows if "prompt" in row]
    assert in_chats
    assert in_chats[0]["prompt"][0] == SYSTEM
    # What is read back are the model's turns alone, not those that were in the chats.
    read = open_source(f"{chats.output}/train.jsonl", "train")
    assert [e["answer"] for e in read.__getitems__(range(len(read)))] == [
        row.get("answer", row.get("completion")) for row in rows
    ]


def test_answers_are_kept_by_confidence_or_by_agreement(
    chats: AnswersConfig, tmp_path: pathlib.Path
) -> None:
    write_answers(chats)
    every, model = kept_rows(chats), cd.load(TEACHER)
    folder = str(tmp_path / "answers2")
    agreeing = dataclasses.replace(chats, output=folder, keep=Agreeing())
    assert write_answers(agreeing)["train"]["kept"] >= 4
    for row in kept_rows(agreeing):
        prompt = row["prompt"] if "prompt" in row else row["question"]
        again = cd.decode(model, prompt, chats.decode, rule=FixedStep())
        assert again.text == [row.get("completion", row.get("answer"))]
    prompts = [row["prompt"] if "prompt" in row else row["question"] for row in every]
    how_sure = confidence(cd.decode(model, prompts, chats.decode).trajectory)
    least = float(np.median(how_sure))
    sure = dataclasses.replace(
        chats, output=str(tmp_path / "answers3"), keep=Confident(least=least)
    )
    write_answers(sure)
    kept = kept_rows(sure)
    assert kept == [row for row, its in zip(every, how_sure, strict=True) if its >= least]
    assert 0 < len(kept) < len(every)
    with pytest.raises(ValueError, match="with an end and a mean probability of"):
        write_answers(dataclasses.replace(sure, output=f"{folder}x", keep=Confident(least=1.0)))
    with pytest.raises(ValueError, match=r"settings \(keep differ\)"):
        write_answers(dataclasses.replace(chats, keep=Confident(least=0.5)))


def test_a_decode_does_not_agree_with_itself(chats: AnswersConfig) -> None:
    with pytest.raises(ValueError, match="a decode agrees with itself; give another rule"):
        dataclasses.replace(chats, keep=Agreeing(rule=chats.decode.rule))


def test_an_interrupted_run_of_two_decodes_continues(
    chats: AnswersConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    agreeing = dataclasses.replace(chats, keep=Agreeing(), chunk=4)
    write_answers(agreeing)
    whole = (pathlib.Path(agreeing.output) / "train.jsonl").read_bytes()
    again = dataclasses.replace(agreeing, output=str(tmp_path / "again"))
    calls: list[int] = []

    def interrupted(*args: Any, first: int, **kwargs: Any) -> Any:
        calls.append(first)
        if len(calls) == 4:  # in the second decode
            raise KeyboardInterrupt
        return cd.decode(*args, first=first, **kwargs)

    monkeypatch.setattr(run_module, "decode", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_answers(again)
    write_answers(again)
    assert calls == [0, 4, 0, 4, 4]
    assert (tmp_path / "again/train.jsonl").read_bytes() == whole
