r"""Random settings and files: each is accepted, or refused in one line; a traceback is a fault.

    python -m experiments.benchmarks.fuzz --inputs=100000

Settings as text and as JSON, commit rules as text, rows and prompts as JSONL, `config.json`,
`tokenizer_config.json`, safetensors headers and checkpoints of the bundled teacher are drawn by
hypothesis. Accepted settings must read back from their JSON as they are, and accepted descriptions
of models must describe something a model can be made of; what does not is counted as accepted but
wrong. It takes about ten minutes on two cores.
"""

from __future__ import annotations

import collections
import dataclasses
import json
import pathlib
import random
import shutil
import sys
import tempfile
import traceback
from collections.abc import Callable
from typing import Any

import hypothesis
from absl import app, flags
from hypothesis import strategies as st

from cd4lm_jax import bundled
from cd4lm_jax.checkpoints import huggingface, model_folder, safetensors_files
from cd4lm_jax.commands.config_files import load_config
from cd4lm_jax.data.prompts import read_prompts
from cd4lm_jax.data.sources import open_source
from cd4lm_jax.data.tokenizer import Tokenizer
from cd4lm_jax.decoding import rule
from cd4lm_jax.decoding.config import DecodeConfig
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.evaluation.sweep import SweepConfig
from cd4lm_jax.settings.config import config_from_json, config_to_json, describe, override
from experiments.benchmarks import results

_INPUTS = flags.DEFINE_integer("inputs", 100_000, "Inputs in all.", lower_bound=1_000)
_SEED = flags.DEFINE_integer("seed", 0, "Of what is drawn.")

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        ["0", "1", "-1", "1e400", "nan", "none", "true", "[1,2]", "(", "a(b=c)", "\ud800"]
    ),
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
    ),
    max_leaves=6,
)
Check = Callable[[Any], bool]
"""From an input to whether what was accepted is right; it raises where the input is refused."""


@dataclasses.dataclass
class Counts:
    """What came of the inputs of one kind."""

    inputs: int = 0
    accepted: int = 0
    accepted_but_wrong: int = 0
    tracebacks: int = 0


def tried(strategy: st.SearchStrategy[Any], check: Check, inputs: int, seed: int) -> Counts:
    """Draws so many inputs and counts what comes of them; the first fault is printed."""
    counts = Counts()

    @hypothesis.seed(seed)
    @hypothesis.settings(
        max_examples=inputs,
        database=None,
        deadline=None,
        phases=[hypothesis.Phase.generate],
        suppress_health_check=list(hypothesis.HealthCheck),
    )
    @hypothesis.given(strategy)
    def each(value: Any) -> None:
        counts.inputs += 1
        try:
            right = check(value)
        except (ValueError, TypeError, OSError) as error:
            one_line = "\n" not in str(error).strip()
            deliberate = isinstance(error, ValueError | OSError) and one_line
            if not deliberate and not counts.tracebacks:
                traceback.print_exc()
            counts.tracebacks += not deliberate
        except Exception:
            if not counts.tracebacks:
                traceback.print_exc()
            counts.tracebacks += 1
        else:
            counts.accepted += 1
            if not right and not counts.accepted_but_wrong:
                print(f"accepted but wrong: {value!r}"[:400], file=sys.stderr)
            counts.accepted_but_wrong += not right

    each()
    return counts


def same(config: Any) -> bool:
    """Whether settings read back from their JSON as they are."""
    text = config_to_json(config)
    return config_to_json(config_from_json(type(config), text)) == text


def settings_as_text(base: Any) -> tuple[st.SearchStrategy[Any], Check]:
    """Changes of some fields, as typed on a command line."""
    names = [name.removeprefix("config.") for name, _, _ in describe(type(base), base)]
    changes = st.dictionaries(
        st.sampled_from(names) | st.text(max_size=8), SCALARS.map(str), min_size=1, max_size=3
    )
    return changes, lambda given: same(override(base, given))


def settings_as_json(base: Any) -> tuple[st.SearchStrategy[Any], Check]:
    """The JSON of settings with some values replaced, at any depth."""
    plain = json.loads(config_to_json(base))

    def replaced(draws: tuple[int, list[Any]]) -> Any:
        seed, values = draws
        draw, data = random.Random(seed), json.loads(json.dumps(plain))
        for value in values:
            place, keys = data, list(data)
            key = draw.choice(keys)
            while isinstance(place[key], dict) and place[key] and draw.random() < 0.6:
                place = place[key]
                key = draw.choice(list(place))
            place[key] = value
        return data

    drawn = st.tuples(st.integers(0, 2**32), st.lists(VALUES, min_size=1, max_size=2)).map(replaced)

    def check(data: Any) -> bool:
        text = json.dumps(data)
        return same(config_from_json(type(base), text))

    return drawn, check


def rules() -> tuple[st.SearchStrategy[Any], Check]:
    """Commit rules in text."""
    known = [*rule.RULES.known(), "factor(factor", "nowhere.py:Half", "x:y", ""]
    fields = ["threshold", "factor", "bound", "steps", "min_tokens", "by", "share"]
    argument = st.tuples(st.sampled_from(fields) | st.text(max_size=5), SCALARS.map(str)).map(
        "=".join
    )
    call = st.tuples(st.sampled_from(known), st.lists(argument, max_size=3)).map(
        lambda it: f"{it[0]}({','.join(it[1])})"
    )

    def check(text: str) -> bool:
        found = DecodeConfig(rule=text, gen_length=64, block_length=32)  # type: ignore[arg-type]
        return same(found) and bool(found.label)

    return call | st.text(max_size=20), check


def files(path: pathlib.Path, whole: bytes, read: Callable[[], bool]) -> tuple[Any, Check]:
    """A file of JSON with values replaced, of bytes changed, or of anything."""
    data = json.loads(whole)
    keys = [*data, "extra", "rope_parameters", "head_dim", "architectures", "added_tokens_decoder"]
    fields = st.dictionaries(st.sampled_from(keys), VALUES, min_size=1, max_size=3)
    changed = fields.map(lambda it: json.dumps({**data, **it}).encode("utf-8", "replace"))
    return changed | bytes_of(whole) | st.binary(max_size=40), lambda it: written(path, it, read)


def bytes_of(whole: bytes) -> st.SearchStrategy[bytes]:
    """A file with a few bytes replaced, or cut short."""

    def damaged(draws: tuple[list[tuple[int, int]], int]) -> bytes:
        changes, cut = draws
        text = bytearray(whole)
        for place, value in changes:
            text[place % len(text)] = value
        return bytes(text[: cut % len(text)] if cut % 4 == 0 else text)

    places = st.lists(st.tuples(st.integers(0, 2**31), st.integers(0, 255)), min_size=1, max_size=4)
    return st.tuples(places, st.integers(0, 2**31)).map(damaged)


def written(path: pathlib.Path, content: bytes, read: Callable[[], bool]) -> bool:
    """Writes a file and reads it."""
    path.write_bytes(content)
    return read()


def rows(path: pathlib.Path, read: Callable[[], bool]) -> tuple[Any, Check]:
    """Lines of JSON, some with the fields of rows."""
    names = [
        "question",
        "answer",
        "prompt",
        "completion",
        "messages",
        "conversations",
        "prompt_ids",
    ]
    names += ["instruction", "output", "given_ids", "id", "role", "content"]
    row = st.dictionaries(st.sampled_from(names), VALUES, max_size=4)
    lines = st.lists(row | VALUES, min_size=1, max_size=4)
    text = lines.map(lambda it: "\n".join(map(json.dumps, it)).encode("utf-8", "replace"))
    return text | st.binary(max_size=60), lambda it: written(path, it, read)


def kinds(folder: pathlib.Path) -> dict[str, tuple[float, tuple[Any, Check]]]:
    """Each kind's share of the inputs, and how it is drawn and checked."""
    teacher = pathlib.Path(bundled.teacher())
    golden = pathlib.Path("tests/golden/llada_tiny")
    own, published, tokens = folder / "own", folder / "published", folder / "tokens"
    for target in (own, tokens):
        shutil.copytree(teacher, target)
    shutil.copytree(golden, published)
    jsonl, header = folder / "rows.jsonl", folder / "model.safetensors"
    shard = next(iter(sorted(golden.glob("*.safetensors")))).read_bytes()
    end = 8 + int.from_bytes(shard[:8], "little")

    def model_config(read: Callable[[Any], Any], where: pathlib.Path) -> Callable[[], bool]:
        return lambda: read(where).num_parameters > 0

    def tokenizer() -> bool:
        found = Tokenizer.load(tokens)
        return found.decode(found.encode("How many?")) == "How many?"

    params = next(
        path for path in sorted((own / "params").rglob("*")) if path.stat().st_size > 10_000
    )
    whole = params.read_bytes()

    def checkpoint() -> bool:
        try:
            model_folder.read_model(own)
        finally:
            params.write_bytes(whole)
        return False  # a damaged file was taken

    train = load_config("gsm_mini", TrainConfig)
    sweep = load_config("gsm_mini_eval", SweepConfig)
    return {
        "settings of training as text": (0.17, settings_as_text(train)),
        "settings of an evaluation as text": (0.12, settings_as_text(sweep)),
        "settings of a decode as text": (0.12, settings_as_text(DecodeConfig())),
        "settings as JSON": (0.12, settings_as_json(train)),
        "decodes as JSON": (0.1, settings_as_json(DecodeConfig())),
        "commit rules": (0.12, rules()),
        "rows": (0.08, rows(jsonl, lambda: len(open_source(str(jsonl), "train")) >= 0)),
        "prompts": (0.06, rows(jsonl, lambda: len(read_prompts(jsonl)) > 0)),
        "config.json, published": (
            0.04,
            files(
                published / "config.json",
                (published / "config.json").read_bytes(),
                model_config(huggingface.read_config, published),
            ),
        ),
        "config.json": (
            0.03,
            files(
                own / "config.json",
                (own / "config.json").read_bytes(),
                model_config(model_folder.read_config, own),
            ),
        ),
        "tokenizer_config.json": (
            0.02,
            files(
                tokens / "tokenizer_config.json",
                (tokens / "tokenizer_config.json").read_bytes(),
                tokenizer,
            ),
        ),
        "safetensors headers": (
            0.019,
            (
                bytes_of(shard[:end]).map(lambda head: head + shard[end:]),
                lambda it: written(
                    header, it, lambda: len(safetensors_files.read_header(header)) >= 0
                ),
            ),
        ),
        "checkpoints": (
            0.001,
            (
                bytes_of(whole).filter(lambda it: it != whole),
                lambda it: written(params, it, checkpoint),
            ),
        ),
    }


def main(argv: list[str]) -> None:
    """Draws, counts, writes."""
    del argv
    found: dict[str, Counts] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (share, (strategy, check)) in kinds(pathlib.Path(folder)).items():
            found[name] = tried(strategy, check, int(share * _INPUTS.value) + 1, _SEED.value)
            print(f"{name}: {dataclasses.asdict(found[name])}", flush=True)
    total: collections.Counter[str] = collections.Counter()
    for counts in found.values():
        total.update(dataclasses.asdict(counts))
    metrics = {name: float(total[name]) for name in ("inputs", "tracebacks", "accepted_but_wrong")}
    kinds_found = {name: dataclasses.asdict(counts) for name, counts in found.items()}
    print(results.write("fuzz", metrics, accepted=total["accepted"], kinds=kinds_found))


if __name__ == "__main__":
    app.run(main)
