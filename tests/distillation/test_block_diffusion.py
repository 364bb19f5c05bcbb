"""Training of models that attend by blocks: the loss that was recorded, and runs of the trainer."""

from __future__ import annotations

import dataclasses
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import cd4lm_jax as cd
from cd4lm_jax.checkpoints import huggingface
from cd4lm_jax.checkpoints.model_folder import read_model, write_model
from cd4lm_jax.corruption.masking import DiffusionMasks, NestedMasks
from cd4lm_jax.corruption.views import Batch, Views
from cd4lm_jax.distillation import trainer
from cd4lm_jax.distillation.config import TrainConfig, TrainingError
from cd4lm_jax.distillation.curriculum import LambdaCurriculum
from cd4lm_jax.distillation.learner import Learner
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.distillation.optimizer import OptimizerConfig
from cd4lm_jax.distillation.rollout import Rollout
from cd4lm_jax.distillation.selection import ByDecoding
from cd4lm_jax.distillation.trainer import train
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.lora import LoraConfig
from cd4lm_jax.models.transformer import Execution, Transformer
from cd4lm_jax.runtime.metrics import read_jsonl
from cd4lm_jax.runtime.progress import Progress
from tests import crashes, pens
from tests.tiny import TINY, model_of, parameters, tiny_model

BLOCKS: dict[str, Any] = {"attention": "block", "block_length": 4, "blocks": "sequence"}
pytestmark = pytest.mark.usefixtures("compiled_once")

EXECUTION = Execution(scan_layers=False)
LEARNER = Learner(
    corruption=NestedMasks(),
    objective=Objective(),
    curriculum=LambdaCurriculum(),
    optimizer=OptimizerConfig(learning_rate=1e-2, warmup_steps=1),
    total_steps=10,
    seed=0,
)


def recorded(gradient: dict[str, np.ndarray], name: str) -> np.ndarray:
    """Of our gradients, the one that the recording has under torch's name, in its layout."""
    kinds = {"q_proj": "query", "k_norm": "key_norm", "down_proj": "down"}
    if name == "model.embed_tokens.weight":
        return gradient["embedding"]
    _, _, layer, _, kind, _ = name.split(".")
    return gradient[f"blocks.{kinds[kind]}"][int(layer)].T


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["llama", "qwen3"])
def test_computes_the_recorded_losses_and_gradients(golden: pathlib.Path, kind: str) -> None:
    start = f"bd_loss/{kind}/"
    with np.load(golden / "families" / "families.npz") as arrays:
        case = {name.removeprefix(start): arrays[name] for name in arrays if name.startswith(start)}
    read = huggingface.read_model(golden / "families" / kind)
    config = dataclasses.replace(read.config, **BLOCKS, mask_id=210, alignment="same")
    model = model_of(config, parameters(read), EXECUTION)
    answer, masked, t = (jnp.asarray(case[name]) for name in ("answer", "masked", "t"))
    tokens = jnp.asarray(case["tokens"], jnp.int32)
    batch = Batch(tokens, jnp.ones_like(answer), answer, jnp.arange(len(tokens)))
    noisy = jnp.where(masked, config.mask_id, tokens)

    def loss(model: Transformer, weight: jax.Array) -> jax.Array:
        views = Views(tokens, masked, None, weight, answer.sum(axis=1))
        return LEARNER.loss(model, None, batch, views, 0.0).total

    @jax.jit
    def computed(model: Transformer) -> Any:
        logits = model.logits(model.noisy_hidden(noisy, tokens, batch.valid))
        uniform = masked / answer.sum()
        weighted = jax.value_and_grad(loss)(model, uniform / t[:, None])
        return logits, loss(model, uniform), *weighted

    logits, uniform, weighted, gradient = computed(model)
    scale = np.abs(case["logits_noisy"]).max()
    np.testing.assert_allclose(logits, case["logits_noisy"], atol=2e-6 * scale)
    np.testing.assert_allclose(uniform, case["loss_uniform"], rtol=1e-6)
    np.testing.assert_allclose(weighted, case["loss_weighted"], rtol=1e-6)
    found = parameters(gradient)
    names = [name.removeprefix("grad/") for name in case if name.startswith("grad/")]
    assert len(names) >= 3
    for name in names:
        expected = case[f"grad/{name}"]
        atol = 1e-5 * np.abs(expected).max()
        np.testing.assert_allclose(recorded(found, name), expected, atol=atol, err_msg=name)


def batch(padding: tuple[int, int] = (0, 0)) -> Batch:
    """Rows of 6 prompt and 12 answer tokens, with junk as padding on either side."""
    rng = np.random.default_rng(0)
    answer = np.tile(np.arange(18) >= 6, (4, 1))
    pad = ((0, 0), padding)
    return Batch(
        tokens=jnp.asarray(np.pad(rng.integers(0, 37, (4, 18)), pad, constant_values=5)),
        valid=jnp.asarray(np.pad(np.ones_like(answer), pad)),
        answer=jnp.asarray(np.pad(answer, pad)),
        index=jnp.arange(4) + 10,
    )


@pytest.mark.slow
def test_neither_padding_nor_parts_change_loss_and_gradient() -> None:
    small = dataclasses.replace(TINY, **BLOCKS, num_layers=1)
    student, teacher = (tiny_model(small, EXECUTION, seed=seed) for seed in (0, 1))
    results = []
    for rows, parts in ((batch(), 1), (batch(padding=(3, 6)), 1), (batch(), 2)):
        compute = jax.jit(dataclasses.replace(LEARNER, accumulate=parts).loss_and_gradient)
        results.append(compute(student, teacher, rows, jax.random.key(7), jnp.float32(0.7)))
    (terms, gradient), *others = results
    assert terms.kl > 0.1
    for same_terms, same in others:
        np.testing.assert_allclose(same_terms, terms, rtol=1e-5)
        for name, leaf in parameters(same).items():
            expected = parameters(gradient)[name]
            np.testing.assert_allclose(leaf, expected, atol=1e-5, err_msg=name)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Eight problems to learn by heart, in blocks of 4."""
    folder = tmp_path_factory.mktemp("blocks")
    return dataclasses.replace(
        pens.config(folder),
        model=dataclasses.replace(pens.MODEL, **BLOCKS),
        steps=100,
        eval_every=50,
    )


@pytest.fixture(scope="module")
def finished(config: TrainConfig) -> pathlib.Path:
    """The folder of a model that was trained without a stop."""
    return train(config).folder


@pytest.mark.slow
def test_a_model_learns_its_answers_and_decodes_them(
    config: TrainConfig, finished: pathlib.Path
) -> None:
    model = cd.load(finished)
    assert model.transformer.config == config.model
    rows = config.data.open()
    asked = [rows[place] for place in range(len(rows))]
    decoded = cd.decode(model, [row["question"] for row in asked], gen_length=16)
    assert decoded.text == [row["answer"] for row in asked]


@pytest.mark.slow
def test_a_stopped_run_continues_to_the_same_parameters(
    config: TrainConfig,
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class PowerCut(Exception):
        pass

    class UntilPowerCut(Progress):
        def update(self, step: int, terms: Any = None) -> None:
            if step == 75:
                raise PowerCut

    other = dataclasses.replace(config, output=str(tmp_path / "run"))
    with monkeypatch.context() as patch, pytest.raises(PowerCut):
        patch.setattr(trainer, "Progress", UntilPowerCut)
        train(other)
    train(other)
    expected = parameters(read_model(finished))
    for name, leaf in crashes.exported(other).items():
        np.testing.assert_array_equal(leaf, expected[name], err_msg=name)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("states", "lora"),
    [(NestedMasks(), LoraConfig(rank=2)), (Rollout(block_length=4), None)],
    ids=["masks, adapters", "rollout, whole"],
)
def test_distils_itself(
    config: TrainConfig,
    finished: pathlib.Path,
    tmp_path: pathlib.Path,
    states: NestedMasks | Rollout,
    lora: LoraConfig | None,
) -> None:
    folder = str(finished)
    run = dataclasses.replace(
        config,
        output=str(tmp_path / "run"),
        steps=4,
        model=None,
        tokenizer=None,
        init=folder,
        teacher=folder,
        lora=lora,
        corruption=states,
        optimizer=dataclasses.replace(config.optimizer, warmup_steps=1),
        log_every=1,
        eval_every=4,
    )
    result = train(run)
    updates = [row for row in read_jsonl(tmp_path / "run" / "metrics.jsonl") if "kl" in row]
    assert len(updates) == 4
    # The teacher is shown more than the student, so the two differ from the start.
    assert all(row["kl"] > 0 for row in updates)
    assert read_model(result.folder).config == config.model


@pytest.mark.parametrize(
    ("model", "changes", "message"),
    [
        ({"blocks": "generation"}, {}, "count from the start of the generation, which training"),
        ({}, {"corruption": DiffusionMasks(blockwise=0.2)}, "blockwise=0.2 masks what follows"),
        (
            {},
            {"corruption": Rollout(block_length=8)},
            "corruption.block_length=8, and the model attends by blocks of 4; give corruption.bl",
        ),
        (
            {},
            {"selection": ByDecoding(prompts=4, max_passes=4.0)},
            "selection.decode.block_length=32, and the model attends by blocks of 4; give",
        ),
    ],
)
def test_what_does_not_fit_the_blocks_is_refused(
    config: TrainConfig, model: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    assert config.model is not None
    other = dataclasses.replace(config.model, **model)
    with pytest.raises(TrainingError, match=message):
        train(dataclasses.replace(config, output="runs/nowhere", model=other, **changes))
    assert not pathlib.Path("runs/nowhere").exists()


@pytest.mark.parametrize(
    ("teacher", "message"),
    [
        ({"block_length": 8}, "attends by blocks of 8, the student by blocks of 4; a teacher must"),
        ({"attention": "full"}, "attends without blocks, the student by blocks of 4; a teacher"),
    ],
)
def test_a_teacher_of_other_blocks_is_refused(
    config: TrainConfig, tmp_path: pathlib.Path, teacher: dict[str, Any], message: str
) -> None:
    assert config.model is not None
    other: ModelConfig = dataclasses.replace(config.model, **teacher)
    write_model(tmp_path / "teacher", tiny_model(other))
    run = dataclasses.replace(config, teacher=str(tmp_path / "teacher"), corruption=NestedMasks())
    with pytest.raises(TrainingError, match=message):
        train(run)
