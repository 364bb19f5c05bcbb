from __future__ import annotations

import dataclasses
import itertools
import json
import pathlib
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from cd4lm_jax.data.checks import DataError
from cd4lm_jax.data.pipeline import DataConfig, HostBatch, batches, eval_batches
from cd4lm_jax.data.sources import SourceError
from cd4lm_jax.data.tokenizer import Tokenizer

Config = Callable[..., DataConfig]


@pytest.fixture
def config(data_dir: str) -> Config:
    def make(**changes: object) -> DataConfig:
        settings = {"source": "gsm_mini/distill", "split": "validation", "batch_size": 16}
        return DataConfig(**(settings | {"data_dir": data_dir} | changes))  # type: ignore[arg-type]

    return make


@pytest.fixture
def toy(json_lines: Callable[..., str]) -> DataConfig:
    """Ten short examples, of which the question names the index."""
    path = json_lines(*((f"What is {i}", f"now {i}+1={i + 1}\n#### {i + 1}") for i in range(10)))
    return DataConfig(source=path, batch_size=4, answer_length=20, max_length=40)


def _same(one: HostBatch, two: HostBatch) -> bool:
    return all(np.array_equal(one[name], two[name]) for name in one)  # type: ignore[literal-required]


def _take(config: DataConfig, tokenizer: Tokenizer, count: int, **options: Any) -> list[HostBatch]:
    return list(itertools.islice(batches(config, tokenizer, **options), count))


def test_rows_are_prompt_answer_tail_padding(config: Config, tokenizer: Tokenizer) -> None:
    settings = config()
    (batch,) = _take(settings, tokenizer, 1)
    assert {name: (array.dtype, array.shape) for name, array in batch.items()} == {  # type: ignore[attr-defined]
        "tokens": (np.int32, (16, 128)),
        "valid": (np.bool_, (16, 128)),
        "answer": (np.bool_, (16, 128)),
        "index": (np.int32, (16,)),
        "truncated": (np.bool_, (16,)),
    }
    from cd4lm_jax.data.sources import open_source

    source = open_source(settings.source, settings.split, settings.data_dir)
    for row, index in enumerate(batch["index"]):
        prompt = tokenizer.prompt(source[index]["question"])
        text = tokenizer.encode(source[index]["answer"])
        tail = [tokenizer.eos_id] * (64 - len(text) - 1)
        padding = [tokenizer.eos_id] * (128 - 64 - len(prompt))
        expected = [*prompt, *text, tokenizer.eot_id, *tail, *padding]
        assert batch["tokens"][row].tolist() == expected
        place = np.arange(128)
        assert np.array_equal(batch["valid"][row], place < len(prompt) + 64)
        answer = (place >= len(prompt)) & (place < len(prompt) + 64)
        assert np.array_equal(batch["answer"][row], answer)


def test_same_seed_same_batches_other_seed_other_order(
    config: Config, tokenizer: Tokenizer
) -> None:
    one, two = (_take(config(), tokenizer, 3) for _ in range(2))
    assert all(map(_same, one, two))
    (other,) = _take(config(seed=1), tokenizer, 1)
    assert not np.array_equal(one[0]["index"], other["index"])


def test_each_epoch_has_every_example_once_in_another_order(
    toy: DataConfig, tokenizer: Tokenizer
) -> None:
    rows = batches(toy, tokenizer, epochs=2)
    order = np.concatenate([batch["index"] for batch in rows])
    assert order.shape == (20,)
    assert sorted(order[:10]) == sorted(order[10:]) == list(range(10))
    assert order[:10].tolist() != order[10:].tolist()


def test_rows_do_not_depend_on_the_epoch(toy: DataConfig, tokenizer: Tokenizer) -> None:
    rows_of: dict[int, list[int]] = {}
    for batch in batches(toy, tokenizer, epochs=6):
        for index, tokens in zip(batch["index"], batch["tokens"], strict=True):
            assert rows_of.setdefault(int(index), tokens.tolist()) == tokens.tolist()
            assert tokenizer.decode(tokens).count(f"What is {index}") == 1
    assert len(rows_of) == 10


@pytest.mark.parametrize("done", [0, 1, 5])
def test_training_resumes_at_the_exact_next_batch(
    config: Config, tokenizer: Tokenizer, done: int
) -> None:
    settings = config(batch_size=300)  # epochs of 1,000 end within a batch
    iterator = iter(batches(settings, tokenizer))
    for _ in range(done):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = [next(iterator) for _ in range(3)]
    resumed = iter(batches(settings, tokenizer))
    resumed.set_state(state)
    assert all(map(_same, expected, [next(resumed) for _ in range(3)]))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_read_the_global_batch(
    config: Config, tokenizer: Tokenizer, hosts: int
) -> None:
    expected = _take(config(), tokenizer, 3)
    # Not consecutive, as where the mesh follows the wiring of the devices.
    for rows in [np.arange(host, 16, hosts) for host in range(hosts)]:
        for batch, part in zip(expected, _take(config(), tokenizer, 3, rows=rows), strict=True):
            for name in batch:
                assert np.array_equal(part[name], batch[name][rows])  # type: ignore[literal-required]


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_make_the_same_batches(
    workers: int, toy: DataConfig, tokenizer: Tokenizer
) -> None:
    expected = _take(toy, tokenizer, 3)
    iterator = iter(batches(dataclasses.replace(toy, workers=workers), tokenizer))
    try:
        assert all(map(_same, expected, [next(iterator) for _ in range(3)]))
    finally:
        iterator.close()


def test_long_prompt_loses_its_start(json_lines: Callable[..., str], tokenizer: Tokenizer) -> None:
    source = json_lines(("many " * 50 + "pens", "#### 1"), ("few", "#### 1"))
    settings = DataConfig(source=source, batch_size=2, answer_length=8, max_length=28)
    (batch,) = eval_batches(settings, tokenizer)
    assert batch["truncated"].tolist() == [True, False]
    assert batch["tokens"][0, :20].tolist() == tokenizer.prompt("many " * 50 + "pens")[-20:]
    assert batch["valid"][0].all()
    assert batch["answer"][0].sum() == 8


def test_malformed_records_are_skipped_up_to_the_settings_limit(
    toy: DataConfig, tokenizer: Tokenizer
) -> None:
    expected = _take(toy, tokenizer, 2)
    path = pathlib.Path(toy.source)
    path.write_text(path.read_text() + "{oops\n")
    with pytest.raises(SourceError, match=r"examples\.jsonl, line 11: not JSON"):
        _take(toy, tokenizer, 1)
    tolerant = dataclasses.replace(toy, max_malformed=1)
    assert all(map(_same, expected, _take(tolerant, tokenizer, 2)))
    assert len(list(eval_batches(tolerant, tokenizer))) == 3


def test_longest_answer_fits_and_a_longer_one_is_named(
    json_lines: Callable[..., str], tokenizer: Tokenizer
) -> None:
    settings = DataConfig(
        source=json_lines(("q", "1" * 7)), batch_size=1, answer_length=8, max_length=40
    )
    (batch,) = eval_batches(settings, tokenizer)
    answer = batch["tokens"][batch["answer"]].tolist()
    assert answer == [*tokenizer.encode("1" * 7), tokenizer.eot_id]
    settings = dataclasses.replace(settings, source=json_lines(("q", "1"), ("q", "1" * 8)))
    message = r"examples\.jsonl, line 2: its answer has 8 tokens, expected at most 7"
    with pytest.raises(DataError, match=message):
        list(eval_batches(settings, tokenizer))
    with pytest.raises(DataError, match=message):
        list(batches(settings, tokenizer, epochs=1))


def test_evaluation_passes_once_in_order(toy: DataConfig, tokenizer: Tokenizer) -> None:
    made = list(eval_batches(toy, tokenizer))
    assert [batch["tokens"].shape for batch in made] == [(4, 40)] * 3
    counted = [batch["answer"].any(axis=1) for batch in made]
    index = np.concatenate([batch["index"] for batch in made])[np.concatenate(counted)]
    assert index.tolist() == list(range(10))
    filling = made[-1]
    assert not filling["answer"][2:].any()
    assert filling["valid"][2:].any(axis=1).all()  # nothing attends to nothing


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"answer_length": 1}, "answer_length is 1: expected at least 2"),
        ({"max_length": 64}, "max_length is 64: expected more than answer_length, 64"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"max_malformed": -1}, "max_malformed is -1: expected at least 0"),
    ],
)
def test_impossible_settings(changes: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        DataConfig(**changes)  # type: ignore[arg-type]


def test_too_few_examples_for_a_batch(toy: DataConfig, tokenizer: Tokenizer) -> None:
    large = dataclasses.replace(toy, batch_size=16)
    with pytest.raises(DataError, match="has 10 examples: expected enough for a batch of 16"):
        batches(large, tokenizer, epochs=1)
    assert _take(large, tokenizer, 1)[0]["index"].shape == (16,)  # endless passes fill it
