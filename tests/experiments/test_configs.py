from __future__ import annotations

import dataclasses
import pathlib

import jax
import pytest

from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.commands.config_files import load_config
from cd4lm_jax.corruption.masking import DiffusionMasks, NestedMasks
from cd4lm_jax.distillation.config import TrainConfig
from cd4lm_jax.distillation.objective import Objective
from cd4lm_jax.evaluation.answers import AnswersConfig
from cd4lm_jax.evaluation.output import EvaluationConfig
from cd4lm_jax.models.config import llada_8b
from experiments.benchmarks import ablations, dscd_share, train_step
from experiments.configs import gsm_mini, gsm_mini_teacher, llada_8b_gsm8k, llada_8b_paper

CONFIGS = pathlib.Path(__file__).parents[2] / "experiments" / "configs"


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("[!_]*.py")))
def test_every_config_loads_and_says_its_command(name: str) -> None:
    words = (CONFIGS / f"{name}.py").read_text().split()
    command = words[words.index(f"--config={name}") - 1]
    kinds = {"evaluate": EvaluationConfig, "answer": AnswersConfig}
    kind = kinds.get(command, TrainConfig)
    assert isinstance(load_config(name, kind), kind)


def test_the_bundled_model_is_small_and_llada_8b_has_its_published_size() -> None:
    model = gsm_mini_teacher.get_config().model
    assert model is not None
    assert model.num_parameters <= 4_000_000
    # 8,015,581,184: counted from the 291 tensors of the published checkpoint.
    assert llada_8b().num_parameters == 8_015_581_184
    for config in (model, llada_8b()):
        leaves = jax.tree.leaves(abstract_model(config))
        assert sum(leaf.size for leaf in leaves) == config.num_parameters


def test_the_variants_of_dscd_share_cost_the_same_and_differ_in_their_objective(
    tmp_path: pathlib.Path,
) -> None:
    configs = {
        name: ablations.run(name, change, 1, tmp_path)
        for name, change in dscd_share.VARIANTS.items()
    }
    recipe = gsm_mini.get_config()
    for name, config in configs.items():
        assert config.steps == recipe.steps
        text = "gsm_mini/distill" if name == "published" else recipe.data.source
        assert (config.data.source, config.data.seed, config.seed) == (text, 1, 1)
        assert len(config.data.open()) in (7473, 7424)  # asked, answered right
        assert config.data.batch_size == recipe.data.batch_size
        assert config.optimizer == recipe.optimizer
        assert (config.init, config.execution) == (recipe.init, recipe.execution)
    dscd, alone = configs["dscd"], configs["cross_entropy"]
    assert dscd.corruption == recipe.corruption == alone.corruption
    assert dscd.objective == recipe.objective == alone.objective
    assert (dscd.teacher, alone.teacher) == (recipe.teacher, None)
    # As the paper has it.
    published = configs["published"]
    assert published.teacher == recipe.teacher
    assert published.corruption == NestedMasks(student_ratio=(0.4, 0.9), blockwise=0)
    assert published.objective == Objective(temperature=2.0, visible="teacher", entropy_weight=0.0)
    assert (published.curriculum.initial, published.curriculum.final) == (0.9, 0.5)
    assert configs["diffusion"].corruption == DiffusionMasks()
    assert configs["diffusion"].teacher is None


def test_the_papers_recipe_differs_from_ours_in_rows_weights_and_warm_up() -> None:
    ours, paper = llada_8b_gsm8k.get_config(), llada_8b_paper.get_config()
    assert (ours.data.layout, ours.micro_batch, ours.optimizer.warmup) == ("chat", 0, "linear")
    assert {paper.data.layout, paper.validation.layout} == {"plain"}
    assert (paper.micro_batch, paper.optimizer.warmup) == (2, "logarithmic")
    back = dataclasses.replace(
        paper,
        output=ours.output,
        micro_batch=0,
        optimizer=ours.optimizer,
        data=ours.data,
        validation=ours.validation,
    )
    assert back == ours
    # The rest is the published loss and its masks, by default.
    assert (paper.corruption, paper.objective) == (NestedMasks(), Objective())


def test_step_flops_counts_six_a_parameter_and_token() -> None:
    config = gsm_mini_teacher.get_config()
    assert config.model is not None
    tokens = config.data.batch_size * config.data.max_length
    model = config.model
    kernels = model.num_layers * model.embed_dim * (4 * 128 + 3 * model.mlp_dim)
    scores = model.num_layers * 2 * config.data.max_length * 128
    assert train_step.step_flops(config, 0) == 6 * tokens * (kernels + scores)
