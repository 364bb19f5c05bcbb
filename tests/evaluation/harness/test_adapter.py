from __future__ import annotations

import json
import os
import pathlib
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # read when the harness is imported

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.tasks import TaskManager  # noqa: E402

import cd4lm_jax as cd  # noqa: E402
from cd4lm_jax.evaluation.harness import adapter, likelihood  # noqa: E402
from cd4lm_jax.evaluation.harness.adapter import DiffusionLM, Generation  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # the harness's dependencies warn of each other

TEACHER = str(pathlib.Path(__file__).parents[3] / "experiments/checkpoints/gsm_mini_teacher")
ROWS: list[dict[str, Any]] = [
    {"question": f"Amy has {n} pens. How many?", "answer": f"#### {n}", "choices": ["4", "5"]}
    for n in range(2, 10)
]
GENERATE = """
task: pens
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{answer.split('#### ')[1]}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 5}
filter_list:
  - name: number
    filter:
      - {function: regex, regex_pattern: "#### ([0-9]+)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""
CHOOSE = """
task: choice
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_target: 0
doc_to_choice: "{{choices}}"
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
"""


@pytest.fixture(scope="module")
def lm() -> DiffusionLM:
    return DiffusionLM(
        TEACHER, gen_length=32, block_length=32, mc_num=2, batch_size="4", threshold=0.9
    )


@pytest.fixture
def manager(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> TaskManager:
    """Tasks from YAML files alone."""
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    rows = tmp_path / "rows.jsonl"
    rows.write_text("\n".join(json.dumps(row) for row in ROWS))
    for name, text in (("pens", GENERATE), ("choice", CHOOSE)):
        (tmp_path / f"{name}.yaml").write_text(text.replace("FILE", str(rows)))
    return TaskManager(include_path=str(tmp_path), include_defaults=False)


def _evaluate(lm: DiffusionLM, manager: TaskManager, task: str, **more: Any) -> dict[str, Any]:
    found = lm_eval.simple_evaluate(
        model=lm, tasks=[task], task_manager=manager, bootstrap_iters=0, **more
    )
    results: dict[str, Any] = found["results"][task]
    return results


def test_half_of_the_answers_right_is_one_half(
    lm: DiffusionLM, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[dict[str, Any]] = []

    def decode(
        model: cd.LanguageModel, prompts: Sequence[Sequence[int]], **settings: Any
    ) -> cd.Decoded:
        """Knows the answer to every second question."""
        asked.append({"prompts": prompts, **settings})
        assert model.tokenizer is not None
        tokens = np.full((len(prompts), settings["gen_length"]), model.tokenizer.eos_id)
        lengths = []
        for row, prompt in enumerate(prompts):
            number = int(model.tokenizer.decode(prompt).split(" pens")[0].split()[-1])
            answer = model.tokenizer.encode(f"so\n#### {number + number % 2}")
            tokens[row, : len(answer)] = answer
            lengths.append(len(answer))
        flat = np.ones(tokens.shape, np.int32)
        trajectory = cd.Trajectory(
            tokens=tokens,
            committed_at=flat,
            confidence=flat.astype(np.float32),
            reason=flat,
            nfe=np.full(len(prompts), 3),
            length=np.array(lengths),
        )
        return cd.Decoded(
            trajectory=trajectory, seconds=1.0, tokenizer=model.tokenizer, prompts=prompts
        )

    monkeypatch.setattr(adapter, "decode", decode)
    results = _evaluate(lm, manager, "pens", apply_chat_template=True)
    assert results["exact_match,number"] == 0.5
    (call,) = asked
    prompts = call.pop("prompts")
    assert sorted(prompts) == sorted(lm.text.prompt(row["question"]) for row in ROWS)
    assert call["commit"] == cd.ConfidenceAdaptive(threshold=0.9, max_tokens=32)
    assert call["gen_length"] == 32
    assert call["eos_gate_ratio"] == 0.3
    # As plain text there is no template around the question.
    _evaluate(lm, manager, "pens", gen_kwargs={"threshold": 0, "gen_length": 64})
    assert sorted(asked[1]["prompts"]) == sorted(lm.text.encode(row["question"]) for row in ROWS)
    assert asked[1]["commit"] == cd.FixedStep(steps=64)
    assert (asked[1]["stop_at_eos"], asked[1]["eos_gate_ratio"]) == (False, 0.0)


@pytest.mark.slow
def test_generates_what_the_decoder_gives(lm: DiffusionLM) -> None:
    question = "Amy has 5 pens. She buys 3 pens. How many pens does Amy have?"
    context = lm.apply_chat_template([{"role": "user", "content": question}])
    requests = [
        Instance("generate_until", {}, (context, {"until": until}), 0) for until in ([], ["####"])
    ]
    whole, cut = lm.generate_until(requests)
    decoded = cd.decode(
        lm.model,
        [question],
        commit=cd.ConfidenceAdaptive(threshold=0.9, max_tokens=32),
        gen_length=32,
        block_length=32,
        eos_gate_ratio=0.3,
    )
    assert whole == decoded.text[0]
    assert "####" in whole
    assert cut == whole.partition("####")[0]


def test_multiple_choice_takes_the_likelier(
    lm: DiffusionLM, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The first is right, and likelier where the question's number is even.
    def log_likelihood(
        _: object, context: list[int], continuation: list[int], *__: object
    ) -> float:
        number = int(lm.text.decode(context).split(" pens")[0].split()[-1])
        first = lm.text.decode(continuation).strip() == "4"
        return -1.0 if first == (number % 2 == 0) else -2.0

    monkeypatch.setattr(likelihood, "log_likelihood", log_likelihood)
    monkeypatch.setattr(likelihood, "is_greedy", lambda *_: False)
    assert _evaluate(lm, manager, "choice")["acc,none"] == 0.5


def test_likelihoods_are_estimates_of_the_model(lm: DiffusionLM) -> None:
    pair = ("Amy has 5 pens.", " She")
    ((found, greedy),) = lm.loglikelihood([Instance("loglikelihood", {}, pair, 0)])
    ids = [lm.text.encode(text) for text in pair]
    model = lm.model.transformer
    assert found == likelihood.log_likelihood(model, ids[0], ids[1], lm.draw)
    assert greedy == likelihood.is_greedy(model, ids[0], ids[1])
    (rolling,) = lm.loglikelihood_rolling(
        [Instance("loglikelihood_rolling", {}, ("Amy has 5 pens.",), 0)]
    )
    expected = likelihood.log_likelihood(model, [lm.text.bos_id], ids[0], lm.draw)
    assert rolling == pytest.approx(expected)


def test_it_is_registered_and_needs_no_torch() -> None:
    from lm_eval.api.registry import get_model

    assert get_model("cd4lm") is DiffusionLM
    assert "torch" not in sys.modules


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"treshold": 0.9}, "no setting 'treshold'; did you mean 'threshold'"),
        ({"gen_length": "long"}, "gen_length='long': expected int"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        adapter._override(Generation(), settings)
