from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.special_tokens import FAMILIES, LLADA, SpecialTokens
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.data.tokenizer_files import TokenizerError

# As LLaDA-8B-Instruct words its template; ours is worded otherwise and must render the same.
LLADA_TEMPLATE = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n'"
    "+ message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)

LLADA_IDS = {
    "<|startoftext|>": 126080,
    "<|endoftext|>": 126081,
    "<|mdm_mask|>": 126336,
    "<|start_header_id|>": 126346,
    "<|end_header_id|>": 126347,
    "<|eot_id|>": 126348,
}
# What Qwen2.5's template does with one message: a system prompt, and no BOS.
DREAM_TEMPLATE = (
    "{%- if tools %}{{- raise_exception('no tools') }}{%- endif %}"
    "{%- if messages[0]['role'] != 'system' %}"
    "{{- '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}{%- endif %}"
    "{%- for message in messages %}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
    "{%- endfor %}"
    "{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"
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
    plain = [word for word in definition["model"]["vocab"] if word not in LLADA.names]
    definition["model"]["vocab"] = {word: place for place, word in enumerate(plain)}
    definition["model"]["vocab"] |= LLADA_IDS
    for token in definition["added_tokens"]:
        token["id"] = LLADA_IDS[token["content"]]
    # As in the published file: what is encoded with special tokens gets a BOS of its own.
    definition["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": LLADA.bos, "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {
            LLADA.bos: {
                "id": LLADA.bos,
                "ids": [LLADA_IDS["<|startoftext|>"]],
                "tokens": [LLADA.bos],
            }
        },
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


@pytest.mark.parametrize("name", LLADA.names)
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
    specials = [126080, 126346, 126347, 126348, 126346, 126347]
    assert [token for token in ids if token >= 126080] == specials
    assert (llada.mask_id, llada.eos_id, llada.eot_id) == (126336, 126081, 126348)
    text = [460, 354, 226, 24, 418, 19, 296, 278, 418, 321, 36]
    user, assistant, break_ = (token - 6 for token in (297, 299, 293))  # 6 special tokens went
    question_ids = [token - 6 for token in text]
    assert ids == [
        *(126080, 126346, user, 126347, break_, *question_ids, 126348),
        *(126346, assistant, 126347, break_),
    ]
    assert ids.count(llada.bos_id) == 1
    assert llada.decode(ids, skip_special=False) == tokenizer.decode(
        tokenizer.prompt(question), skip_special=False
    )


def test_mask_not_marked_special_is_kept_out_of_text(tmp_path: Path) -> None:
    definition = _read("tokenizer.json")
    for token in definition["added_tokens"]:
        token["special"] = False
    loaded = Tokenizer.load(_write(tmp_path, definition, _read("tokenizer_config.json")))
    assert loaded.mask_id not in loaded.encode(f"a {LLADA.mask} b")
    assert loaded.mask_id not in loaded.prompt(f"a {LLADA.mask} b")


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


@pytest.mark.parametrize("name", LLADA.names)
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


@pytest.fixture
def dream_folder(tmp_path: Path) -> Path:
    """A folder as Dream's: Qwen's two files, the added tokens in the config alone."""
    model = _read("tokenizer.json")["model"]
    plain = [word for word in model["vocab"] if word not in LLADA.names]
    vocabulary_ = {word: place for place, word in enumerate(plain)}
    (tmp_path / "vocab.json").write_text(json.dumps(vocabulary_))
    (tmp_path / "merges.txt").write_text("\n".join(" ".join(pair) for pair in model["merges"]))
    names = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<tool>", "<|beginoftext|>", "<|mask|>"]
    added = {
        str(len(plain) + place): {"content": name, "special": name != "<tool>"}
        for place, name in enumerate(names)
    }
    config = {"added_tokens_decoder": added, "chat_template": DREAM_TEMPLATE}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    return tmp_path


def test_dream_folder(dream_folder: Path, tokenizer: Tokenizer, tmp_path: Path) -> None:
    dream = Tokenizer.load(dream_folder)
    first = tokenizer.vocab_size - 6
    assert (dream.eos_id, dream.eot_id, dream.bos_id) == (first, first + 2, first + 4)
    assert (dream.mask_id, dream.vocab_size) == (first + 5, first + 6)
    ids = dream.prompt("Ann has <|mask|> pens: 12")
    assert dream.mask_id not in ids
    assert dream.bos_id not in ids
    assert dream.decode(ids, skip_special=False) == (
        "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nAnn has <|mask|> pens: 12<|im_end|>\n<|im_start|>assistant\n"
    )
    # Qwen's pieces: words take a space or sign with them, digits stand alone.
    split = dream._text_encoder.pre_tokenizer.pre_tokenize_str("I'm here: (now) 12\n\n x")
    words = [word.replace("Ġ", " ").replace("Ċ", "\n") for word, _ in split]
    assert words == ["I", "'m", " here", ":", " (", "now", ")", " ", "1", "2", "\n\n", " x"]
    assert dream.encode("e\u0301") == dream.encode("é")  # composed
    dream.save(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").prompt("Zoe owns 12.") == dream.prompt("Zoe owns 12.")


def test_dream_folder_that_does_not_fit(dream_folder: Path) -> None:
    file = dream_folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    tokens = config["added_tokens_decoder"]
    tokens["9999"] = tokens.pop(max(tokens, key=int))
    file.write_text(json.dumps(config))
    with pytest.raises(TokenizerError, match=r"gives <\|mask\|> the id 9999, the vocabulary \d+"):
        Tokenizer.load(dream_folder)
    (dream_folder / "merges.txt").unlink()
    with pytest.raises(TokenizerError, match=r"cannot read vocab\.json and merges\.txt in "):
        Tokenizer.load(dream_folder)


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.family)
def test_families_by_their_special_tokens(family: SpecialTokens) -> None:
    definition = _read("tokenizer.json")
    plain = [word for word in definition["model"]["vocab"] if word not in LLADA.names]
    words = [*plain, *family.names]
    definition["model"]["vocab"] = {word: place for place, word in enumerate(words)}
    definition["added_tokens"] = [
        {**definition["added_tokens"][0], "content": name, "id": words.index(name)}
        for name in family.names
    ]
    loaded = Tokenizer(json.dumps(definition), {"chat_template": "{{ messages[0].content }}"})
    assert loaded.special_tokens == family
    assert loaded.mask_id == words.index(family.mask)
    assert loaded.bos_id == words.index(family.bos or family.eos)
    assert loaded.mask_id not in loaded.prompt(f"a {family.mask} b")
    assert loaded.decode(loaded.prompt(f"a {family.mask} b")) == f"a {family.mask} b"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("{{ messages }}"),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(["content", "special", "name", "template", "1", "600", "default"]),
            inner,
        )
    ),
    max_leaves=5,
)
KEYS = st.sampled_from(["chat_template", "added_tokens_decoder", "bos_token", "eos_token", "x"])


@given(config=st.dictionaries(KEYS, VALUES), added=st.none() | VALUES)
def test_any_settings_are_taken_or_refused_in_one_line(
    config: dict[str, Any], added: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = _write(tmp_path_factory.mktemp("any"), _read("tokenizer.json"), config)
    if added is not None:
        (folder / "added_tokens.json").write_text(json.dumps(added))
    message = ""
    try:
        Tokenizer.load(folder)
    except TokenizerError as error:
        message = str(error)
    assert "\n" not in message
