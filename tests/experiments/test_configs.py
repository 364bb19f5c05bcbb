from __future__ import annotations

import pathlib

import jax
import pytest

from cd4lm_jax.distillation.trainer import TrainConfig
from cd4lm_jax.evaluation.sweep import SweepConfig
from cd4lm_jax.model.config import llada_8b
from cd4lm_jax.model.folder import abstract_model
from cd4lm_jax.runtime.config import to_plain
from experiments.benchmarks import dscd_share, train_step
from experiments.configs import gsm_mini, gsm_mini_teacher
from launch.common import load_config

CONFIGS = pathlib.Path(__file__).parents[2] / "experiments" / "configs"


@pytest.mark.parametrize("name", sorted(path.stem for path in CONFIGS.glob("[!_]*.py")))
def test_every_config_loads_and_says_its_command(name: str) -> None:
    path = CONFIGS / f"{name}.py"
    kind = SweepConfig if name.endswith("_eval") else TrainConfig
    assert isinstance(load_config(str(path), kind), kind)
    assert f"--config=experiments/configs/{name}.py" in path.read_text()


def test_the_bundled_model_is_small_and_llada_8b_has_its_published_size() -> None:
    model = gsm_mini_teacher.get_config().model
    assert model is not None
    assert model.num_parameters <= 4_000_000
    # 8,015,581,184: counted from the 291 tensors of the published checkpoint.
    assert llada_8b().num_parameters == 8_015_581_184
    for config in (model, llada_8b()):
        leaves = jax.tree.leaves(abstract_model(config))
        assert sum(leaf.size for leaf in leaves) == config.num_parameters


def test_the_arms_of_dscd_share_differ_in_their_objective_alone(tmp_path: pathlib.Path) -> None:
    dscd, entropy, diffusion = (dscd_share.arm_config(arm, 1, tmp_path) for arm in dscd_share.ARMS)
    assert dscd.teacher is not None
    assert entropy.teacher is None
    assert diffusion.corruption.scheme == "diffusion"
    assert entropy.corruption == dscd.corruption
    free = {"output", "teacher", "curriculum", "corruption"}
    plain = [
        {name: value for name, value in to_plain(config).items() if name not in free}
        for config in (dscd, entropy, diffusion)
    ]
    assert plain[0] == plain[1] == plain[2]
    assert dscd.steps == gsm_mini.get_config().steps


def test_step_flops_counts_six_a_parameter_and_token() -> None:
    config = gsm_mini_teacher.get_config()
    assert config.model is not None
    tokens = config.data.batch_size * config.data.max_length
    model = config.model
    kernels = model.num_layers * model.embed_dim * (4 * 128 + 3 * model.mlp_dim)
    scores = model.num_layers * 2 * config.data.max_length * 128
    assert train_step.step_flops(config, 0) == 6 * tokens * (kernels + scores)
