"""A file of prompts, decoded a chunk at a time and written as it goes.

OUTPUT                        a line a prompt, once all are decoded
OUTPUT.journal/lines.jsonl    those decoded so far; an interrupted decode continues there
OUTPUT.journal/run.json       the settings that the lines follow from
"""

from __future__ import annotations

import contextlib
import json
import os
import pathlib
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from cd4lm_jax.data.prompts import PromptRecord
from cd4lm_jax.decoding import queues
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.decoding.on_mesh import mesh_of
from cd4lm_jax.decoding.trajectory import Trajectory
from cd4lm_jax.evaluation.runs.chunks import ChunkedLines, differences
from cd4lm_jax.language_model import Decoded, LanguageModel, decode
from cd4lm_jax.runtime import checksums, cluster, files
from cd4lm_jax.settings.config import to_plain

LINES_FILE, RUN_FILE = "lines.jsonl", "run.json"


class DecodesError(ValueError):
    """A journal that holds another decode."""


@contextlib.contextmanager
def journal_of(target: str | os.PathLike[str]) -> Iterator[pathlib.Path]:
    """Holds the journal's folder of an output; where nothing was decoded it leaves none behind.

    Raises:
        InUseError: another process decodes to that output.
        IsADirectoryError: the output is a folder.
    """
    path = pathlib.Path(target)
    if path.is_dir():
        raise IsADirectoryError(
            f"{path} is a folder; give --output a file, such as {path}/out.jsonl"
        )
    folder = path.with_name(f"{path.name}.journal")
    with cluster.held(folder):
        try:
            yield folder
        finally:
            # Of other hosts none may look: the main one may be moving the lines at this moment.
            if cluster.is_main() and not _begun(folder):
                shutil.rmtree(folder, ignore_errors=True)


def _begun(folder: pathlib.Path) -> bool:
    lines = folder / LINES_FILE
    return (lines.exists() and lines.stat().st_size > 0) or any(folder.glob("*.parts/*"))


def decode_file(
    model: LanguageModel,
    rows: Sequence[PromptRecord],
    config: DecodeConfig,
    target: str | os.PathLike[str],
    folder: pathlib.Path,
    *,
    chunk: int,
    report: Callable[[int], None],
) -> Decoded:
    """Decodes prompts into a file; continues what was interrupted; several hosts share the chunks.

    Args:
        model: from `cd4lm_jax.load`.
        rows: the prompts.
        config: how.
        target: the file of lines to write.
        folder: its journal, from `journal_of`.
        chunk: prompts that are decoded together and then written.
        report: called every few passes with the number of prompts that are decoded.

    Returns:
        All rows; `seconds` are those of this process since this start.

    Raises:
        DecodesError: the journal holds a decode of other settings.
        ValueError: prompts or lengths that do not fit the model.
    """
    ids = [model.prompt_ids(row.prompt) for row in rows]
    given = [row.given_ids for row in rows]
    queues.check(model.transformer, ids, given, config.shape(model.transformer.config))
    _settle(folder, _settings(model, ids, rows, config, chunk))
    lines = ChunkedLines(folder / LINES_FILE, total=len(rows), chunk=chunk)
    mesh = mesh_of(model.transformer)
    together = mesh is not None and mesh.is_multi_process
    done, seconds = lines.count, 0.0
    for number in lines.missing(together=together):
        some = slice(number * chunk, (number + 1) * chunk)
        decoded = decode(
            model,
            ids[some],
            config,
            given=given[some],
            first=some.start,
            report=lambda finished, before=done: report(before + finished),  # type: ignore[misc]
        )
        seconds += decoded.seconds
        done += len(decoded.nfe)
        if cluster.is_main() or not together:
            lines.append(number, _lines(rows[some], decoded))
    lines.gather()
    found = [json.loads(line) for line in lines.path.read_bytes().splitlines()]
    if done < len(found):
        report(len(found))  # with those of other hosts
    cluster.meet("decode read")  # before the journal is removed
    if cluster.is_main():
        os.replace(lines.path, target)
        shutil.rmtree(folder)
    return Decoded(
        trajectory=Trajectory.from_json(line | {"tokens": line["generated_ids"]} for line in found),
        seconds=seconds,
        tokenizer=model.tokenizer,
        prompts=[row.prompt for row in rows],
    )


def _lines(rows: Sequence[PromptRecord], decoded: Decoded) -> list[str]:
    lines = []
    for number, (row, record) in enumerate(zip(rows, decoded.trajectory.to_json(), strict=True)):
        line = {"id": row.id, "generated_ids": record["tokens"]}
        if decoded.tokenizer is not None:
            line["text"] = decoded.text[number]
        names = ("length", "nfe", "committed_at", "confidence", "reason")
        lines.append(json.dumps(line | {name: record[name] for name in names}, ensure_ascii=False))
    return lines


def _settings(
    model: LanguageModel,
    ids: Sequence[Sequence[int]],
    rows: Sequence[PromptRecord],
    config: DecodeConfig,
    chunk: int,
) -> dict[str, Any]:
    """What the lines follow from, flat, so that a difference is named."""
    asked = [[row.id, prompt, row.given_ids] for row, prompt in zip(rows, ids, strict=True)]
    return {
        "model": model.fingerprint,
        "dtype": model.transformer.execution.dtype,
        "prompts": checksums.of_json(asked),
        **to_plain(config),
        "rule_source": config.fingerprint,
        "chunk": chunk,
    }


def _settle(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes the settings, or compares them with those that the journal was begun with."""
    file = folder / RUN_FILE
    if cluster.is_main() and not file.exists():
        files.write_text(file, json.dumps(settings, indent=2) + "\n")
    cluster.meet("settings written")
    saved = json.loads(file.read_text(encoding="utf-8"))
    if different := differences(settings, saved):
        raise DecodesError(
            f"{folder} holds a decode of other settings ({', '.join(different)} differ); give "
            "another output, or remove that folder"
        )
