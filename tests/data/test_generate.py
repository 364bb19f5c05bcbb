from __future__ import annotations

import collections
import hashlib
import itertools
import re

import pytest

from cd4lm_jax.data.gsm_mini import generate as gsm_mini
from cd4lm_jax.data.gsm_mini.generate import (
    MAX_VALUE,
    SPLIT_SIZES,
    WordProblem,
    answer_value,
    evaluate_chain,
    generate,
)
from cd4lm_jax.data.tokenizer import Tokenizer

_STEP = re.compile(r"(\d+)([-+*/])(\d)=(\d+)$")
Problems = dict[str, list[WordProblem]]


@pytest.fixture(scope="module")
def problems() -> Problems:
    """The real splits, and the first tenth of the large one."""
    sizes = SPLIT_SIZES | {"pretrain": 20_000}
    return {split: list(generate(split, size)) for split, size in sizes.items()}


def _every(problems: Problems) -> list[WordProblem]:
    return list(itertools.chain.from_iterable(problems.values()))


@pytest.mark.parametrize(
    ("split", "digest"),
    [
        ("pretrain", "efc97e77269239a3"),
        ("distill", "da60fe3e5f745bdb"),
        ("validation", "941cd0602b89d579"),
        ("test", "eb1301c193f95823"),
    ],
)
def test_problems_never_change(split: str, digest: str) -> None:
    # The committed teacher and every published figure rest on these very problems.
    text = "\n\n".join(f"{row.question}\n{row.answer}" for row in generate(split, 200))
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == digest


def test_another_seed_gives_other_problems_of_the_same_split() -> None:
    one, two = list(generate("test", 50)), list(generate("test", 50, seed=1))
    assert one != two
    assert all(gsm_mini.chain_split(row.start, row.operations) == "test" for row in two)


def test_splits_never_share_a_chain(problems: Problems) -> None:
    chains = {
        split: {(row.start, row.operations) for row in rows} for split, rows in problems.items()
    }
    for one, two in itertools.combinations(chains, 2):
        assert not chains[one] & chains[two]


def test_splits_have_their_sizes_and_unique_questions(problems: Problems) -> None:
    for split in ("distill", "validation", "test"):
        assert len({row.question for row in problems[split]}) == SPLIT_SIZES[split]


def test_every_answer_follows_from_its_own_text(problems: Problems) -> None:
    for row in _every(problems):
        *steps, last = row.answer.split("\n")
        value = row.start
        operations = []
        for step in steps:
            found = _STEP.search(step)
            assert found, row.answer
            left, operator, operand, right = found.groups()
            operations.append((operator, int(operand)))
            assert int(left) == value
            assert [int(right)] == evaluate_chain(value, ((operator, int(operand)),))
            value = int(right)
            assert 1 <= value <= MAX_VALUE
        assert tuple(operations) == row.operations
        assert last == f"#### {value}"
        assert answer_value(row.answer) == value


def test_question_tells_start_and_operands(problems: Problems) -> None:
    words = {"doubles": 2, "twice": 2, "half": 2, "triples": 3}
    for row in _every(problems)[::7]:
        written = re.findall(r"\d+|" + "|".join(words), row.question)
        expected = [row.start, *(operand for _, operand in row.operations)]
        assert [words.get(word) or int(word) for word in written] == expected


def test_chains_are_varied(problems: Problems) -> None:
    rows = problems["pretrain"]
    lengths = collections.Counter(len(row.operations) for row in rows)
    for length, share in {2: 0.3, 3: 0.3, 4: 0.25, 5: 0.15}.items():
        assert lengths[length] / len(rows) == pytest.approx(share, abs=0.015)
    operators = collections.Counter(sign for row in rows for sign, _ in row.operations)
    assert set(operators) == set("+-*/")
    assert min(operators.values()) > 0.12 * operators.total()


def test_a_question_has_several_right_answers(problems: Problems) -> None:
    first = collections.Counter(
        re.split(r" ?\d", row.answer)[0] for row in problems["pretrain"] if "pens" in row.question
    )
    common = {wording for wording, count in first.items() if count > 0.01 * first.total()}
    assert {"now", "first", "that makes", "this makes", "adding:", "plus:", "pens:"} <= common


def test_one_answer_keeps_one_style(problems: Problems) -> None:
    for row in problems["test"]:
        later = [re.split(r" ?\d", step)[0] for step in row.answer.split("\n")[1:-1]]
        kinds = {
            "named" if word in ("adding:", "taking:", "scaling:", "sharing:") else word
            for word in later
        }
        assert len(kinds) == 1


def test_token_budgets(problems: Problems, tokenizer: Tokenizer) -> None:
    prompts, answers = [], []
    for row in _every(problems)[::3]:
        prompts.append(len(tokenizer.prompt(row.question)))
        answers.append(len(tokenizer.encode(row.answer)) + 1)  # and its end of turn
    assert max(prompts) <= 64
    assert max(answers) <= 63
    assert 40 <= sum(prompts) / len(prompts) <= 50
    assert 29 <= sum(answers) / len(answers) <= 35


def test_answer_budget_holds_by_construction(tokenizer: Tokenizer) -> None:
    # The longest that the wordings allow: five steps, all values of two digits, longest phrases.
    for style in gsm_mini.STYLES:
        first = max(
            len(tokenizer.encode(words[sign].replace("{things}", "shells")))
            for words in style.first
            for sign in "+-*/"
        )
        later = max(
            len(tokenizer.encode(style.later[sign].replace("{things}", "shells")))
            for sign in "+-*/"
        )
        step = len(tokenizer.encode(" 12+3=15\n"))
        assert first + 4 * later + 5 * step + len(tokenizer.encode("#### 15")) + 1 <= 63


def test_unknown_split_is_named() -> None:
    with pytest.raises(ValueError, match=r"'train' of gsm_mini: expected one of .*pretrain"):
        next(generate("train"))


def test_evaluate_chain() -> None:
    assert evaluate_chain(5, (("+", 3), ("/", 4), ("*", 5), ("-", 9))) == [8, 2, 10, 1]


@pytest.mark.parametrize("operation", [("/", 2), ("/", 0), ("^", 2)])
def test_evaluate_chain_refuses(operation: tuple[str, int]) -> None:
    with pytest.raises(ValueError, match="exact division"):
        evaluate_chain(5, (operation,))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("now 5+3=8\n#### 8", 8),
        ("#### 1,234", 1234),
        ("####-7 and more", -7),
        ("#### 42.", 42),
        ("#### 8\n#### 9", 8),
        ("#### 3.5", None),
        ("#### 12.50", None),
        ("### 8", None),
        ("#### ,", None),
        ("now 5+3=8", None),
        ("", None),
    ],
)
def test_answer_value(text: str, value: int | None) -> None:
    assert answer_value(text) == value
