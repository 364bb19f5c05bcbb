"""What a commit rule is, and how a rule is found by name, in a file or in text.

A rule says how masked positions rank and how many of the best a pass commits. The decoder does the
rest: the end-of-sequence gate, the step limit, the guarantee that every pass commits a token. A
rule of one's own is a frozen dataclass with `score` and `count`, registered with `rule`:

```python
@cd.rule
@dataclasses.dataclass(frozen=True, kw_only=True)
class Half:
    share: float = 0.5

    def score(self, proposal): return proposal.confidence
    def count(self, proposal): return (self.share * proposal.eligible.sum(axis=1)).astype(int)
```

Its numbers are traced, so a sweep over them compiles once; texts and booleans are compiled for.
Wherever a decode is described it is named as `Half(share=0.5)`, or as `my_rule.py:Half(share=0.5)`
where a command has to read the file first.
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import pathlib
import sys
from collections.abc import Callable, Iterable
from typing import Annotated, Any, NamedTuple, Protocol, TypeVar, overload

import jax

from cd4lm_jax.settings.choices import ConfigError, nearest
from cd4lm_jax.settings.config import from_text

T = TypeVar("T", bound=type)


class Proposal(NamedTuple):
    """What a pass proposes for the open blocks of every row.

    Arrays are as long as the window of open blocks: one block by default; where the mask token may
    be proposed, the whole generation. What is out of reach is not eligible. With several blocks at
    once (`lookahead`) a rule that plans its passes plans those of the generation.

    Attributes:
        confidence: `[batch, window]` float32, probability of the proposed token.
        neg_entropy: `[batch, window]` float32, minus the entropy (nats) of the distribution.
        margin: `[batch, window]` float32, lead over the second best token's probability.
        noise: `[batch, window]` float32, uniform in [0, 1), drawn for each row by itself.
        eligible: `[batch, window]` bool, masked and not held back by the EOS gate.
        step: `[batch]` int32, passes already spent in this block; with several open, on this row.
        block_length: positions of a block; with several open, of the generation.
        num_blocks: how many times so many positions are in the generation.
    """

    confidence: jax.Array
    neg_entropy: jax.Array
    margin: jax.Array
    noise: jax.Array
    eligible: jax.Array
    step: jax.Array
    block_length: int
    num_blocks: int


class CommitRule(Protocol):
    """How a pass chooses what to commit.

    Two more methods are optional. `qualifies(proposal)`, `[batch, window]` bool, says which
    positions meet the rule's criterion, where the rule may commit others too to keep a minimum.
    `check(gen_length, block_length)` raises ValueError where the rule does not fit the lengths.
    """

    def score(self, proposal: Proposal) -> jax.Array:
        """`[batch, window]` float; higher is committed earlier, ties go to the lower position."""

    def count(self, proposal: Proposal) -> jax.Array:
        """`[batch]` int32, how many to commit; the decoder raises it to 1 at least."""


_BUILT_IN = "cd4lm_jax.decoding.rules"
_REGISTERED: dict[str, type[Any]] = {}
_NAMES: dict[type[Any], str] = {}
_SOURCES: dict[type[Any], str] = {}
_DIGESTS: dict[type[Any], str] = {}


@overload
def rule(cls: T) -> T: ...
@overload
def rule(*, name: str) -> Callable[[T], T]: ...
def rule(cls: Any = None, *, name: str | None = None) -> Any:
    """Registers a frozen dataclass as a commit rule; to stand above `@dataclasses.dataclass`.

    Args:
        cls: the dataclass. Fields that are text or bool are compiled for; others are traced.
        name: what the rule is called in flags, JSON and labels; the class's name by default.

    Raises:
        TypeError: not a frozen dataclass with `score` and `count`.
    """
    if cls is None:
        return lambda cls: _register(cls, name or cls.__name__)
    return _register(cls, cls.__name__)


def _register(cls: type[Any], name: str) -> type[Any]:
    parameters: Any = getattr(cls, "__dataclass_params__", None)
    frozen = parameters is not None and parameters.frozen
    if not frozen or not all(callable(getattr(cls, it, None)) for it in ("score", "count")):
        raise TypeError(
            f"{cls.__name__} is no commit rule; write a class with score and count, and above it "
            "@rule and @dataclasses.dataclass(frozen=True, kw_only=True)"
        )
    before = _REGISTERED.get(name)
    if before is not None and before.__module__ == _BUILT_IN != cls.__module__:
        raise TypeError(f"{cls.__name__}: the name {name!r} is a built-in rule's; give another")
    # Not with `register_dataclass`: to jax (0.10 to 0.12) trees of two such classes are equal where
    # their fields have the same names, and now and then jit (0.10) runs what it compiled for the
    # other class.
    names = [field.name for field in dataclasses.fields(cls)]

    def flatten(rule: Any) -> tuple[list[tuple[Any, Any]], tuple[tuple[str, Any], ...]]:
        values = {name: getattr(rule, name) for name in names}
        static = tuple((n, v) for n, v in values.items() if isinstance(v, str | bool))
        traced = [n for n in names if n not in dict(static)]
        return [(jax.tree_util.GetAttrKey(n), values[n]) for n in traced], static

    def unflatten(static: tuple[tuple[str, Any], ...], numbers: Iterable[Any]) -> Any:
        fixed = dict(static)
        traced = [n for n in names if n not in fixed]
        return cls(**fixed, **dict(zip(traced, numbers, strict=True)))

    jax.tree_util.register_pytree_with_keys(cls, flatten, unflatten)
    _REGISTERED[name], _NAMES[cls] = cls, name
    return cls


class Rules:
    """The commit rules as an open choice of `cd4lm_jax.settings`: by name, or from a file."""

    def known(self) -> dict[str, type[Any]]:
        """The registered rules by name."""
        return {name: cls for name, cls in _REGISTERED.items() if cls not in _SOURCES}

    def find(self, name: str) -> type[Any]:
        """A rule's class, given `name` or `file.py:Name`.

        Raises:
            ConfigError: no such rule, or a file that cannot be read or run.
        """
        file, colon, cls = name.rpartition(":")
        if colon:
            return _from_file(pathlib.Path(file), cls)
        if name not in _REGISTERED:
            raise ConfigError(
                f"no commit rule {name!r}; {nearest(name, [*self.known()])} (a rule of your own is "
                "FILE.py:NAME)"
            )
        return _REGISTERED[name]

    def name(self, cls: type[Any]) -> str:
        """What `find` finds a class by.

        Raises:
            ConfigError: it is not registered.
        """
        if cls not in _NAMES:
            raise ConfigError(
                f"{cls.__name__} is not registered as a commit rule; put @cd4lm_jax.rule above it"
            )
        return _SOURCES.get(cls, _NAMES[cls])


RULES = Rules()

Rule = Annotated[CommitRule, RULES]
"""The type of a setting that is a commit rule."""


def parse(text: str) -> CommitRule:
    """A rule as text names it: `factor`, `factor(factor=1.0)`, `my_rule.py:Half(share=0.5)`.

    Raises:
        ConfigError: no such rule, or fields that it does not have.
    """
    found: CommitRule = from_text(text, Rule, "rule")
    return found


def label(rule: CommitRule, gen_length: int) -> str:
    """A rule in short: its name, the value of its first field, and what else is no default.

    A rule that has a method `label(gen_length)` says itself what stands for its first field.

    >>> from cd4lm_jax.decoding.rules import ConfidenceAdaptive, FixedStep
    >>> label(ConfidenceAdaptive(threshold=0.9), 64), label(FixedStep(steps=16), 64)
    ('confidence:0.9', 'fixed:4')
    """
    fields = dataclasses.fields(rule)  # type: ignore[arg-type]  # registered: a dataclass
    values = {field.name: str(getattr(rule, field.name)) for field in fields}
    changed = {f.name for f in fields if getattr(rule, f.name) != f.default}
    parts = []
    for number, (name, value) in enumerate(values.items()):
        if number == 0:
            parts.append(rule.label(gen_length) if hasattr(rule, "label") else value)
        elif name in changed:
            parts.append(f"{name}={value}")
    return ":".join([_NAMES[type(rule)], *([",".join(parts)] if parts else [])])


def source_digest(rule: CommitRule) -> str | None:
    """SHA-256 of the file that a rule was read from; None for one that was not."""
    return _DIGESTS.get(type(rule))


def _registered(value: Any) -> bool:
    return isinstance(value, type) and value in _NAMES


def _digest(file: pathlib.Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _from_file(file: pathlib.Path, name: str) -> type[Any]:
    """The rule of that name that a file registers; a file that has not changed is run once."""
    if not file.is_file():
        raise ConfigError(f"no rule file {str(file)!r}; give FILE.py:NAME, such as my_rule.py:Half")
    module_name = f"cd4lm_jax_rule_{hashlib.sha256(str(file.absolute()).encode()).hexdigest()[:12]}"
    digest = _digest(file)
    module = sys.modules.get(module_name)
    if module is None or module.__dict__["__digest__"] != digest:
        spec = importlib.util.spec_from_file_location(module_name, file)
        if spec is None or spec.loader is None:
            raise ConfigError(f"{file} is not a Python file; a rule file is one with a @cd.rule")
        module = importlib.util.module_from_spec(spec)
        module.__dict__["__digest__"] = digest
        sys.modules[module_name] = module  # dataclasses look their module up
        try:
            spec.loader.exec_module(module)
        except Exception as error:
            del sys.modules[module_name]
            raise ConfigError(f"{file}: {type(error).__name__}: {error}") from error
    cls: Any = getattr(module, name, None)
    if not _registered(cls):
        rules = [it for it, value in vars(module).items() if _registered(value)]
        raise ConfigError(
            f"{file} has no commit rule {name!r}; {nearest(name, rules)}"
            if rules
            else f"{file} has no commit rule {name!r}; put @cd4lm_jax.rule above the class"
        )
    _SOURCES[cls], _DIGESTS[cls] = f"{file}:{name}", digest
    return cls


def check_bounds(name: str, value: Any, low: float | None, high: float | None, what: str) -> None:
    """Raises ValueError for a number of a rule that is outside its bounds.

    Args:
        name: of the field.
        value: as given; a traced one was checked before it was passed in.
        low: least allowed; None for no bound.
        high: greatest allowed; likewise.
        what: it is, for the message.
    """
    if not isinstance(value, int | float):
        return
    if (low is not None and not value >= low) or (high is not None and not value <= high):
        bounds = " and ".join(
            part
            for part in (
                f"at least {low}" if low is not None else "",
                f"at most {high}" if high is not None else "",
            )
            if part
        )
        raise ValueError(f"{name}={value} is not {what}; give one {bounds}")
