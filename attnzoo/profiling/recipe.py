"""A table of costs as people write it in YAML: rows of a paper, and one protocol for every module."""

import string
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, field_validator, model_validator

from attnzoo.profiling.cost import Counter
from attnzoo.profiling.sheets import Units
from attnzoo.profiling.table import Attention
from attnzoo.recipes import Part, PositiveCount, load
from attnzoo.registry import Site, check_options, list_modules, spec

# fvcore's convention for a network that pools with a mean and has no norms but batch norms.
Convention = Literal[Counter, "macs+2bn"]
# What a reason may fill in: the numbers of the paper, of the plain network and of ours, what attention adds to it, and
# by how much the plain network is above the paper.
FACTS = (
    "classes",
    *(f"{what}_{of}" for what in ("params", "flops") for of in ("paper", "plain", "ours", "added", "excess")),
)

_known: ContextVar[Callable[[str], object]] = ContextVar("_known")
T = TypeVar("T")


def _network(name: str) -> str:
    build = _known.get(None)
    try:
        if build is not None:
            build(name)
    except (TypeError, OSError) as error:
        raise ValueError(str(error)) from None  # pydantic names the field of a ValueError alone
    return name


def _options(name: str, options: Mapping[str, Any]) -> None:
    try:
        check_options(spec(name), options)
    except TypeError as error:
        raise ValueError(str(error)) from None


def _as_printed(value: Any) -> Any:
    if not isinstance(value, str):
        raise ValueError("put it in quotes, with the decimals that the paper prints: they decide what is equal to it")
    return value


def _some(entries: tuple[T, ...]) -> tuple[T, ...]:
    if not entries:
        raise ValueError("names nothing; give at least one entry")
    return entries


def _named(field: str) -> Callable[[Any], Any]:
    """A bare name is short for the part with that name."""
    return lambda value: {field: value} if isinstance(value, str) else value


Backbone = Annotated[str, AfterValidator(_network)]
Sites = dict[Site, dict[str, dict[str, Any]]]
Printed = Annotated[str, BeforeValidator(_as_printed), Field(pattern=r"^\d+(\.\d+)?$")]


class Network(Part):
    """A network and what it sees; in YAML a bare name will do.

    Attributes:
        backbone: as in `attnzoo.create_backbone`.
        num_classes: of the head; the network's own number if None.
        input_size: (N, C, *spatial); 1 x 3 x 224 x 224 if None, and 1 x 3 x 16 x 112 x 112 for a 3D network.

    >>> Network(backbone="timm/resnet101", num_classes=400).title
    'timm/resnet101, 400 classes'
    """

    backbone: Backbone
    num_classes: PositiveCount | None = None
    input_size: Annotated[tuple[PositiveCount, ...], Field(min_length=3)] | None = None

    @property
    def title(self) -> str:
        """What a table of it is called."""
        return self.backbone + (f", {self.num_classes} classes" if self.num_classes else "")


NetworkField = Annotated[Network, BeforeValidator(_named("backbone"))]


class PaperRow(Part):
    """A row that a paper prints, and the configuration of ours that it is held against.

    Attributes:
        label: what the paper calls it.
        attn: the module.
        site: in the block; the module's own if None.
        options: the module's own.
        num_classes: of the head.
        counter: the convention of its FLOPs, where it is not the paper's: a counter of the profiler, or "macs+2bn".
        params: millions of parameters, with the decimals that the paper prints.
        flops: FLOPs in billions, likewise.
        note: what the reader must know of the configuration.
        reason: why none prints these numbers, if none does; `{params_plain}` and the other FACTS are filled in with
            what was counted.

    >>> PaperRow(label="SE", attn="se", params="49.30", flops="7.84").num_classes
    1000
    """

    label: str
    attn: str
    site: Site | None = None
    options: dict[str, Any] = Field(default_factory=dict)
    num_classes: PositiveCount = 1000
    counter: Convention | None = None
    params: Printed
    flops: Printed
    note: str = ""
    reason: str = ""

    @field_validator("attn")
    @classmethod
    def _module(cls, attn: str) -> str:
        return spec(attn).name

    @field_validator("reason")
    @classmethod
    def _facts(cls, reason: str) -> str:
        try:
            fields = list(string.Formatter().parse(reason))
        except ValueError as error:
            raise ValueError(f"{error}; a brace of the text itself is written {{{{ or }}}}") from None
        for _, name, form, conversion in fields:
            if name is not None and name not in FACTS:
                raise ValueError(f"{{{name}}} is not known; there are {', '.join(FACTS)}")
            if form or conversion:
                raise ValueError(f"{name} is filled in with its unit as {{{name}}}, and takes no format")
        return reason

    @model_validator(mode="after")
    def _fits(self) -> "PaperRow":
        _options(self.attn, self.options)
        return self

    @property
    def attention(self) -> Attention:
        """What goes into the network."""
        return Attention(self.attn, self.options, self.site or spec(self.attn).site, label=self.label)


class Paper(Part):
    """A paper's table.

    Attributes:
        title: where it stands.
        network: that all its rows share.
        counter: the convention of the FLOPs, unless a row names another.
        units: that it prints in: "decimal" (10^6 and 10^9) or "binary" (2^20 and 2^30).
        rows: of the table.

    >>> row = PaperRow(label="SE", attn="se", params="49.30", flops="7.84")
    >>> Paper(title="Table 1", network="timm/resnet101", rows=[row]).network.backbone
    'timm/resnet101'
    """

    title: str
    network: NetworkField
    counter: Convention = "fvcore"
    units: Units = "decimal"
    rows: Annotated[tuple[PaperRow, ...], AfterValidator(_some)]


class Entry(Part):
    """Modules of the protocol; in YAML a bare name or pattern will do.

    Attributes:
        attn: a name, or a pattern as in `attnzoo list`: "*" is every module there is.
        options: of the module, before those of the site.
        label: what it is called; its name and options if None.

    >>> Entry(attn="s?").names
    ['sa', 'se', 'sk']
    """

    attn: str
    options: dict[str, Any] = Field(default_factory=dict)
    label: str | None = None

    @property
    def names(self) -> list[str]:
        """The modules that are meant."""
        return list_modules(self.attn) or [spec(self.attn).name]

    @model_validator(mode="after")
    def _known(self) -> "Entry":
        for name in self.names:
            _options(name, self.options)
        return self


def _both() -> Sites:
    return {"mid": {}, "out": {}}


class Protocol(Part):
    """Every module in the same networks, at the same sites, under the same heads.

    Attributes:
        networks: what attention goes into.
        attn: which; a module that replaces convolutions (site `conv`) does so whatever the sites.
        sites: where, and the options that modules have there.

    >>> [placed.site for placed in Protocol(networks=["timm/resnet50"], attn=["se", "epsa"]).placed()]
    ['mid', 'out', 'conv']
    """

    networks: Annotated[tuple[NetworkField, ...], AfterValidator(_some)]
    attn: Annotated[tuple[Annotated[Entry, BeforeValidator(_named("attn"))], ...], AfterValidator(_some)] = (
        Entry(attn="*"),
    )
    sites: Sites = Field(default_factory=_both)

    @field_validator("sites")
    @classmethod
    def _known(cls, sites: Sites) -> Sites:
        for modules in sites.values():
            for name, options in modules.items():
                _options(name, options)
        return sites

    @model_validator(mode="after")
    def _placed(self) -> "Protocol":
        if not any(self.placed()):
            raise ValueError("there is no site for any module of attn; give sites: {mid: {}, out: {}}")
        return self

    def placed(self) -> Iterator[Attention]:
        """Every attention at every site."""
        sites: tuple[Site, ...] = (*(site for site in self.sites if site != "conv"), "conv")
        for site in sites:
            for entry in self.attn:
                for name in entry.names:
                    if (spec(name).site == "conv") == (site == "conv"):
                        options = {**self.sites.get(site, {}).get(name, {}), **entry.options}
                        yield Attention(name, options, site, label=entry.label or (None if entry.options else name))


class TableRecipe(Part):
    """All of a table.

    Attributes:
        name: of the table, and of the files it is written to.
        counter: the convention of the protocol's FLOPs.
        paper: rows that somebody printed.
        protocol: the comparison of ours.

    >>> TableRecipe(name="mine", protocol={"networks": ["timm/resnet50"]}).counter
    'fvcore'
    """

    name: Annotated[str, Field(pattern=r"^\w[\w.-]*$")]
    counter: Counter = "fvcore"
    paper: Paper | None = None
    protocol: Protocol | None = None

    @model_validator(mode="after")
    def _asks(self) -> "TableRecipe":
        if not (self.paper or self.protocol):
            raise ValueError("names nothing to count; give paper:, protocol: or both, as in zoo_configs/table1.yaml")
        return self


def read(recipe: str | Path, build: Callable[[str], object], changes: Mapping[str, Any] | None = None) -> TableRecipe:
    """Read and check the recipe of a table.

    Args:
        recipe: a YAML file, or the name of one that comes with attnzoo.
        build: makes a network from its name, and raises where there is none.
        changes: dotted field -> value, put in place of what the file says.

    Raises:
        FileNotFoundError: no such recipe.
        ValueError: misspelt fields, or modules, options, sites and networks that do not exist; with file and line.

    >>> read("table1", lambda name: None).name
    'table1'
    """
    token = _known.set(build)
    try:
        return load(recipe, TableRecipe, changes)
    finally:
        _known.reset(token)
