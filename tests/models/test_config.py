from __future__ import annotations

import dataclasses
from typing import Any

import jax
import pytest

from cd4lm_jax.checkpoints.model_folder import abstract_model
from cd4lm_jax.data.gsm_mini import vocabulary
from cd4lm_jax.models.config import NO_MASK, ModelConfig, gsm_mini, llada_8b
from cd4lm_jax.settings.config import config_from_json, config_to_json
from tests.tiny import TINY


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_kv_heads": 4},
        {"qkv_bias": True},
        {"tie_head": True},
        {"num_layers": 3, "mlp_dim": 20, "head_dim": 6},
        {"qk_norm": True, "head_dim": 6},
    ],
)
def test_counts_the_parameters_that_there_are(changes: dict[str, Any]) -> None:
    config = dataclasses.replace(TINY, **changes)
    leaves = jax.tree.leaves(abstract_model(config))
    assert config.num_parameters == sum(leaf.size for leaf in leaves)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_kv_heads": 3}, "num_heads=4 is not a multiple of num_kv_heads=3"),
        ({"head_dim": 7}, "head_dim=7 is odd"),
        ({"mask_id": 40}, "mask_id=40 is outside the vocabulary of 40 tokens"),
        ({"eos_id": -1}, "eos_id=-1 is outside"),
        ({"end_ids": (38, 99)}, r"end_ids\[1\]=99 is outside"),
        ({"mask_id": 38}, "mask_id=38 is also an end token"),
        ({"mask_id": 37}, "mask_id=37 is also an end token"),
        ({"num_layers": 0}, "num_layers=0; give 1 or more"),
        ({"num_kv_heads": 0}, "num_kv_heads=0; give 1 or more"),
        ({"mask_id": -2}, "mask_id=-2 is outside the vocabulary"),
        ({"rotary_dim": 3}, "rotary_dim=3; give an even number up to head_dim=8"),
        ({"rotary_dim": 10}, "rotary_dim=10; give an even number up to head_dim=8"),
        ({"attention": "sliding"}, "attention='sliding' is unknown; give one of full, block, "),
        ({"blocks": "prompt"}, "blocks='prompt' is unknown; give one of generation, sequence"),
        ({"attention": "block"}, "block_length=0 with attention='block'; give the block that"),
        ({"block_length": -1}, "block_length=-1 with attention='full'"),
    ],
)
def test_says_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        dataclasses.replace(TINY, **changes)
    assert "\n" not in str(error.value)


def test_a_model_without_a_mask_token_is_no_diffusion_model() -> None:
    TINY.check_mask()
    with pytest.raises(ValueError, match=r"no mask token: .* `cd4lm convert --diffusion=block"):
        dataclasses.replace(TINY, mask_id=NO_MASK).check_mask()


def test_the_demonstration_model_fits_its_tokenizer_and_its_budget() -> None:
    tokenizer = vocabulary.load()
    config = gsm_mini(
        vocab_size=tokenizer.vocab_size,
        mask_id=tokenizer.mask_id,
        eos_id=tokenizer.eos_id,
        eot_id=tokenizer.eot_id,
    )
    assert config.end_ids == (tokenizer.eos_id, tokenizer.eot_id)
    assert config.num_parameters <= 4_000_000


def test_a_preset_can_be_changed() -> None:
    config = gsm_mini(vocab_size=9, mask_id=8, eos_id=7, eot_id=6, num_layers=2, tie_head=True)
    assert (config.num_layers, config.tie_head, config.vocab_size) == (2, True, 9)


def test_llada_8b_is_the_published_size() -> None:
    assert llada_8b().num_parameters == 8_015_581_184


@pytest.mark.parametrize("config", [TINY, llada_8b()])
def test_survives_json(config: ModelConfig) -> None:
    assert config_from_json(ModelConfig, config_to_json(config)) == config
