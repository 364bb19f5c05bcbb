from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

from cd4lm_jax.data.gsm_mini import builder
from cd4lm_jax.data.gsm_mini.generate import SPLIT_SIZES, generate
from cd4lm_jax.data.sources import open_source

SMALL = {"pretrain": 60, "distill": 40, "validation": 20, "test": 20}


@pytest.fixture
def small_splits(monkeypatch: pytest.MonkeyPatch) -> None:
    for split, size in SMALL.items():
        monkeypatch.setitem(SPLIT_SIZES, split, size)


def test_rows_on_disk_are_the_generated_ones(data_dir: str) -> None:
    for split in ("distill", "validation", "test"):
        source = open_source("gsm_mini/distill", split, data_dir)
        assert len(source) == SPLIT_SIZES[split]
        for index, problem in enumerate(generate(split, 30)):
            row = {"question": problem.question, "answer": problem.answer}
            assert source[index] == row
        assert source.__getitems__([7, 3]) == [source[7], source[3]]


def test_tensorflow_is_not_needed(data_dir: str) -> None:
    assert open_source("gsm_mini/distill", "test", data_dir)[0]["question"]
    assert "tensorflow" not in sys.modules


@pytest.mark.usefixtures("small_splits")
def test_full_has_the_pretrain_split_and_the_same_others(tmp_path: Path) -> None:
    full = builder.prepare("full", tmp_path)
    distill = builder.prepare("distill", tmp_path)
    assert {name: split.num_examples for name, split in full.info.splits.items()} == SMALL
    assert set(distill.info.splits) == {"distill", "validation", "test"}
    for split in distill.info.splits:
        one, two = (made.as_data_source(split=split) for made in (full, distill))
        assert [one[place] for place in range(20)] == [two[place] for place in range(20)]
        assert [one[place]["id"] for place in range(20)] == list(range(20))


@pytest.mark.usefixtures("small_splits")
def test_prepared_data_are_read_not_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder.prepare("distill", tmp_path)
    monkeypatch.setattr(builder, "generate", None)  # calling it would fail
    assert len(open_source("gsm_mini/distill", "test", tmp_path)) == SMALL["test"]


@pytest.mark.usefixtures("small_splits")
@pytest.mark.parametrize("lost", ["dataset_info.json", "*test.array_record*", "*"])
def test_half_prepared_folder_is_made_again(tmp_path: Path, lost: str) -> None:
    folder = Path(builder.prepare("distill", tmp_path).data_path)
    for path in folder.glob(lost):
        path.unlink()
    assert len(open_source("gsm_mini/distill", "test", tmp_path)) == SMALL["test"]


@pytest.mark.usefixtures("small_splits")
def test_interrupted_preparation_does_not_break_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(split: str) -> object:
        yield next(generate(split))
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(builder, "generate", stop)
        with pytest.raises(KeyboardInterrupt):
            builder.prepare("distill", tmp_path)
    assert len(open_source("gsm_mini/distill", "test", tmp_path)) == SMALL["test"]


@pytest.mark.usefixtures("small_splits")
def test_another_process_may_be_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = builder.prepare("distill", tmp_path / "elsewhere")
    data_dir = tmp_path / "here"

    def overtaken(self: builder.GsmMini, **options: object) -> None:
        shutil.copytree(elsewhere.data_path, self.data_path)
        raise FileExistsError(self.data_path)

    monkeypatch.setattr(builder.GsmMini, "download_and_prepare", overtaken)
    assert len(open_source("gsm_mini/distill", "test", data_dir)) == SMALL["test"]


def test_failure_to_write_names_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full_disk(self: builder.GsmMini, **options: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(builder.GsmMini, "download_and_prepare", full_disk)
    with pytest.raises(OSError, match="No space left"):
        builder.prepare("distill", tmp_path)


def test_unknown_config(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gsm_mini/half: expected one of"):
        builder.prepare("half", tmp_path)
