"""Adapters of peft against logits that peft computed, and their folders."""

from __future__ import annotations

import json
import pathlib
import shutil
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

import cd4lm_jax as cd
from cd4lm_jax.checkpoints import conversion, peft
from cd4lm_jax.checkpoints.families import LLADA
from cd4lm_jax.checkpoints.loading import load_config, load_model
from cd4lm_jax.checkpoints.published_tensors import all_tensors
from cd4lm_jax.checkpoints.safetensors_files import read_header, write_file
from cd4lm_jax.commands import common, decode
from cd4lm_jax.models import lora
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.quantization import quantize
from cd4lm_jax.models.transformer import Transformer
from tests.tiny import forward, parameters

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
BASE, ADAPTERS = GOLDEN / "llada_tiny", GOLDEN / "llada_tiny_peft"
RECORDED = dict(np.load(ADAPTERS / "logits.npz"))
TOKENS = jnp.asarray(RECORDED["tokens"], jnp.int32)


def logits(model: Transformer) -> np.ndarray:
    return np.asarray(forward(model, TOKENS, jnp.ones(TOKENS.shape, bool)))


def agrees(found: np.ndarray, expected: np.ndarray) -> bool:
    return bool(np.abs(found - expected).max() < 1e-3 * np.abs(expected).max())


def copied(folder: pathlib.Path, **changes: Any) -> pathlib.Path:
    """The golden adapters with other settings."""
    shutil.copytree(ADAPTERS, folder)
    described = json.loads((ADAPTERS / peft.CONFIG_FILE).read_text()) | changes
    (folder / peft.CONFIG_FILE).write_text(json.dumps(described))
    return folder


def merged(folder: pathlib.Path) -> dict[str, np.ndarray]:
    return parameters(load_model(folder, base=BASE))


def test_computes_what_peft_does() -> None:
    model = load_model(ADAPTERS)  # names its base, which is beside it
    assert agrees(logits(model), RECORDED["logits"])
    assert not agrees(logits(model), RECORDED["base"])
    assert agrees(logits(load_model(BASE)), RECORDED["base"])
    assert load_config(ADAPTERS) == load_config(BASE)
    # `ff_out` is the name of the head, too.
    before, after = parameters(load_model(BASE)), parameters(model)
    assert np.array_equal(after["head"], before["head"])
    assert not np.array_equal(after["blocks.down"], before["blocks.down"])


def test_adapters_beside_weights_of_either_layout(tmp_path: pathlib.Path) -> None:
    published, own = tmp_path / "published", tmp_path / "own"
    shutil.copytree(BASE, published)
    conversion.convert(BASE, own)
    expected = merged(ADAPTERS)
    for folder in (published, own):
        for file in (peft.CONFIG_FILE, peft.WEIGHTS_FILE):
            shutil.copy(ADAPTERS / file, folder)
        found = parameters(load_model(folder))
        assert all(np.array_equal(found[name], leaf) for name, leaf in expected.items())
    with pytest.raises(ValueError, match="has peft adapters, which a conversion would leave out"):
        conversion.convert(published, tmp_path / "other")


def test_adapters_are_merged_before_quantisation() -> None:
    found = parameters(load_model(ADAPTERS, quantize="int4"))
    for name, leaf in parameters(quantize(load_model(ADAPTERS), "int4")).items():
        np.testing.assert_array_equal(found[name], leaf, err_msg=name)


def ours(seed: int = 0) -> tuple[LoraConfig, lora.Adapters]:
    config = LoraConfig(rank=3, alpha=7.5, targets=("query", "down"))
    fresh = lora.create(config, load_model(BASE), jax.random.key(0))
    rng = np.random.default_rng(seed)
    drawn = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), fresh)
    return config, jax.tree.map(jnp.asarray, drawn)


def test_what_is_written_is_read_again(tmp_path: pathlib.Path) -> None:
    config, adapters = ours()
    peft.write(tmp_path, config, adapters, load_config(BASE), str(BASE))
    expected = parameters(lora.merge(config, load_model(BASE), adapters))
    for name, leaf in parameters(load_model(tmp_path)).items():
        np.testing.assert_allclose(leaf, expected[name], rtol=1e-5, atol=1e-6, err_msg=name)
    described = json.loads((tmp_path / peft.CONFIG_FILE).read_text())
    matched = {
        t.name.removesuffix(".weight")
        for t in all_tensors(LLADA, load_config(BASE))
        if peft._targeted(t.name.removesuffix(".weight"), described)
    }
    written = read_header(tmp_path / peft.WEIGHTS_FILE)
    assert {f"base_model.model.{module}.lora_A.weight" for module in matched} < written.keys()
    assert len(written) == 2 * len(matched)


def difference(folder: pathlib.Path, name: str) -> np.ndarray:
    return merged(folder)[name] - parameters(load_model(BASE))[name]


def test_strength_by_module_and_by_root_of_the_rank(tmp_path: pathlib.Path) -> None:
    plain = {name: difference(ADAPTERS, f"blocks.{name}") for name in ("up", "down")}
    stronger = copied(tmp_path / "a", alpha_pattern={r"blocks\.1\.ff_out": 24, "up_proj": 6})
    down, up = (difference(stronger, f"blocks.{name}") for name in ("down", "up"))
    np.testing.assert_allclose(up, plain["up"] / 2, atol=1e-6)
    np.testing.assert_allclose(down[1], 2 * plain["down"][1], atol=1e-6)
    np.testing.assert_allclose(down[0], plain["down"][0], atol=1e-6)
    stabilised = copied(tmp_path / "b", use_rslora=True)  # rank 4: alpha / 2 instead of alpha / 4
    np.testing.assert_allclose(difference(stabilised, "blocks.up"), 2 * plain["up"], atol=1e-6)


def test_a_list_of_targets_holds_ends_of_names(tmp_path: pathlib.Path) -> None:
    names = ["q_proj", "k_proj", "v_proj", "attn_out", "ff_proj", "up_proj"]
    assert merged(copied(tmp_path / "a", target_modules=names)).keys()
    # `ff_out` names the head as well, of which the file has no adapters.
    with pytest.raises(ValueError, match=r"lacks adapters of model\.transformer\.ff_out"):
        merged(copied(tmp_path / "b", target_modules=[*names, "ff_out"]))


def without(part: str) -> Callable[[pathlib.Path], None]:
    """Leaves out what has this in its name."""

    def change(folder: pathlib.Path) -> None:
        file = folder / peft.WEIGHTS_FILE
        kept = {name: s for name, s in read_header(file).items() if part not in name}
        chunks = [s.rows(0, s.shape[0]) for s in kept.values()]
        shapes = {name: s.shape for name, s in kept.items()}
        write_file(folder / "new", shapes, np.dtype(np.float32), chunks)
        (folder / "new").rename(file)

    return change


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modules_to_save": ["wte"]}, r"modules_to_save is \['wte'\], which is not computed here"),
        ({"use_dora": True}, "use_dora is True"),
        ({"bias": "all"}, "bias is 'all'"),
        ({"peft_type": "IA3"}, "peft_type is 'IA3'"),
        ({"lora_alpha": None}, "expected positive numbers"),
        ({"base_model_name_or_path": "GSAI-ML/none"}, "no folder here; give its folder as base"),
    ],
)
def test_what_is_not_computed_is_refused(
    changes: dict[str, Any], message: str, tmp_path: pathlib.Path
) -> None:
    folder = copied(tmp_path / "a", **changes)
    named = "base_model_name_or_path" in changes
    with pytest.raises(ValueError, match=message):
        load_model(folder, base=None if named else BASE)


def test_files_that_lack_something_are_refused(tmp_path: pathlib.Path) -> None:
    for number, part in enumerate(("0.up_proj.lora_B", "1.q_proj")):
        folder = copied(tmp_path / str(number))
        without(part)(folder)
        with pytest.raises(ValueError, match="lacks adapters of"):
            load_model(folder, base=BASE)
    (folder / peft.WEIGHTS_FILE).unlink()
    with pytest.raises(ValueError, match=r"adapter_model\.safetensors is missing; fetch it"):
        load_model(folder, base=BASE)
    with pytest.raises(ValueError, match="is for adapters of peft"):
        load_model(BASE, base=BASE)
    for file in (peft.WEIGHTS_FILE, "adapter_model.bin"):  # beside a model, and no description
        beside = tmp_path / file
        shutil.copytree(BASE, beside)
        (beside / file).write_bytes(b"")
        with pytest.raises(ValueError, match=r"has peft adapters and no adapter_config\.json"):
            load_model(beside)
    own = tmp_path / "quantised"
    conversion.convert(BASE, own, quantize="int8")
    with pytest.raises(ValueError, match="quantised in int8, which adapters cannot be added to"):
        load_model(ADAPTERS, base=own)


def test_a_folder_of_adapters_is_a_model_wherever_one_is_loaded(tmp_path: pathlib.Path) -> None:
    expected = cd.load(ADAPTERS).fingerprint
    away = copied(tmp_path / "away", base_model_name_or_path="someone/llada_tiny")
    assert cd.load(away, base=BASE).fingerprint == expected
    with pytest.raises(ValueError, match="which is no folder here; give its folder as base"):
        cd.load(away)
    with pytest.raises(ValueError, match="is for adapters of peft"):
        cd.load(BASE, base=BASE)


@pytest.mark.slow
def test_the_commands_take_adapters_and_their_base(
    tmp_path: pathlib.Path, capsys: pytest.CaptureFixture[str]
) -> None:
    away = copied(tmp_path / "away", base_model_name_or_path="someone/llada_tiny")
    prompts, output = tmp_path / "prompts.jsonl", tmp_path / "out.jsonl"
    prompts.write_text('{"prompt_ids": [9, 8, 7]}')

    def decoded(*flags: str) -> str:
        argv = ["decode", f"--checkpoint={away}", f"--input={prompts}", f"--output={output}"]
        argv += ["--gen_length=8", "--block_length=8", "--rule=fixed(steps=4)", *flags]
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as raised:
            common.run(decode.main, argv=argv)
        return output.read_text() if raised.value.code == 0 else capsys.readouterr().err

    (row,) = map(json.loads, decoded(f"--base={BASE}").splitlines())
    options: dict[str, Any] = {"gen_length": 8, "block_length": 8, "rule": "fixed(steps=4)"}
    alone = cd.decode(cd.load(ADAPTERS), [[9, 8, 7]], **options)
    assert row["generated_ids"] == alone.trajectory.tokens[0].tolist()
    output.unlink()
    assert "give its folder as base" in decoded()
