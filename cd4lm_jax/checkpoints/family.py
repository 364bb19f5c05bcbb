"""How a family of published checkpoints names its tensors and describes its architecture."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable, Mapping
from typing import Any

from cd4lm_jax.models.config import NO_MASK, Confidence, ModelConfig
from cd4lm_jax.models.experts import ExpertsConfig

# A key of our own in config.json; published modelling code passes over what it does not know.
_END_IDS = "end_token_ids"
_EOS = "eos_token_id"
MASK_KEY = "mask_token_id"
"""Of `config.json`; where it is missing, the folder's tokenizer may know."""

OWN_KEYS = {
    "alignment": "logits_alignment",
    "attention": "attention_pattern",
    "block_length": "block_size",
    "blocks": "blocks_from",
}
"""Keys of ours for what a `config.json` has no word for, by field of ModelConfig."""


class HuggingFaceError(ValueError):
    """A folder that is no checkpoint of a known family, or one that this port does not compute."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """Tables of a family; used in both directions.

    Attributes:
        title: what messages call it.
        model_types: names that a `config.json` gives it; the first is written.
        tensors: our name -> (theirs, whether torch's [out, in] must be transposed to [in, out]).
            `{}` stands for the layer: those tensors are stacked.
        fields: field of ModelConfig -> key of `config.json`.
        fixed: fields of ModelConfig that have one value in the whole family.
        implied: key -> its value where `config.json` lacks it, has null or 0, from the others.
        repeated: key -> another key whose value it repeats; written, not read.
        expected: what the port computes; a checkpoint that asks for anything else is refused, not
            approximated.
        constant: other keys that the published modelling code reads; they do not change the
            numbers.
        bos_id: of the published vocabulary, as are the next two.
        eos_id: `config.json` names it.
        eot_id: the chat template ends turns with it; `config.json` does not name it.
        confidence: `ModelConfig.confidence` of the family's own sampler.
        free_head_dim: heads need not be width / heads wide.
        expert_fields: field of ExpertsConfig -> key of `config.json`; empty without experts.
        expert_fixed: fields of ExpertsConfig that have one value in the whole family.
        written: keys that say a field in another way -> their value; written, not read.
    """

    title: str
    model_types: tuple[str, ...]
    tensors: Mapping[str, tuple[str, bool]]
    fields: Mapping[str, str]
    fixed: Mapping[str, Any]
    implied: Mapping[str, Callable[[Mapping[str, Any]], Any]]
    repeated: Mapping[str, str]
    expected: Mapping[str, Any]
    constant: Mapping[str, Any]
    bos_id: int
    eos_id: int
    eot_id: int
    confidence: Confidence = "plain"
    free_head_dim: bool = False
    expert_fields: Mapping[str, str] = dataclasses.field(default_factory=dict)
    expert_fixed: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    written: Mapping[str, Callable[[ModelConfig], Any]] = dataclasses.field(default_factory=dict)

    def read(self, data: Mapping[str, Any], where: str) -> ModelConfig:
        """The architecture in the fields of a `config.json`.

        Raises:
            HuggingFaceError: a variant that is computed differently, or a value that no
                architecture has.
            KeyError: a field is missing.
        """
        data = _plain(data, where)
        for key, expected in self.expected.items():
            if data.get(key, expected) != expected:
                raise HuggingFaceError(
                    f"{where}: {key} is {data[key]!r}; this port computes {self.title}'s own "
                    f"architecture, where it is {expected!r}"
                )
        kinds = typing.get_type_hints(ModelConfig)
        fields = {
            field: self._value(key, kinds[field], data, where) for field, key in self.fields.items()
        }
        if fields["mask_id"] == NO_MASK and MASK_KEY not in self.implied:
            raise HuggingFaceError(f"{where}: {MASK_KEY} is {NO_MASK}; give the mask token's id")
        eos = fields["eos_id"]
        published = tuple(dict.fromkeys((eos, self.eot_id))) if eos == self.eos_id else (eos,)
        end_ids = data.get(_END_IDS, published)
        if not isinstance(end_ids, list | tuple) or any(
            type(token) is not int for token in end_ids
        ):
            raise HuggingFaceError(f"{where}: {_END_IDS} is {end_ids!r}; give a list of token ids")
        head_dim = self._head_dim(fields["embed_dim"], fields["num_heads"], data, where)
        experts = self._expert_values(data, where)
        try:
            return ModelConfig(
                head_dim=head_dim,
                end_ids=tuple(end_ids),
                confidence=self.confidence,
                experts=ExpertsConfig(**experts, **self.expert_fixed) if experts else None,
                **fields,
                **self.fixed,
            )
        except ValueError as error:
            raise HuggingFaceError(f"{where}: {error}") from None

    def _head_dim(self, width: int, heads: int, data: Mapping[str, Any], where: str) -> int:
        """The width of a head."""
        found = data.get("head_dim")
        if not found and "head_dim" in self.implied:
            found = self.implied["head_dim"](data)
        head_dim = found or width // max(heads, 1)
        if type(head_dim) is not int or not (self.free_head_dim or head_dim * heads == width):
            raise HuggingFaceError(
                f"{where}: {heads} heads of {head_dim} in a width of {width}; this port computes "
                f"{self.title}'s own architecture, whose heads are width / heads wide"
            )
        return head_dim

    def _expert_values(self, data: Mapping[str, Any], where: str) -> dict[str, Any]:
        """Fields of ExpertsConfig; none in a family without experts."""
        kinds = typing.get_type_hints(ExpertsConfig)
        return {
            field: self._value(key, kinds[field], data, where)
            for field, key in self.expert_fields.items()
        }

    def _value(self, key: str, kind: Any, data: Mapping[str, Any], where: str) -> Any:
        """The value of a key, checked against its type."""
        try:
            value = data.get(key) or self.implied[key](data) if key in self.implied else data[key]
        except TypeError:
            raise HuggingFaceError(
                f"{where}: {key} is missing and does not follow from the other fields"
            ) from None
        if kind is float and type(value) is int:
            value = float(value)
        if typing.get_origin(kind) is typing.Literal:
            choices = typing.get_args(kind)
            if value not in choices:
                raise HuggingFaceError(
                    f"{where}: {key} is {value!r}; expected one of {', '.join(choices)}"
                )
        elif type(value) is not kind:
            raise HuggingFaceError(f"{where}: {key} is {value!r}; expected {_NAMES[kind]}")
        return value

    def computes(self, config: ModelConfig) -> bool:
        """Whether the family's published code computes this architecture.

        Fields that the family does not have must be at their defaults, and only autoregressive
        ones do without a mask token.
        """
        if config.mask_id == NO_MASK and self.fixed.get("attention") != "causal":
            return False
        has_own = {*self.fields, *_OF_EVERY_FAMILY}
        same = all(
            getattr(config, field.name) == self.fixed.get(field.name, field.default)
            for field in dataclasses.fields(config)
            if field.name not in has_own
        )
        if config.experts is None or not self.expert_fields:
            same &= config.experts is None and not self.expert_fields
        else:
            same &= all(
                getattr(config.experts, field.name)
                == self.expert_fixed.get(field.name, field.default)
                for field in dataclasses.fields(config.experts)
                if field.name not in self.expert_fields
            )
        return same and (
            self.free_head_dim or config.head_dim * config.num_heads == config.embed_dim
        )

    def describe(self, config: ModelConfig, dtype: str) -> dict[str, Any]:
        """The `config.json` of an architecture; `read` reads it back."""
        values = {key: getattr(config, field) for field, key in self.fields.items()}
        values |= {key: getattr(config.experts, f) for f, key in self.expert_fields.items()}
        values |= {key: value(config) for key, value in self.written.items()}
        values |= {key: values[other] for key, other in self.repeated.items()}
        values |= {_END_IDS: list(config.end_ids), "torch_dtype": dtype}
        if config.mask_id == NO_MASK:
            del values[MASK_KEY]
        if self.free_head_dim:
            values["head_dim"] = config.head_dim
        named = {"model_type": self.model_types[0]}
        return named | dict(self.constant) | dict(self.expected) | values

    def generation(self, config: ModelConfig) -> dict[str, Any]:
        """The `generation_config.json` of an architecture."""
        ids = {"eos_token_id": config.eos_id, "pad_token_id": config.eos_id}
        if config.eos_id == self.eos_id:
            ids["bos_token_id"] = self.bos_id
        return {"_from_model_config": True} | ids


_OF_EVERY_FAMILY = ("head_dim", "end_ids", "confidence", "experts")
_NAMES = {int: "a whole number", float: "a number", bool: "true or false"}


def _plain(data: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The fields as the families' own configs have them, whichever version of transformers wrote.

    transformers 5 puts `rope_theta` into `rope_parameters`. Several EOS ids are a list, of which
    the first fills what follows an answer and all end one.

    Raises:
        HuggingFaceError: a rotary embedding or layers of another kind.
    """
    data = dict(data)
    rope = data.pop("rope_parameters", None) or {}
    if not isinstance(rope, dict) or rope.get("rope_type", "default") != "default":
        raise HuggingFaceError(
            f"{where}: rope_parameters is {rope!r}; this port computes rotary embeddings of the "
            "default type"
        )
    if "rope_theta" in rope:
        data.setdefault("rope_theta", rope["rope_theta"])
    layers = data.get("layer_types") or []
    if not isinstance(layers, list) or any(kind != "full_attention" for kind in layers):
        raise HuggingFaceError(
            f"{where}: layer_types is {layers!r}; this port computes layers of 'full_attention'"
        )
    eos = data.get(_EOS)
    if isinstance(eos, list) and eos:
        data[_EOS] = eos[0]
        data.setdefault(_END_IDS, eos)
    return data
