from __future__ import annotations

import pathlib
from typing import Any

import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.data.gsm_mini import vocabulary
from tests import exported, pages
from tests.pages import Page

VOCAB = exported.config().vocab_size
QUESTIONS = [
    "Amy has 5 pens. She buys 3. How many pens are there now?",
    "Tom has 2 cups. How many?",
    "Amy has 5 pens. She buys 3.",
]
SETTINGS: dict[str, Any] = {
    "commit": cd.ConfidenceAdaptive(threshold=0.9),
    "gen_length": 16,
    "block_length": 8,
    "batch_size": 2,
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    return pathlib.Path(exported.export(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def model(folder: pathlib.Path) -> cd.LanguageModel:
    return cd.load(folder)


@pytest.fixture(scope="module")
def wordless(folder: pathlib.Path, tmp_path_factory: pytest.TempPathFactory) -> cd.LanguageModel:
    """The same model from a folder without a tokenizer."""
    copy = tmp_path_factory.mktemp("wordless")
    for name in ("config.json", "params"):
        (copy / name).symlink_to(folder / name)
    return cd.load(copy)


@pytest.mark.slow
def test_answers_in_the_order_of_the_questions(model: cd.LanguageModel) -> None:
    tokenizer = vocabulary.load()
    out = cd.decode(model, QUESTIONS, **SETTINGS)
    assert len(out.text) == len(out.nfe) == len(out.trajectory) == len(QUESTIONS)
    assert out.seconds > 0
    assert ((out.nfe >= 1) & (out.nfe <= 16)).all()
    rows = zip(out.trajectory.tokens, out.trajectory.length, strict=True)
    assert out.text == [tokenizer.decode(tokens[:length].tolist()) for tokens, length in rows]
    assert len(set(out.text)) == len(QUESTIONS)  # so that the next comparison says something

    # Batches are filled by length, whatever the order; text and its ids are the same prompt.
    order = [2, 0, 1]
    ids = [tokenizer.prompt(QUESTIONS[row]) for row in order]
    mixed: list[str | list[int]] = [QUESTIONS[2], ids[1], ids[2]]
    again = cd.decode(model, mixed, **SETTINGS)
    assert again.text == [out.text[row] for row in order]
    np.testing.assert_array_equal(again.nfe, out.nfe[order])
    np.testing.assert_array_equal(again.trajectory.committed_at, out.trajectory.committed_at[order])


@pytest.mark.slow
def test_a_stream_is_the_decode_in_parts(model: cd.LanguageModel) -> None:
    out = cd.decode(model, QUESTIONS, **SETTINGS)
    tokens = np.full(out.trajectory.tokens.shape, model.transformer.config.eos_id)
    for update in cd.decode_stream(model, QUESTIONS, every=3, **SETTINGS):
        tokens[update.row, update.position] = update.token
    np.testing.assert_array_equal(tokens, out.trajectory.tokens)


@pytest.mark.slow
def test_infilling_keeps_what_is_given(model: cd.LanguageModel) -> None:
    given: list[list[int | None]] = [[], [None, 9, None, 8], [7]]
    out = cd.decode(model, QUESTIONS, given=given, **SETTINGS)
    assert out.trajectory.tokens[1, [1, 3]].tolist() == [9, 8]
    assert out.trajectory.tokens[2, 0] == 7
    np.testing.assert_array_equal(
        out.trajectory.tokens[0], cd.decode(model, QUESTIONS, **SETTINGS).trajectory.tokens[0]
    )


def test_without_a_tokenizer_there_are_ids_only(
    model: cd.LanguageModel, wordless: cd.LanguageModel
) -> None:
    assert wordless.tokenizer is None
    ids = [model.prompt_ids(question) for question in QUESTIONS]
    out = cd.decode(wordless, ids, **SETTINGS)
    expected = cd.decode(model, ids, **SETTINGS)
    np.testing.assert_array_equal(out.trajectory.tokens, expected.trajectory.tokens)
    with pytest.raises(ValueError, match=r"has no tokenizer; use trajectory\.tokens"):
        _ = out.text
    with pytest.raises(ValueError, match="no tokenizer, so prompts must be lists of token ids"):
        cd.decode(wordless, QUESTIONS, **SETTINGS)


@pytest.mark.slow
def test_passes_on_a_page_and_on_the_terminal(
    model: cd.LanguageModel, wordless: cd.LanguageModel, capsys: pytest.CaptureFixture[str]
) -> None:
    ids = model.prompt_ids("Why?")
    prompts: list[str | list[int]] = [QUESTIONS[0], ids]
    out = cd.decode(model, prompts, given=[[], [9]], **SETTINGS)
    shown = pages.replays(out.to_html())
    assert [panel["question"] for panel in shown["panels"]] == [
        QUESTIONS[0],
        model.tokenizer.decode(ids, skip_special=False),  # type: ignore[union-attr]
    ]
    assert Page(out._repr_html_()).having("srcdoc")[0]["srcdoc"] == out.to_html()
    # Ids are shown as they are, with the template.
    assert "Why?<|eot_id|>" in shown["panels"][1]["question"]
    reasons = [reason for panel in shown["panels"] for reason in panel["replays"][0]["reason"]]
    assert reasons.count(cd.Reason.GIVEN) == 1
    out.play(1)
    _, state = capsys.readouterr().out.split("pass ")  # the last one alone
    assert state.startswith(f"{out.nfe[1]} of {out.nfe[1]}, ")
    for row in (2, -1):
        with pytest.raises(ValueError, match=f"row={row}: give one from 0 to 1"):
            out.play(row)

    out = cd.decode(wordless, [[7, 8]], **SETTINGS)
    out.play()
    assert capsys.readouterr().out.startswith("7 8\npass ")
    texts = [label for label, *_ in pages.replays(out.to_html())["texts"]]
    assert f" {out.trajectory.tokens[0, 0]}" in texts


@pytest.mark.parametrize(
    ("prompts", "changes", "message"),
    [
        (
            [[1], [1] * 177],
            {},
            "prompt 1 has 177 tokens; the model's 192 positions less gen_length=16 leave 176; "
            "shorten the prompt or gen_length",
        ),
        (["a pen"], {"gen_length": 192}, r"prompt 0 has \d+ tokens; .*gen_length=192 leave 0"),
        (["a"], {"block_length": 5}, "gen_length=16 is not a multiple of block_length=5"),
        (["a"], {"temperature": -1.0}, r"temperature=-1.0; give 0 \(off\) or more"),
        (["a"], {"max_steps_per_block": -1}, r"max_steps_per_block=-1; give 0 \(off\) or more"),
        (["a"], {"batch_size": 0}, "batch_size=0; give 1 or more"),
        (["a"], {"given": []}, "given has 0 rows for 1 prompts; give one of each a prompt"),
        (["a"], {"given": [[1] * 17]}, "given row 0 has 17 positions; gen_length=16 is all"),
        (["a"], {"given": [[VOCAB]]}, "prompt 0 has an id outside the model's vocabulary"),
        ([], {}, "there are no prompts to decode; give at least one"),
        ([[1], []], {}, "prompt 1 is empty; give at least one token"),
        ([[1, VOCAB]], {}, f"prompt 0 has an id outside the model's vocabulary of {VOCAB}"),
        ([[-1]], {}, f"prompt 0 has an id outside the model's vocabulary of {VOCAB}"),
        (["a"], {"eos_gate_ratio": 1.5}, "eos_gate_ratio=1.5 is no share; give one from 0 to 1"),
        (["a"], {"eos_gate_ratio": -0.1}, "eos_gate_ratio=-0.1 is no share"),
        (["a"], {"eos_gate_ratio": float("nan")}, "eos_gate_ratio=nan is no share"),
    ],
)
def test_says_what_does_not_fit(
    model: cd.LanguageModel, prompts: list[Any], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        cd.decode(model, prompts, **(SETTINGS | changes))


def test_a_prompt_may_fill_all_that_the_generation_leaves(model: cd.LanguageModel) -> None:
    out = cd.decode(model, [[7, 8] * 88], **SETTINGS)  # 176 of 192 positions
    assert out.trajectory.tokens.shape == (1, 16)


def test_without_options_it_generates_what_the_model_has_room_for(
    model: cd.LanguageModel,
) -> None:
    assert cd.decode(model, "How many?").trajectory.gen_length == 64  # of 192 positions
    assert cd.decode(model, "How many?", block_length=24).trajectory.gen_length == 48


def test_the_folder_of_a_training_run_stands_for_its_model(
    folder: pathlib.Path, tmp_path: pathlib.Path
) -> None:
    (tmp_path / "model").symlink_to(folder)
    (tmp_path / "config.json").write_text('{"output": "runs/mine"}')  # of the run
    found = cd.load(tmp_path)
    assert found.tokenizer is not None
    assert found.fingerprint == cd.load(folder).fingerprint
    count = f"{found.transformer.config.num_parameters:,}"
    assert repr(found) == f"LanguageModel({count} parameters, 2 layers, float32, with tokenizer)"


def test_says_that_there_is_no_model(tmp_path: pathlib.Path) -> None:
    with pytest.raises(ValueError, match=r"no model in .*missing: config.json is missing"):
        cd.load(tmp_path / "missing")
