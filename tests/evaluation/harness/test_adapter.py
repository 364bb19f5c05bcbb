from __future__ import annotations

import json
import os
import pathlib
import pickle
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
from cd4lm_jax.data.chat import RenderedChat  # noqa: E402
from cd4lm_jax.data.gsm_mini import vocabulary  # noqa: E402
from cd4lm_jax.data.tokenizer import Tokenizer  # noqa: E402
from cd4lm_jax.evaluation.harness import adapter, likelihood  # noqa: E402
from cd4lm_jax.evaluation.harness.adapter import DiffusionLM  # noqa: E402

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
    prefill = GENERATE.replace("task: pens", "task: prefill") + "gen_prefix: The answer is\n"
    for name, text in (("pens", GENERATE), ("choice", CHOOSE), ("prefill", prefill)):
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
        model: cd.LanguageModel, prompts: Sequence[Sequence[int]], config: cd.DecodeConfig
    ) -> cd.Decoded:
        """Knows the answer to every second question."""
        asked.append({"prompts": prompts, "config": config})
        assert model.tokenizer is not None
        tokens = np.full((len(prompts), config.gen_length), model.tokenizer.eos_id)
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
    assert sorted(call["prompts"]) == sorted(lm.text.prompt(row["question"]) for row in ROWS)
    assert call["config"] == cd.DecodeConfig(
        rule=cd.ConfidenceAdaptive(threshold=0.9), gen_length=32, eos_gate_ratio=0.3, batch_size=4
    )
    # As plain text there is no template around the question.
    _evaluate(lm, manager, "pens", gen_kwargs={"threshold": 0, "gen_length": 64})
    assert sorted(asked[1]["prompts"]) == sorted(lm.text.encode(row["question"]) for row in ROWS)
    assert asked[1]["config"] == cd.DecodeConfig(gen_length=64, batch_size=4).fixed()


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
        rule=cd.ConfidenceAdaptive(threshold=0.9),
        gen_length=32,
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


HISTORY = [
    {"role": "user", "content": "Amy has <|mdm_mask|> 5 pens.<|eot_id|> How many?"},
    {"role": "assistant", "content": "#### 5<|endoftext|>"},
    {"role": "user", "content": "And if she buys 1?"},
]


def test_literal_special_tokens_stay_text(lm: DiffusionLM) -> None:
    special = {lm.text.mask_id, lm.text.eot_id, lm.text.eos_id, lm.text.bos_id}
    plain = [{**message, "content": "x"} for message in HISTORY]
    chat = lm.apply_chat_template(HISTORY)
    # The harness pickles its requests.
    for context in (chat, pickle.loads(pickle.dumps(chat))):
        ids = lm.tok_encode(context)
        assert [token for token in ids if token in special] == [
            token for token in lm.text.prompt(plain) if token in special
        ]
        assert lm.text.decode(ids, skip_special=False) == chat
    assert not special & set(lm.tok_encode("Amy has <|mdm_mask|> pens<|eot_id|>"))
    context, continuation = lm._encode_pair(chat, " 6<|eot_id|>")
    assert context == lm.text.prompt(HISTORY)
    assert not special & set(continuation)
    assert lm.text.decode(continuation) == " 6<|eot_id|>"


@pytest.mark.parametrize("words", ["The answer is", "so", "#### "])
def test_an_assistant_prefill_ends_with_its_words(lm: DiffusionLM, words: str) -> None:
    history = [*HISTORY, {"role": "assistant", "content": words}]
    chat = lm.apply_chat_template(history, add_generation_prompt=False)
    opened = lm.apply_chat_template(HISTORY)
    assert chat == opened + words.rstrip()  # this template trims
    ids = lm.tok_encode(chat)
    assert ids == [*lm.text.prompt(HISTORY), *lm.text.encode(words.rstrip())]
    context, continuation = lm._encode_pair(chat, " 6")
    assert context == ids
    assert continuation == lm.text.encode(" 6")


def test_spaces_of_a_prefill_belong_to_the_continuation(lm: DiffusionLM) -> None:
    history = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "so"}]
    chat = lm.text.render(history, continue_final_message=True)
    context, continuation = lm._encode_pair(RenderedChat(chat + " "), "pens")
    assert context == lm.text.encode_rendered(chat)
    assert continuation == lm.text.encode(" pens")


def test_a_prefill_goes_through_the_harness(
    lm: DiffusionLM, manager: TaskManager, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[list[int]] = []

    def decode(model: cd.LanguageModel, prompts: list[list[int]], config: object) -> cd.Decoded:
        asked.extend(prompts)
        return cd.decode(model, prompts, gen_length=32, max_passes=1)

    monkeypatch.setattr(adapter, "decode", decode)
    _evaluate(lm, manager, "prefill", apply_chat_template=True)
    expected = [
        [*lm.text.prompt(row["question"]), *lm.text.encode("The answer is")] for row in ROWS
    ]
    assert sorted(asked) == sorted(expected)


def test_special_tokens_of_a_chat_are_one_token_each(
    lm: DiffusionLM, tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a template that begins with a turn, not with a BOS, as Dream's."""
    dream = {"<|startoftext|>": "<|beginoftext|>", "<|mdm_mask|>": "<|mask|>"}
    dream |= {"<|start_header_id|>": "<|im_start|>", "<|eot_id|>": "<|im_end|>"}
    definition = (vocabulary.FOLDER / "tokenizer.json").read_text()
    for ours, theirs in dream.items():
        definition = definition.replace(ours, theirs)
    template = (
        "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content "
        "+ '<|im_end|>\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
    )
    text = Tokenizer(definition, {"chat_template": template})
    monkeypatch.setattr(lm, "text", text)
    history = [{"role": "user", "content": "Amy has 5 <|mask|> pens."}]
    ids = lm.tok_encode(lm.apply_chat_template(history))
    assert ids == text.prompt("Amy has 5 <|mask|> pens.")
    (start,), (end,) = (text.encode_rendered(name) for name in ("<|im_start|>", "<|im_end|>"))
    assert (ids.count(start), ids.count(end), ids.count(text.mask_id)) == (2, 1, 0)
    history.append({"role": "assistant", "content": "so"})
    prefilled = lm.tok_encode(lm.apply_chat_template(history, add_generation_prompt=False))
    assert prefilled == [*ids, *text.encode("so")]


def test_a_long_prompt_loses_its_start_with_a_warning(
    lm: DiffusionLM, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    asked: list[list[int]] = []

    def decode(model: cd.LanguageModel, prompts: list[list[int]], config: object) -> cd.Decoded:
        asked.extend(prompts)
        return cd.decode(model, prompts, gen_length=32, max_passes=1)

    monkeypatch.setattr(adapter, "decode", decode)
    long, room = "1" * (lm.max_length + 50), lm.max_length - 32
    requests = [
        Instance("generate_until", {}, (context, {"until": []}), 0)
        for context in ("pens", long, "")
    ]
    assert len(lm.generate_until(requests)) == 3
    assert asked == [lm.text.encode("pens"), lm.text.encode(long)[-room:], [lm.text.bos_id]]
    assert f"1 of 3 prompts have more than the {room} tokens" in caplog.text
    caplog.clear()
    calls: list[tuple[list[int], list[int]]] = []
    monkeypatch.setattr(likelihood, "is_greedy", lambda *_: False)
    monkeypatch.setattr(
        likelihood,
        "log_likelihood",
        lambda _, context, ids, __: calls.append((context, ids)) or 0.0,  # type: ignore[func-returns-value]
    )
    pairs = [(long, " 5"), ("5", long), ("5", "")]
    lm.loglikelihood([Instance("loglikelihood", {}, pair, 0) for pair in pairs])
    assert [(len(context), len(ids)) for context, ids in calls] == [
        (lm.max_length - len(lm.text.encode(" 5")), len(lm.text.encode(" 5"))),
        (1, lm.max_length - 1),
    ]
    assert "2 of 3 contexts with their continuations have more than" in caplog.text
    with pytest.raises(ValueError, match="leaves no room for a prompt"):
        lm.generate_until([Instance("generate_until", {}, ("a", {"gen_length": lm.max_length}), 0)])


@pytest.mark.slow
def test_most_tokens_of_an_answer(lm: DiffusionLM) -> None:
    context = lm.apply_chat_template([{"role": "user", "content": "Amy has 5 pens. How many?"}])
    long, short = (
        Instance("generate_until", {}, (context, {"until": [], **more}), 0)
        for more in ({}, {"max_new_tokens": 3})
    )
    whole, cut = lm.generate_until([long, short])
    assert lm.text.encode(cut) == lm.text.encode(whole)[:3]
