from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.tokenizer import MASK, SPECIAL_TOKENS, Tokenizer, TokenizerError

# As LLaDA-8B-Instruct words its template; ours is worded otherwise and must render the same.
LLADA_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)


def _write(folder: Path, definition: dict[str, Any], config: dict[str, Any]) -> Path:
    (folder / "tokenizer.json").write_text(json.dumps(definition))
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _read(name: str) -> dict[str, Any]:
    value: dict[str, Any] = json.loads((vocabulary.FOLDER / name).read_text())
    return value


@pytest.fixture
def llada_folder(tmp_path: Path) -> Path:
    """A folder as LLaDA's: other ids, its special tokens at the end, its own template."""
    definition = _read("tokenizer.json")
    plain = [word for word in definition["model"]["vocab"] if word not in SPECIAL_TOKENS]
    definition["model"]["vocab"] = {word: place for place, word in enumerate(plain)}
    for place, token in enumerate(definition["added_tokens"]):
        token["id"] = len(plain) + 10 + place
    definition["model"]["vocab"] |= {
        token["content"]: token["id"] for token in definition["added_tokens"]
    }
    return _write(tmp_path, definition, {"chat_template": LLADA_TEMPLATE})


def test_training_again_gives_the_same_files(tmp_path: Path) -> None:
    vocabulary.train().save(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (vocabulary.FOLDER / name).read_bytes()


def test_golden_prompt(tokenizer: Tokenizer) -> None:
    ids = tokenizer.prompt(" Ann has 3 pens. How many pens now?\n")
    question = [460, 354, 226, 24, 418, 19, 296, 278, 418, 321, 36]
    assert ids == [0, 3, 297, 4, 293, *question, 5, 3, 299, 4, 293]
    assert tokenizer.decode(ids, skip_special=False) == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\n"
        "Ann has 3 pens. How many pens now?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n"
    )
    assert ids.count(tokenizer.bos_id) == 1
    assert len(ids) == 10 + len(question)


def test_text_gets_no_special_tokens(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("now 5+3=8\n#### 8")
    pieces = ["now", " ", "5", "+", "3", "=", "8", "\n", "####", " ", "8"]
    assert [tokenizer.decode([token]) for token in ids] == pieces


def test_digits_are_split(tokenizer: Tokenizer) -> None:
    for number in ("10", "20", "1234567890"):
        assert [tokenizer.decode([token]) for token in tokenizer.encode(number)] == list(number)


@given(text=st.text(max_size=60))
def test_text_comes_back(text: str, tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.decode(ids, skip_special=False) == text


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_special_names_in_a_question_stay_text(name: str, tokenizer: Tokenizer) -> None:
    specials = {tokenizer.mask_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.eot_id, 3, 4}
    ids = tokenizer.encode(f"Ann has {name} pens")
    assert not specials & set(ids)
    assert tokenizer.decode(ids) == f"Ann has {name} pens"
    plain = tokenizer.prompt("Ann has  pens")
    prompt = tokenizer.prompt(f" Ann has {name} pens ")
    assert [token for token in prompt if token in specials] == [
        token for token in plain if token in specials
    ]
    assert f"user<|end_header_id|>\n\nAnn has {name} pens<|eot_id|>" in tokenizer.decode(
        prompt, skip_special=False
    )


def test_skipping_special_tokens(tokenizer: Tokenizer) -> None:
    ids = [*tokenizer.encode("#### 8"), tokenizer.eot_id, tokenizer.eos_id, tokenizer.mask_id]
    assert tokenizer.decode(ids) == "#### 8"
    assert tokenizer.decode(ids, skip_special=False) == "#### 8<|eot_id|><|endoftext|><|mdm_mask|>"


def test_llada_folder(llada_folder: Path, tokenizer: Tokenizer) -> None:
    llada = Tokenizer.load(llada_folder)
    assert llada.mask_id != tokenizer.mask_id
    assert llada.vocab_size == tokenizer.vocab_size
    question = "Ann has 3 pens. How many pens now?"
    ids = llada.prompt(question)
    assert ids[0] == llada.bos_id
    assert ids.count(llada.bos_id) == 1
    assert llada.decode(ids, skip_special=False) == tokenizer.decode(
        tokenizer.prompt(question), skip_special=False
    )


def test_mask_not_marked_special_is_kept_out_of_text(tmp_path: Path) -> None:
    definition = _read("tokenizer.json")
    for token in definition["added_tokens"]:
        token["special"] = False
    loaded = Tokenizer.load(_write(tmp_path, definition, _read("tokenizer_config.json")))
    assert loaded.mask_id not in loaded.encode(f"a {MASK} b")
    assert loaded.mask_id not in loaded.prompt(f"a {MASK} b")


def test_save_and_pickle(tmp_path: Path, tokenizer: Tokenizer) -> None:
    tokenizer.save(tmp_path / "copy")
    for other in (Tokenizer.load(tmp_path / "copy"), pickle.loads(pickle.dumps(tokenizer))):
        question = "Zoe owns 12 nuts."
        assert other.prompt(question) == tokenizer.prompt(question)
        assert other.encode(question) == tokenizer.encode(question)


def test_template_may_be_a_file_of_its_own(tmp_path: Path, tokenizer: Tokenizer) -> None:
    config = _read("tokenizer_config.json")
    (tmp_path / "chat_template.jinja").write_text(config.pop("chat_template"))
    folder = _write(tmp_path, _read("tokenizer.json"), config)
    assert Tokenizer.load(folder).prompt("Hi") == tokenizer.prompt("Hi")


@pytest.mark.parametrize("name", SPECIAL_TOKENS)
def test_missing_special_token_is_named(name: str, tmp_path: Path) -> None:
    definition = _read("tokenizer.json")
    kept = [token for token in definition["added_tokens"] if token["content"] != name]
    definition["added_tokens"] = kept
    del definition["model"]["vocab"][name]
    folder = _write(tmp_path, definition, _read("tokenizer_config.json"))
    with pytest.raises(TokenizerError) as raised:
        Tokenizer.load(folder)
    assert f"has no token {name}: expected a tokenizer of the LLaDA family" in str(raised.value)


def test_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"cannot read tokenizer\.json in .*nowhere"):
        Tokenizer.load(tmp_path / "nowhere")


def test_damaged_files(tmp_path: Path) -> None:
    config = _read("tokenizer_config.json")
    with pytest.raises(TokenizerError, match=r"is not a tokenizer\.json"):
        Tokenizer.load(_write(tmp_path, {}, config))
    _write(tmp_path, _read("tokenizer.json"), {})
    with pytest.raises(TokenizerError, match="has no chat_template"):
        Tokenizer.load(tmp_path)
    _write(tmp_path, _read("tokenizer.json"), {"chat_template": "{% for %}"})
    with pytest.raises(TokenizerError, match="faulty chat_template"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("{")
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json: "):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text("[]")
    with pytest.raises(TokenizerError, match="expected a JSON object"):
        Tokenizer.load(tmp_path)
