from __future__ import annotations

import datetime
import json
import pathlib
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cd4lm_jax.data.chat import ChatTemplate, ChatTemplateError, RenderedChat
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.data.special_tokens import LLADA
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.data.tokenizer_files import TokenizerError

BOM = "\ufeff"
HISTORY = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Amy has 5 pens. How many?"},
    {"role": "assistant", "content": "#### 5"},
    {"role": "user", "content": "And if she buys 1?"},
]
WORDS = st.lists(
    st.sampled_from([*LLADA.names, "pens", " ", "\n", "\ufdd0", "0", "<|", "|>", "9"]), max_size=6
).map("".join)


def _folder(folder: pathlib.Path, template: object, **files: str) -> pathlib.Path:
    """gsm_mini's tokenizer with another chat_template in its config, and other files."""
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).write_text((vocabulary.FOLDER / name).read_text())
    config = json.loads((folder / "tokenizer_config.json").read_text())
    config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)
    return folder


PLAIN = json.loads((vocabulary.FOLDER / "tokenizer_config.json").read_text())["chat_template"]
GENERATION = (
    "{{ bos_token }}{% for message in messages %}"
    "{% if message['content'] is none %}{% continue %}{% endif %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}"
    "{% if message['role'] == 'assistant' %}{% generation %}"
    "{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endgeneration %}"
    "{% else %}{{ message['content'] | trim }}{{ '<|eot_id|>' }}{% endif %}"
    "{% if loop.index > 99 %}{% break %}{% endif %}"
    "{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)


@pytest.mark.parametrize(
    ("template", "files"),
    [
        (PLAIN, {}),
        (GENERATION, {}),
        ([{"name": "default", "template": PLAIN}, {"name": "tool_use", "template": "no"}], {}),
        ([{"name": "chat", "template": PLAIN}], {}),
        (None, {"chat_template__jinja": PLAIN}),
        (None, {"chat_template__jinja": BOM + PLAIN}),
        ("of the config: {{ messages }}", {"chat_template__jinja": PLAIN}),
    ],
    ids=["plain", "tags", "named", "one named", "null", "byte-order mark", "file first"],
)
def test_forms_give_the_same_tokens(
    template: object, files: dict[str, str], tmp_path: pathlib.Path, tokenizer: Tokenizer
) -> None:
    loaded = Tokenizer.load(_folder(tmp_path, template, **files))
    assert loaded.prompt(HISTORY) == tokenizer.prompt(HISTORY)
    assert loaded.prompt("Hi") == tokenizer.prompt("Hi")
    loaded.save(tmp_path / "copy")
    assert Tokenizer.load(tmp_path / "copy").prompt(HISTORY) == tokenizer.prompt(HISTORY)


@pytest.mark.parametrize(
    ("template", "message"),
    [
        (None, "has no chat_template"),
        ([], r"without a default \(found none\)"),
        ([{"name": n, "template": PLAIN} for n in ("a", "b")], r"\(found a, b\); name one of them"),
        ("{% for %}", "has a faulty chat_template: "),
    ],
)
def test_faulty_templates_are_named(template: object, message: str, tmp_path: pathlib.Path) -> None:
    with pytest.raises(TokenizerError, match=message):
        Tokenizer.load(_folder(tmp_path, template))


@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_files_may_begin_with_a_byte_order_mark(
    name: str, tmp_path: pathlib.Path, tokenizer: Tokenizer
) -> None:
    file = _folder(tmp_path, PLAIN) / name
    file.write_text(BOM + file.read_text(encoding="utf-8"), encoding="utf-8")
    assert Tokenizer.load(tmp_path).prompt("Hi") == tokenizer.prompt("Hi")


def _render(template: str, messages: list[dict[str, str]]) -> str:
    return ChatTemplate(template, {"bos_token": "<s>"}, LLADA.names).render(messages)


def test_a_refusal_is_the_templates_words_in_one_line() -> None:
    template = (
        "{% if messages|length > 1 %}{{ raise_exception('Roles must\n alternate!') }}{% endif %}"
    )
    with pytest.raises(ChatTemplateError) as raised:
        _render(template, HISTORY)
    assert str(raised.value) == "chat_template refuses the conversation: Roles must alternate!"


@pytest.mark.parametrize("template", ["{{ messages[9].role }}", "{{ 1 / 0 }}", "{{ 'a' + 1 }}"])
def test_any_failure_of_a_template_is_one_line(template: str) -> None:
    with pytest.raises(ChatTemplateError, match=r"^chat_template cannot be rendered: .+$"):
        _render(template, HISTORY)


def test_what_templates_use_is_there() -> None:
    year = str(datetime.datetime.now().year)
    assert _render("{{ strftime_now('%Y') }}", HISTORY) == year
    assert _render("{{ {'a': '<é>'} | tojson }}", HISTORY) == '{"a": "<é>"}'
    assert _render("{{ bos_token }}{{ tools }}", HISTORY) == "<s>None"


@given(contents=st.lists(WORDS, min_size=1, max_size=3))
def test_special_tokens_in_messages_stay_text(contents: list[str], tokenizer: Tokenizer) -> None:
    roles = ("user", "assistant") * 2
    history = [
        {"role": role, "content": content} for role, content in zip(roles, contents, strict=False)
    ]
    empty = [{**message, "content": ""} for message in history]
    special = {tokenizer.encode_rendered(name)[0] for name in LLADA.names}
    ids = tokenizer.prompt(history)
    assert [token for token in ids if token in special] == [
        token for token in tokenizer.prompt(empty) if token in special
    ]
    expected = "<|startoftext|>" + "".join(
        f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n{message['content'].strip()}"
        "<|eot_id|>"
        for message in history
    )
    chat = tokenizer.render(history)
    assert chat == expected + "<|start_header_id|>assistant<|end_header_id|>\n\n"
    assert tokenizer.decode(ids, skip_special=False) == chat
    assert tokenizer.encode_rendered(pickle.loads(pickle.dumps(chat))) == ids
    # Where no special token is written, it is what the tokenizer makes of the text.
    if not any(name in content for name in LLADA.names for content in contents):
        assert chat.literals == ()
    assert tokenizer.encode_rendered(chat, "#### 5")[: len(ids)] == ids


def test_special_tokens_in_a_role_stay_text() -> None:
    chat = ChatTemplate("{{ messages[0].role }}{{ '<|eot_id|>' }}", {}, LLADA.names)
    found = chat.render([{"role": "<|mdm_mask|>", "content": ""}])
    assert chat.split(found) == [("<|mdm_mask|>", False), ("<|eot_id|>", True)]


@pytest.mark.parametrize(
    ("words", "trim", "end"),
    [
        ("The answer is", True, "The answer is"),
        ("The answer is ", True, "The answer is"),  # the template trims
        ("The answer is ", False, "The answer is "),
        ("", True, ""),
    ],
)
def test_the_last_message_can_be_continued(words: str, trim: bool, end: str) -> None:
    template = PLAIN if trim else PLAIN.replace(" | trim", "")
    chat = ChatTemplate(template, {"bos_token": LLADA.bos or ""}, LLADA.names)
    history = [{"role": "user", "content": "q"}, {"role": "assistant", "content": words}]
    found = chat.render(history, continue_final_message=True)
    assert isinstance(found, RenderedChat)
    assert found == (
        "<|startoftext|><|start_header_id|>user<|end_header_id|>\n\nq<|eot_id|>"
        f"<|start_header_id|>assistant<|end_header_id|>\n\n{end}"
    ).rstrip("\n" if trim and not words else "")


def test_a_last_message_that_is_not_rendered_cannot_be_continued() -> None:
    chat = ChatTemplate("{{ messages[0].content }}", {}, LLADA.names)
    with pytest.raises(ChatTemplateError, match="leaves out the last message"):
        chat.render(HISTORY, continue_final_message=True)
    with pytest.raises(ChatTemplateError, match="no message to continue"):
        chat.render([], continue_final_message=True)


def test_tokens_of_added_tokens_json_alone(tmp_path: pathlib.Path, tokenizer: Tokenizer) -> None:
    _folder(tmp_path, PLAIN)
    definition = json.loads((tmp_path / "tokenizer.json").read_text())
    last = tokenizer.vocab_size
    definition["added_tokens"] = [
        token for token in definition["added_tokens"] if token["content"] != LLADA.mask
    ]
    del definition["model"]["vocab"][LLADA.mask]
    (tmp_path / "tokenizer.json").write_text(json.dumps(definition))
    with pytest.raises(TokenizerError, match=r"has no token <\|mdm_mask\|>"):
        Tokenizer.load(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({LLADA.mask: last}))
    with pytest.raises(TokenizerError, match=rf"gives <\|mdm_mask\|> the id {last}, the voc"):
        Tokenizer.load(tmp_path)
    # Ids follow the vocabulary, of which one token is gone.
    (tmp_path / "added_tokens.json").write_text(BOM + json.dumps({LLADA.mask: last - 1}))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.mask_id == last - 1
    assert loaded.mask_id not in loaded.prompt(f"a {LLADA.mask} b")
    assert loaded.prompt("Hi") == tokenizer.prompt("Hi")
