from __future__ import annotations

import codecs
import json
import pathlib

import pytest

import cd4lm_jax as cd
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.prompts import PromptRecord, read_prompts
from cd4lm_jax.data.sources import SourceError
from cd4lm_jax.language_model import LanguageModel, Prompt
from tests import exported
from tests.tiny import tiny_model

CASES = pathlib.Path(__file__).parent.parent / "cases"
TURNS = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Amy has 5 pens. How many?"},
]


def test_prompts_that_are_conversations(tmp_path: pathlib.Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(codecs.BOM_UTF8 + (CASES / "prompts.jsonl").read_bytes())
    (record,) = read_prompts(path)
    assert record == PromptRecord(id=1, prompt=TURNS)  # type: ignore[arg-type]
    tokenizer = vocabulary.load()
    model = LanguageModel(tiny_model(), tokenizer)
    rendered = (
        "<|startoftext|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nAmy has 5 pens. How many?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    ids = model.prompt_ids(record.prompt)
    assert ids == tokenizer.encode_rendered(rendered)
    assert model.prompt_ids("q") == tokenizer.prompt("q")
    assert model.prompt_ids([1, 2]) == [1, 2]
    with pytest.raises(ValueError, match="the model's folder has no tokenizer"):
        LanguageModel(tiny_model(), None).prompt_ids(record.prompt)


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "a"}, "a"),
        ({"prompt_ids": [1, 2]}, [1, 2]),
        ({"prompt": TURNS}, TURNS),
        ({"conversations": [{"from": "human", "value": "q"}]}, [{"role": "user", "content": "q"}]),
    ],
)
def test_forms(row: dict[str, object], prompt: object, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": "x", "given_ids": [None, 3]}))
    first, second = read_prompts(path)
    assert (first.id, first.prompt, first.given_ids) == (0, prompt, [])
    assert (second.id, second.prompt, second.given_ids) == ("x", prompt, [None, 3])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "holds no prompts; give lines like"),
        ("{", "line 1: not JSON"),
        ("5", "line 1: expected an object with .* got the number 5"),
        ('{"prompt": null}', "line 1: expected an object with "),
        ('{"prompt_ids": [true]}', "line 1: expected an object with "),
        ('{"messages": []}', 'line 1: expected a list of turns "messages", found an empty list'),
        ('{"messages": [{"role": "assistant", "content": "a"}]}', "ends with the assistant"),
        ('{"prompt": "a", "given_ids": ["b"]}', "line 1: given_ids is "),
        ('{"prompt": "a \\ud83d"}', r"line 1: holds \\ud83d, half of a character"),
    ],
)
def test_faulty_lines_are_named(line: str, message: str, tmp_path: pathlib.Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text(line)
    with pytest.raises(SourceError, match=message):
        read_prompts(path)


@pytest.mark.slow
def test_conversations_are_decoded_as_the_template_renders_them() -> None:
    tokenizer = vocabulary.load()
    model = LanguageModel(tiny_model(exported.config()), tokenizer)
    config = cd.DecodeConfig(gen_length=8, block_length=8)
    prompts: list[Prompt] = [TURNS, "q"]
    found = cd.decode(model, prompts, config)
    ids = cd.decode(model, [tokenizer.prompt(TURNS), tokenizer.prompt("q")], config)
    assert found.trajectory.tokens.tolist() == ids.trajectory.tokens.tolist()
    assert "user: Amy has 5 pens. How many?" in found.to_html()
    alone = cd.decode(model, TURNS, config)
    assert alone.trajectory.tokens.tolist() == ids.trajectory.tokens[:1].tolist()
