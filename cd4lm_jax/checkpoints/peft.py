"""LoRA adapters in folders of Hugging Face's peft: read, merged while their base is, written.

`adapter_config.json` says how strongly adapters work, `adapter_model.safetensors` which modules
have some: a tensor is named after its module. What `target_modules` matches must be there, by
peft's own rule: a text is a regular expression of the whole name, a list holds ends of names.
(`ff_out` of LLaDA ends the names of the MLP's output and of the head.)
"""

from __future__ import annotations

import json
import math
import os
import pathlib
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from cd4lm_jax.checkpoints import published_tensors
from cd4lm_jax.checkpoints.adapters import PeftAdapters
from cd4lm_jax.checkpoints.families import family_for
from cd4lm_jax.checkpoints.family import HuggingFaceError
from cd4lm_jax.checkpoints.model_folder import PARAMS_FOLDER
from cd4lm_jax.checkpoints.safetensors_files import DTYPES, Stored, read_header, write_file
from cd4lm_jax.models.config import ModelConfig
from cd4lm_jax.models.lora import Adapters, LoraConfig
from cd4lm_jax.runtime import files

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
FILES = (CONFIG_FILE, WEIGHTS_FILE, "adapter_model.bin")
_PREFIX = "base_model.model."
_TENSOR = re.compile(
    re.escape(_PREFIX) + r"(?P<module>.+)\.lora_(?P<factor>[AB])(\.default)?\.weight"
)

_OFF = (
    "use_dora",
    "lora_bias",
    "modules_to_save",
    "fan_in_fan_out",
    "trainable_token_indices",
    "layer_replication",
    "target_parameters",
    "alora_invocation_tokens",
    "arrow_config",
    "megatron_config",
    "use_qalora",
    "use_bdlora",
)
"""Fields that change what is computed, or add weights; where one is set the folder is refused."""


def lies_in(folder: str | os.PathLike[str]) -> bool:
    """Whether a folder has adapters."""
    return any((pathlib.Path(folder) / name).is_file() for name in FILES)


def base_of(folder: str | os.PathLike[str]) -> pathlib.Path:
    """The folder of the model that adapters are of: this one, or the one that they name.

    Raises:
        HuggingFaceError: there are no weights beside them, and the model they name is no folder.
    """
    path = pathlib.Path(folder)
    beside = any(file.name != WEIGHTS_FILE for file in path.glob("*.safetensors"))
    if beside or (path / PARAMS_FOLDER).is_dir():
        return path
    named = _description(path).get("base_model_name_or_path")
    for base in (pathlib.Path(named or ""), path / (named or ""), path.parent / (named or "")):
        if named and base.is_dir() and not base.samefile(path):
            return base
    raise HuggingFaceError(
        f"{path} has peft adapters of {named!r}, which is no folder here; give its folder as base, "
        f"or write it into {CONFIG_FILE} as base_model_name_or_path"
    )


def read(folder: str | os.PathLike[str], config: ModelConfig) -> PeftAdapters:
    """The adapters in a folder; weights are read when they are merged.

    Args:
        folder: has `adapter_config.json`.
        config: of the base.

    Raises:
        HuggingFaceError: adapters of another kind, of another model, or not all of them.
        TensorFileError: a file that is damaged.
    """
    path = pathlib.Path(folder)
    described = _description(path)
    _check(described, path)
    if not (path / WEIGHTS_FILE).is_file():
        raise HuggingFaceError(
            f"{path / WEIGHTS_FILE} is missing; fetch it (adapters in adapter_model.bin are not "
            "read: save them again with a newer peft)"
        )
    places = _modules(config)
    pairs: dict[str, dict[str, Stored]] = {}
    for name, stored in read_header(path / WEIGHTS_FILE).items():
        found = _TENSOR.fullmatch(name)
        if found is None or found["module"] not in places or stored.kind not in DTYPES:
            raise HuggingFaceError(
                f"{path / WEIGHTS_FILE}: {name!r} ({stored.kind}) is no adapter of a linear layer "
                "of this model; give the base that the adapters were trained on"
            )
        pairs.setdefault(found["module"], {})[found["factor"]] = stored
    wanted = {module for module in places if _targeted(module, described)}
    for module in sorted(wanted | pairs.keys()):
        if set(pairs.get(module, ())) != {"A", "B"}:
            raise HuggingFaceError(
                f"{path / WEIGHTS_FILE} lacks adapters of {module}, which target_modules names; "
                "fetch it again"
            )
    factors = {}
    for module, pair in pairs.items():
        tensor, a, b = places[module], pair["A"], pair["B"]
        fan_out, fan_in = tensor.shape
        if (a.shape[1:], b.shape[:1], b.shape[1:]) != ((fan_in,), (fan_out,), a.shape[:1]):
            raise HuggingFaceError(
                f"{path / WEIGHTS_FILE}: adapters of {module} have shapes {a.shape} and {b.shape}; "
                f"the base has {fan_in} inputs and {fan_out} outputs there"
            )
        factors[tensor.leaf, _layer(tensor)] = (a, b, _scale(module, a.shape[0], described))
    return PeftAdapters(factors=factors)


def _layer(tensor: published_tensors.Tensor) -> int | None:
    """The layer that a tensor is of; None where our parameter is not stacked by layers alone."""
    return tensor.index[0] if len(tensor.index) == 1 else None


def write(
    folder: str | os.PathLike[str],
    lora: LoraConfig,
    adapters: Adapters,
    config: ModelConfig,
    base: str,
) -> None:
    """Writes adapters as peft reads them, in float32.

    Args:
        folder: is created; what it has of these files is replaced.
        lora: rank, strength and targets.
        adapters: of the kernels that `lora` names.
        config: of the base.
        base: where the base is, or its name on the hub.

    Raises:
        HuggingFaceError: no published family computes this architecture.
        OSError: the disk is full.
    """
    path = pathlib.Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    arrays: dict[str, np.ndarray] = {}
    templates = set()
    for module, tensor in _modules(config).items():
        name = tensor.leaf.rpartition(".")[2]
        layer = _layer(tensor)
        if layer is None or name not in adapters:
            continue
        templates.add(re.sub(r"\d+", r"\\d+", re.escape(module)))
        for factor, stack in zip("AB", adapters[name], strict=True):
            arrays[f"{_PREFIX}{module}.lora_{factor}.weight"] = np.ascontiguousarray(
                np.asarray(stack[layer], np.float32).T
            )
    described = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "target_modules": "|".join(sorted(templates)),
        "inference_mode": True,
        "use_rslora": False,
        "fan_in_fan_out": False,
        "task_type": None,
    }
    with files.atomic_path(path / WEIGHTS_FILE) as temporary:
        shapes = {name: array.shape for name, array in arrays.items()}
        write_file(temporary, shapes, np.dtype(np.float32), arrays.values())
    text = json.dumps(described, indent=2, sort_keys=True) + "\n"
    files.write_text(path / CONFIG_FILE, text)


def _modules(config: ModelConfig) -> dict[str, published_tensors.Tensor]:
    """The linear layers of a published model by their modules' names."""
    tensors = published_tensors.all_tensors(family_for(config), config)
    return {t.name.removesuffix(".weight"): t for t in tensors if t.transposed}


def _description(path: pathlib.Path) -> dict[str, Any]:
    try:
        found = json.loads(files.read_text(path / CONFIG_FILE))
    except FileNotFoundError:
        raise HuggingFaceError(
            f"{path} has peft adapters and no {CONFIG_FILE}; fetch it, or move adapter_* elsewhere "
            "to load the model beside them alone"
        ) from None
    except (ValueError, RecursionError) as error:
        raise HuggingFaceError(f"{path / CONFIG_FILE} is not JSON ({error})") from None
    if not isinstance(found, dict):
        raise HuggingFaceError(f"{path / CONFIG_FILE} is no JSON object; fetch it again")
    return found


def _check(described: Mapping[str, Any], path: pathlib.Path) -> None:
    kind, bias = described.get("peft_type"), described.get("bias", "none")
    on = {"peft_type": kind} if kind != "LORA" else {}
    on |= {} if bias == "none" else {"bias": bias}
    on |= {field: described[field] for field in _OFF if described.get(field)}
    if on:
        field, value = next(iter(on.items()))
        raise HuggingFaceError(
            f"{path / CONFIG_FILE}: {field} is {value!r}, which is not computed here (plain LoRA "
            "of linear layers is); merge the adapters with peft (merge_and_unload, then "
            "save_pretrained) and give that folder"
        )
    numbers = (described.get("r"), described.get("lora_alpha"))
    if any(isinstance(n, bool) or not isinstance(n, int | float) or n <= 0 for n in numbers):
        raise HuggingFaceError(
            f"{path / CONFIG_FILE}: r and lora_alpha are {numbers}; expected positive numbers"
        )


def _targeted(module: str, described: Mapping[str, Any]) -> bool:
    """Whether peft adapts a module; where more fields than the targets choose, the file decides."""
    target = described.get("target_modules")
    if described.get("layers_to_transform") is not None or described.get("exclude_modules"):
        return False
    if isinstance(target, str):
        return re.fullmatch(target, module) is not None
    return any(module == end or module.endswith(f".{end}") for end in target or ())


def _scale(module: str, rank: int, described: Mapping[str, Any]) -> float:
    alpha = float(described["lora_alpha"])
    for pattern, value in (described.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if described.get("use_rslora") else rank)
