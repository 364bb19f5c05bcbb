from __future__ import annotations

import dataclasses
import json
import pathlib
from typing import Any

import pytest

import cd4lm_jax as cd
from cd4lm_jax.data.gsm_mini.generate import generate
from cd4lm_jax.evaluation import output
from cd4lm_jax.evaluation.benchmark import BenchmarkConfig, benchmark
from cd4lm_jax.evaluation.judges import numbers
from cd4lm_jax.evaluation.runs import journal
from cd4lm_jax.evaluation.runs import run as runs
from cd4lm_jax.evaluation.tasks import registry
from tests import exported
from tests.conftest import ROOT

TEACHER = str(ROOT / "experiments/checkpoints/gsm_mini_teacher")
# Of one length, so that few shapes are compiled.
ASKED = [f"Amy has {n % 8 + 1} pens. She buys {n // 8 + 1} pens. How many?" for n in range(16)]


def write(path: pathlib.Path, asked: list[str], answers: list[int]) -> str:
    rows = [
        {"question": question, "answer": f"#### {answer}"}
        for question, answer in zip(asked, answers, strict=True)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> BenchmarkConfig:
    """A random model on GSM8K's form, under settings that it has the positions for."""
    folder = tmp_path_factory.mktemp("benchmark")
    return BenchmarkConfig(
        output=str(folder / "run"),
        model=exported.export(folder / "model"),
        task="gsm8k",
        source=write(folder / "rows.jsonl", ASKED, [1] * 16),
        prompt="{question}",
        setting="llada",
        decode={"gen_length": 16, "block_length": 8, "batch_size": 8, "rule": cd.FixedStep()},
        thresholds=(0.5, 0.9),
        baseline=True,
        chunk=8,
    )


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draws nothing, which takes longer than the rest of such a small evaluation."""
    monkeypatch.setattr(output, "write_report", lambda *_, **__: None)


@pytest.mark.slow
def test_leaves_a_folder_that_says_how_it_was_come_by(config: BenchmarkConfig) -> None:
    summary = benchmark(config)
    folder = pathlib.Path(config.output)
    assert json.loads((folder / "summary.json").read_text()) == summary
    commits = ["fixed:1", "confidence:0.5", "confidence:0.9"]
    assert [row["name"] for row in summary["rows"]] == [f"model {commit}" for commit in commits]
    assert summary["rows"][0]["speedup"] == 1
    assert all(row["problems"] == 16 and row["tps"] > 0 for row in summary["rows"])
    assert summary["baseline"] == "model fixed:1"
    assert "accuracy of the baseline, model fixed:1." in (folder / "report.html").read_text()
    assert summary["judged"] == "Right: the final number is exactly the reference's."
    assert summary["notes"] == [
        "16 problems of gsm8k under the setting llada with other prompt and thresholds and "
        "gen_length and block_length and batch_size and rule, put in the chat template: 16 "
        "generated positions in blocks of 8."
    ]
    shares = summary["overhead"]
    seconds = shares["decoding_seconds"] + shares["preparing_seconds"]
    assert 0 < shares["decoding_seconds"] < seconds < shares["wall_seconds"]
    assert output.overhead(summary).startswith("Decoding took ")  # type: ignore[union-attr]

    environment = json.loads((folder / "environment.json").read_text())
    assert set(environment) == {"commit", "date", "device", "versions", "earlier"}
    assert environment["earlier"] == []
    assert json.loads((folder / "config.json").read_text())["task"] == "gsm8k"
    for name in ("report.html", "pareto.png"):
        assert (folder / name).stat().st_size > 0
    for row in summary["rows"]:
        lines = journal.read(folder / "runs" / row["name"])
        assert [line["id"] for line in lines] == [str(n) for n in range(16)]
        assert [line["prompt"] for line in lines] == ASKED
        assert sum(line["nfe"] for line in lines) / 16 == row["nfe"]


@pytest.mark.slow
@pytest.mark.usefixtures("unreported")
def test_the_same_seed_gives_the_same_bytes(
    config: BenchmarkConfig, tmp_path: pathlib.Path
) -> None:
    drawn = dataclasses.replace(config, thresholds=(0.9,), baseline=False)

    def lines(name: str, *, seed: int = 0, **changes: Any) -> bytes:
        decode = {**config.decode, "temperature": 1.0, "seed": seed}
        changed = dataclasses.replace(drawn, output=str(tmp_path / name), decode=decode, **changes)
        benchmark(changed)
        run = tmp_path / name / "runs/model confidence:0.9 temperature=1.0"
        return (run / "problems.jsonl").read_bytes()

    first = lines("first")
    assert lines("second") == first
    assert lines("third", seed=1) != first

    # What is drawn does not depend on how the work is parted, only on the problem's number.
    def outputs(text: bytes) -> list[str]:
        return [json.loads(line)["output"] for line in text.splitlines()]

    assert outputs(lines("whole", chunk=16)) == outputs(first)


def test_a_folder_of_something_else_is_refused(config: BenchmarkConfig) -> None:
    model = dataclasses.replace(config, output=config.model)
    before = (pathlib.Path(config.model) / "config.json").read_bytes()
    with pytest.raises(output.OutputError, match=r"holds a config\.json that is of no evaluation"):
        benchmark(model)
    assert (pathlib.Path(config.model) / "config.json").read_bytes() == before


@pytest.mark.usefixtures("unreported")
def test_another_model_is_not_mixed_in(config: BenchmarkConfig, tmp_path: pathlib.Path) -> None:
    config = dataclasses.replace(config, output=str(tmp_path / "run"), thresholds=(0.9,))
    benchmark(config)
    moved = pathlib.Path(config.model).rename(tmp_path / "moved")
    benchmark(dataclasses.replace(config, model=str(moved)))  # the same, elsewhere
    moved.rename(config.model)
    before = (tmp_path / "run/config.json").read_bytes()
    other = dataclasses.replace(config, model=exported.export(tmp_path / "other", seed=1))
    with pytest.raises(journal.JournalError, match=r"other settings \(model differ\)"):
        benchmark(other)
    assert (tmp_path / "run/config.json").read_bytes() == before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "gsm9k"}, "no task 'gsm9k'"),
        ({"setting": "lada"}, "no setting 'lada'"),
        ({"prompt": "Answer me."}, "asks no question"),
        ({"thresholds": (0.9, 0.9)}, "two runs are 'confidence:0.9'"),
        ({"thresholds": (95.0,)}, "threshold=95.0 is not a probability"),
        ({"problems": 0}, "problems=0; give 1 or more"),
        ({"label": "a/b"}, "label='a/b' begins the names of folders"),
        ({"chunk": 0}, "chunk=0 problems"),
    ],
)
def test_wrong_settings_are_named(
    config: BenchmarkConfig, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(config, **changes)


@pytest.mark.usefixtures("unreported")
def test_prompts_that_are_too_long_are_refused_or_counted(
    config: BenchmarkConfig, tmp_path: pathlib.Path
) -> None:
    asked = [ASKED[0], 20 * ASKED[1], 15 * ASKED[2]]
    tight = dataclasses.replace(
        config,
        output=str(tmp_path / "run"),
        source=write(tmp_path / "rows.jsonl", asked, [1] * 3),
        thresholds=(0.5,),
        baseline=False,
    )
    with pytest.raises(ValueError, match=r"2 of 3 prompts have more than the 176 tokens that "):
        benchmark(tight)
    summary = benchmark(dataclasses.replace(tight, truncate_prompts=True))
    assert summary["truncated_prompts"] == 2
    assert summary["notes"][1].startswith("2 of 3 prompts were longer than the 176 positions ")
    assert summary["rows"][0]["problems"] == 3
    lines = journal.read(tmp_path / "run/runs/model confidence:0.5")
    assert [line["prompt"] for line in lines] == asked


def test_code_does_not_run_unless_it_is_allowed(
    config: BenchmarkConfig, tmp_path: pathlib.Path
) -> None:
    code = dataclasses.replace(
        config, task="humaneval", source=None, model="nowhere", output=str(tmp_path / "run")
    )
    with pytest.raises(ValueError, match="allow it with --allow_code_execution"):
        benchmark(code)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
@pytest.mark.usefixtures("unreported")
def test_a_model_that_has_half_of_them_right_scores_one_half_here_and_in_the_harness(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cd.load(TEACHER)
    asked = [problem.question for problem in generate("test", 16)]
    said = cd.decode(
        model,
        asked,
        rule=cd.ConfidenceAdaptive(threshold=0.9),
        gen_length=64,
        block_length=32,
        batch_size=8,
    )
    found = [numbers.answer_number(text) for text in said.text]
    rows = [int(number) + n % 2 for n, number in enumerate(found) if number is not None]
    source = write(tmp_path / "rows.jsonl", asked, rows)

    config = BenchmarkConfig(
        output=str(tmp_path / "run"),
        model=TEACHER,
        task="gsm_mini",
        setting="demo",
        source=source,
        thresholds=(0.9,),
        decode={"batch_size": 8},
    )
    summary = benchmark(config)
    assert summary["rows"][0]["accuracy"] == 0.5
    lines = journal.read(tmp_path / "run/runs/model confidence:0.9")
    assert [line["correct"] for line in lines] == [True, False] * 8

    lm_eval = pytest.importorskip("lm_eval")
    from lm_eval.tasks import TaskManager

    from cd4lm_jax.evaluation.harness.adapter import DiffusionLM
    from tests.evaluation.harness.test_adapter import GENERATE

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    (tmp_path / "pens.yaml").write_text(GENERATE.replace("FILE", source))
    judged = lm_eval.simple_evaluate(
        model=DiffusionLM(
            TEACHER,
            gen_length=64,
            block_length=32,
            threshold=0.9,
            eos_gate_ratio=0.0,
            batch_size="8",
        ),
        tasks=["pens"],
        task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
        bootstrap_iters=0,
        apply_chat_template=True,
    )
    assert judged["results"]["pens"]["exact_match,number"] == 0.5


@pytest.mark.usefixtures("unreported")
def test_gsm8k_with_a_llada_folder(
    golden: pathlib.Path, benchmark_data: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    source = benchmark_data / "gsm8k_test.jsonl"
    problems = registry.task("gsm8k").problems(str(source), count=4)
    texts = [problem["question"] for problem in problems]
    config = BenchmarkConfig(
        output=str(tmp_path / "run"),
        model=exported.with_tokenizer(golden / "llada_tiny", tmp_path / "model", texts),
        task="gsm8k",
        source=str(source),
        problems=4,
        decode={"gen_length": 32},
    )
    summary = benchmark(config)
    (row,) = summary["rows"]
    # The model is random, and so no answer is right.
    assert (row["accuracy"], row["accuracy_interval"][0], row["problems"]) == (0, 0, 4)
    assert 1 <= row["nfe"] <= 32
    lines = journal.read(tmp_path / "run/runs" / row["name"])
    assert all(text in line["prompt"] for text, line in zip(texts, lines, strict=True))
    assert [line["reference"] for line in lines] == [problem["answer"] for problem in problems]
    assert all(317 not in line["trajectory"]["tokens"][: line["length"]] for line in lines)


@pytest.mark.usefixtures("unreported")
def test_the_recorder_counts_every_problem_once(
    config: BenchmarkConfig, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int]] = []

    def counted(
        model: cd.LanguageModel, prompts: list[str], config: cd.DecodeConfig, **settings: Any
    ) -> cd.Decoded:
        asked.append((settings["first"], len(prompts)))
        return cd.decode(model, prompts, config, **settings)

    monkeypatch.setattr(runs, "decode", counted)
    config = dataclasses.replace(
        config, output=str(tmp_path), thresholds=(0.5,), baseline=False, problems=10
    )
    benchmark(config)
    assert asked == [(0, 8), (8, 2)]
