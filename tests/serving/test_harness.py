"""lm-evaluation-harness over HTTP gives the accuracy of a decode, to the digit."""

from __future__ import annotations

import dataclasses
import json
import pathlib

import pytest

lm_eval = pytest.importorskip("lm_eval")
from lm_eval.tasks import TaskManager  # noqa: E402

import cd4lm_jax as cd  # noqa: E402
from cd4lm_jax import bundled  # noqa: E402
from cd4lm_jax.data.sources import open_source  # noqa: E402
from cd4lm_jax.evaluation.judges import numbers  # noqa: E402
from cd4lm_jax.evaluation.tasks.registry import GSM_MINI  # noqa: E402
from tests.serving.servers import served  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore"),  # of the harness and what it brings
]

PROBLEMS = 40

TASK = """
task: gsm_mini_served
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: generate_until
doc_to_text: "{{question}}"
doc_to_target: "{{number}}"
generation_kwargs: {until: [], max_gen_toks: 64, do_sample: false}
filter_list:
  - name: number
    filter:
      - {function: regex, regex_pattern: "#### (\\\\S+)"}
      - {function: take_first}
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
"""


def test_local_chat_completions_gives_the_accuracy_of_the_evaluation(
    tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    source = open_source("gsm_mini/distill", "test")
    problems = [source[index] for index in range(PROBLEMS)]
    rows = [
        {"question": one["question"], "number": one["answer"].split("#### ")[1]} for one in problems
    ]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "task.yaml").write_text(TASK.replace("FILE", str(file)))
    model = cd.load(bundled.teacher())
    # Too few passes for some of them.
    config = dataclasses.replace(GSM_MINI, rule=cd.ConfidenceAdaptive(threshold=0.5), max_passes=3)
    alone = cd.decode(model, [one["question"] for one in problems], config)
    right = numbers.score(alone.text, [one["answer"] for one in problems])
    assert 0 < right.mean() < 1
    with served(model, config) as server:
        found = lm_eval.simple_evaluate(
            model="local-chat-completions",
            model_args={
                "model": "small",
                "base_url": f"{server.url}/v1/chat/completions",
                "num_concurrent": 8,
                "max_length": 192,
                "tokenizer_backend": None,
                "tokenized_requests": False,
            },
            tasks=["gsm_mini_served"],
            task_manager=TaskManager(include_path=str(tmp_path), include_defaults=False),
            apply_chat_template=True,
            bootstrap_iters=0,
        )
    accuracy = found["results"]["gsm_mini_served"]["exact_match,number"]
    assert accuracy == pytest.approx(float(right.mean()), abs=1e-12)
