"""The `lora_adapter_metadata` entry, in which diffusers stores peft's ranks and alphas.

The entry is a JSON object. Each of its keys is a component of the pipeline, a dot, and a field of
peft's LoraConfig: `unet.r`, `transformer.rank_pattern`. From these fields peft computes a module's
scale as lora_alpha / r, or as lora_alpha / sqrt(r) where use_rslora is set.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Generic, NamedTuple, Self, TypeVar

from lensd.lora.layout import Layout

T = TypeVar("T")

KEY = "lora_adapter_metadata"
PLAIN_NAME = re.compile(r"[\w.-]{1,1024}")
# Of a module in an entry, without its three names: indents, ends of lines, escapes, two numbers,
# which are ranks in a new entry and may be any alphas in one that exists.
NEW_ENTRY_BYTES, OLD_ENTRY_BYTES = 60, 120
# What reading an entry raises if the entry is no JSON object or a field has a wrong type or value.
INVALID_ENTRY = (ValueError, TypeError, AttributeError, ArithmeticError, RecursionError)

COMPONENTS = frozenset({"unet", "transformer", "text_encoder", "text_encoder_2", "text_encoder_3"})
# diffusers adds modules of its own to Wan models with this prefix before it reads the entry.
EXTENDED = "transformer.blocks."


class Component(NamedTuple):
    """The fields of one component that decide the rank and the scale of its modules.

    The patterns map a module name, or its end after a dot, to a value. A module that no pattern
    matches has the rank `r` and the alpha `lora_alpha`. All values are as the JSON has them: a
    method raises one of INVALID_ENTRY for a value of a wrong type.
    """

    r: int
    lora_alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    use_rslora: bool

    @classmethod
    def read(cls, entry: Mapping[str, Any], name: str) -> Self:
        """Read the fields of the component `name`, whose field `r` must be in the entry."""
        rank = entry[f"{name}.r"]
        return cls(
            r=rank,
            lora_alpha=entry.get(f"{name}.lora_alpha", rank),
            rank_pattern=entry.get(f"{name}.rank_pattern") or {},
            alpha_pattern=entry.get(f"{name}.alpha_pattern") or {},
            use_rslora=bool(entry.get(f"{name}.use_rslora")),
        )

    def divisor(self, rank: int) -> float:
        """Return what peft divides lora_alpha by to get the scale of a module of this rank."""
        return float(rank**0.5 if self.use_rslora else rank)

    def ranks_and_alphas(self, names: Iterable[str]) -> dict[str, tuple[int, float]]:
        """Return module name -> its rank and lora_alpha, for names without the component."""
        ranks, alphas = _Matcher(self.rank_pattern), _Matcher(self.alpha_pattern)
        return {
            name: (ranks.find(name, self.r), float(alphas.find(name, self.lora_alpha)))
            for name in names
        }


def adapter_metadata(text: str, ranks: Mapping[str, int]) -> str:
    """Return the entry with new ranks (module name -> rank) and the scale of each module unchanged.

    An entry that cannot be read is returned unchanged: diffusers then refuses the file with an
    error, whereas a wrong entry would change the strength of the LoRA without any message.
    """
    try:
        entry = json.loads(text)
        for name, own_ranks in _split_by_component(entry, ranks).items():
            fields = _fields_with_ranks(Component.read(entry, name), own_ranks)
            entry |= {f"{name}.{field}": value for field, value in fields.items()}
        return json.dumps(entry, indent=2, sort_keys=True, allow_nan=False)
    except INVALID_ENTRY:
        return text


def for_mixed_ranks(layout: Layout, ranks: Mapping[str, int]) -> str | None:
    """Return an entry with scale 1 for every module, for a file without alphas and without entry.

    diffusers before 0.40 takes the rank of the first module as the alpha of all modules, which is
    wrong where ranks differ; it does not do so for a file with an entry. None if all ranks are
    equal, or if diffusers renames or adds modules between reading the file and reading the entry.
    """
    names = _components(ranks)
    if not _may_have_entry(layout, names) or not any(
        len({ranks[f"{component}.{n}"] for n in own_names}) > 1
        for component, own_names in names.items()
    ):
        return None
    entry: dict[str, object] = {}
    for component, own_names in names.items():
        fields: dict[str, object] = {"peft_type": "LORA", "r": 1, "lora_alpha": 1}
        fields["target_modules"] = sorted(map(_without_text_model, own_names))
        entry |= {f"{component}.{field}": value for field, value in fields.items()}
    return adapter_metadata(json.dumps(entry), ranks)


def most_bytes(layout: Layout, *, has_entry: bool) -> int:
    """Return the bytes that suffice in a header for the ranks of an entry.

    The entry has a name three times: as a target, and in both patterns. `has_entry`: the file has
    one, which `adapter_metadata` changes; else `for_mixed_ranks` may make one.
    """
    names = [m.name for m in layout.modules]
    if has_entry:
        return _named_bytes(names, OLD_ENTRY_BYTES)
    if not _may_have_entry(layout, _components(names)):
        return 0
    return _named_bytes(names, NEW_ENTRY_BYTES) + 2**10


def _named_bytes(names: Iterable[str], others: int) -> int:
    return sum(3 * len(json.dumps(name)) + others for name in names)


def _components(names: Iterable[str]) -> dict[str, list[str]]:
    """Return component -> the names of its modules without the component."""
    found: dict[str, list[str]] = {}
    for name in names:
        component, _, own_name = name.partition(".")
        found.setdefault(component, []).append(own_name)
    return found


def _may_have_entry(layout: Layout, names: Mapping[str, Sequence[str]]) -> bool:
    """Whether diffusers reads an entry for exactly these modules (see `_components`)."""
    peft_names_only = all(m.naming.down == ".lora_A.weight" for m in layout.modules)
    extended = any(m.name.startswith(EXTENDED) for m in layout.modules)
    return (
        not layout.untouched and peft_names_only and not extended and COMPONENTS.issuperset(names)
    )


def scales(text: str, names: Iterable[str]) -> dict[str, float]:
    """Return module name -> scale by the entry; 1 for modules of components it does not have.

    Raises ValueError for an entry that cannot be read.
    """
    result = dict.fromkeys(names, 1.0)
    try:
        entry = json.loads(text)
        for name, own_names in _split_by_component(entry, dict.fromkeys(result, None)).items():
            component = Component.read(entry, name)
            result |= {
                f"{name}.{own_name}": alpha / component.divisor(rank)
                for own_name, (rank, alpha) in component.ranks_and_alphas(own_names).items()
            }
    except INVALID_ENTRY as error:
        raise ValueError(f"the entry {KEY} cannot be understood: {error}") from None
    return result


def _split_by_component(
    entry: Mapping[str, Any], values: Mapping[str, T]
) -> dict[str, dict[str, T]]:
    """Split module name -> value by the components that the entry has.

    Returns component -> module name without the component -> value, without empty components.
    """
    components = [key.removesuffix(".r") for key in entry if key.endswith(".r")]
    found = {
        component: {
            name.removeprefix(component + "."): value
            for name, value in values.items()
            if name.startswith(component + ".")
        }
        for component in components
    }
    return {component: own_values for component, own_values in found.items() if own_values}


def _fields_with_ranks(component: Component, ranks: Mapping[str, int]) -> dict[str, object]:
    """Return r, lora_alpha and both patterns for new ranks, the scale of each module unchanged."""
    alphas = {
        name: _int_if_whole(alpha * component.divisor(ranks[name]) / component.divisor(old_rank))
        for name, (old_rank, alpha) in component.ranks_and_alphas(ranks).items()
    }
    rank = Counter(ranks.values()).most_common(1)[0][0]
    alphas_at_rank = Counter(alphas[name] for name, own_rank in ranks.items() if own_rank == rank)
    alpha = alphas_at_rank.most_common(1)[0][0]
    patterns = _unique_patterns(ranks)
    return {
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {patterns[n]: own for n, own in ranks.items() if own != rank},
        "alpha_pattern": {patterns[n]: own for n, own in alphas.items() if own != alpha},
    }


class _Matcher(Generic[T]):
    """Finds the value of the first pattern that matches a module name, as peft finds it.

    peft treats patterns as regular expressions that match a whole name or its end after a dot.
    Only patterns that are plain names, with or without a leading `^`, are accepted here (others
    raise ValueError): a hostile expression could take years to match.
    """

    def __init__(self, patterns: Mapping[str, T]) -> None:
        self._whole: dict[str, tuple[int, T]] = {}  # the name that a pattern matches alone
        self._ends: dict[str, tuple[int, T]] = {}  # a name or an end of names
        for number, (pattern, value) in enumerate(patterns.items()):
            plain = pattern.removeprefix("^")
            if not PLAIN_NAME.fullmatch(plain):
                raise ValueError(f"the pattern {pattern!r} is no module name")
            own = self._whole if pattern.startswith("^") else self._ends
            own.setdefault(plain, (number, value))

    def find(self, name: str, default: T) -> T:
        """Return the value for a name; `default` if no pattern matches it."""
        if not self._ends and not self._whole:
            return default
        dots = [at for at, letter in enumerate(name) if letter == "."]
        ends = [name, *(name[at + 1 :] for at in dots)]
        found = [self._ends[end] for end in ends if end in self._ends]
        found += [self._whole[name]] if name in self._whole else []
        return min(found, key=lambda match: match[0])[1] if found else default


def _unique_patterns(names: Iterable[str]) -> dict[str, str]:
    """Return name -> the pattern that matches it alone.

    The pattern begins with `^` where the name is also the end of another name.
    """
    names = set(names)
    dotted_ends = (n[i + 1 :] for n in names for i, letter in enumerate(n) if letter == ".")
    ambiguous = {end for end in dotted_ends if end in names}
    return {n: f"^{n}" if n in ambiguous else _without_text_model(n) for n in names}


def _without_text_model(name: str) -> str:
    """Remove the part that transformers 5 dropped from names in text encoders.

    peft matches the end of a name, so the shorter one matches with and without that part.
    """
    return name.removeprefix("text_model.")


def _int_if_whole(value: float) -> float:
    """Return whole numbers as int, as peft writes them."""
    return int(value) if value == int(value) else value
