"""gsm_mini as a TFDS dataset in ArrayRecord files, without TensorFlow and without a network."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds

from cd4lm_jax.data.gsm_mini.generate import SPLIT_SIZES, generate

_FILE_FORMAT = "array_record"


class GsmMini(tfds.core.GeneratorBasedBuilder):
    """Grade-school word problems of 2 to 5 steps with worked answers.

    Rows: `id` (int, the row's place in its split), `question` and `answer` (text).
    """

    VERSION = tfds.core.Version("1.0.0")
    BUILDER_CONFIGS: ClassVar[list[tfds.core.BuilderConfig]] = [
        tfds.core.BuilderConfig(name="full", description="All four splits."),
        tfds.core.BuilderConfig(name="distill", description="`full` without its pretrain split."),
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Generated grade-school word problems with worked answers.",
            features=tfds.features.FeaturesDict(
                {
                    "id": tfds.features.Scalar(dtype=np.int64),
                    "question": tfds.features.Text(),
                    "answer": tfds.features.Text(),
                }
            ),
            supervised_keys=("question", "answer"),
            disable_shuffling=True,  # row i is problem i; the pipeline shuffles
        )

    def _split_generators(self, dl_manager: object) -> dict[str, Any]:
        del dl_manager  # nothing is downloaded
        names = [name for name in SPLIT_SIZES if name != "pretrain"]
        if self.builder_config.name == "full":
            names.insert(0, "pretrain")
        return {name: self._generate_examples(name) for name in names}

    def _generate_examples(self, split: str) -> Iterator[tuple[int, dict[str, Any]]]:
        for index, problem in enumerate(generate(split)):
            row = {"id": index, "question": problem.question, "answer": problem.answer}
            yield index, row


def prepare(config: str = "full", data_dir: str | os.PathLike[str] | None = None) -> GsmMini:
    """The builder with its files on disk, generating them where they are missing.

    A folder that an interrupted run left without its description is written anew.

    Args:
        config: "full" or "distill".
        data_dir: where TFDS datasets are; None for TFDS's own default.

    Raises:
        ValueError: there is no such config.
        OSError: the files cannot be written.
    """
    names = [known.name for known in GsmMini.BUILDER_CONFIGS]
    if config not in names:
        raise ValueError(f"unknown config gsm_mini/{config}: expected one of {names}")

    def builder() -> GsmMini:
        folder = None if data_dir is None else os.fspath(data_dir)
        return GsmMini(config=config, data_dir=folder, file_format=_FILE_FORMAT)

    found = builder()
    if _complete(found):
        return found
    path = Path(found.data_path)
    if path.exists():  # TFDS would take any folder of this name for the finished dataset
        shutil.rmtree(path)
    logging.info("generating gsm_mini/%s in %s", config, path)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            tfds.display_progress_bar(False)
            found.download_and_prepare(
                download_config=tfds.download.DownloadConfig(try_download_gcs=False)
            )
    except OSError:
        found = builder()  # another process may have been first
        if not _complete(found):
            raise
    return found


def _complete(builder: GsmMini) -> bool:
    """Whether the description and every file that it names are there."""
    if not (Path(builder.data_path) / "dataset_info.json").is_file():
        return False
    files = [path for split in builder.info.splits.values() for path in split.filepaths]
    return bool(files) and all(Path(path).is_file() for path in files)
