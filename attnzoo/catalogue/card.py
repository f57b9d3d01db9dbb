"""All that there is to say of one module."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from attnzoo.backbones import create_backbone
from attnzoo.benchmarks.rows import ModuleRow
from attnzoo.catalogue import measured
from attnzoo.catalogue.counts import Count, columns, count, misfits, size_for
from attnzoo.catalogue.docstrings import Doc, parse
from attnzoo.profiling.sheets import Column, Sheet
from attnzoo.profiling.table import Attention, Row, compare
from attnzoo.registry import SITES, Spec, check_options, spec

WIDTHS = (64, 256, 512, 2048)
SITE_WORDS = {
    "out": "after a block's last norm, before the sum",
    "mid": "before a block's last convolution",
    "conv": "in place of a block's spatial convolution",
    "stage": "after a stage",
}
NETWORKS = {2: ("torchvision/resnet50", (1, 3, 224, 224)), 3: ("resnet3d/50", (1, 3, 16, 112, 112))}


@dataclass(frozen=True, slots=True)
class Card:
    """One module, as `attnzoo show` and its page of the documentation have it.

    Attributes:
        spec: what the registry knows.
        options: that the user gave, which the counts are for.
        doc: what the docstring says.
        counts: at each width.
        network: in which `sites` are counted, with its input.
        sites: that network plain, and with the module at each site where it can go.
        measured: its time beside a copy.
    """

    spec: Spec
    options: Mapping[str, Any]
    doc: Doc
    counts: tuple[Count, ...]
    network: tuple[str, tuple[int, ...]]
    sites: tuple[Row, ...]
    measured: tuple[ModuleRow, ...]

    @property
    def title(self) -> str:
        """Its name with the options, as on the command line."""
        return Attention(self.spec.name, self.options).title

    @property
    def fidelity(self) -> str:
        """What it was held against."""
        if self.spec.golden:
            other = self.spec.checked or "its authors' code"
            return f"equal to {other} in 2D: outputs, gradients and buffers, within 1e-5 of the largest value"
        if self.spec.checked:
            return f"compared with {self.spec.checked}"
        return "not compared with other code"

    @property
    def rule_3d(self) -> str:
        """How it generalises to 3D."""
        if 3 not in self.spec.dims:
            return "none: it is defined for 2D features alone"
        return self.doc.rule_3d or "its docstring does not say"

    @property
    def python(self) -> str:
        """How it is called in Python."""
        name, channels = self.spec.name, next((each.channels for each in self.counts if each.cost), 256)
        dims = "" if 2 in self.spec.dims else f", spatial_dims={min(self.spec.dims)}"
        options = "".join(f", {key}={value!r}" for key, value in self.options.items())
        replaces = self.spec.site == "conv"
        told = "also takes out_channels and stride" if replaces else f"shape stays (N, {channels}, ...)"
        return (
            f'attention = attnzoo.create("{name}", {channels}{dims}{options})  # {told}\n'
            f'model = attnzoo.inject(model, "{name}"{"" if replaces else ", identity=True"}{options})'
        )

    @property
    def shell(self) -> str:
        """How it is called on the command line."""
        network = "timm/resnet50" if 2 in self.spec.dims else "resnet3d/50"
        return f"attnzoo profile {network} --attn {self.title}\nattnzoo contract {self.spec.name}"


def card(
    name: str,
    options: Mapping[str, Any] | None = None,
    *,
    widths: Sequence[int] = WIDTHS,
    size: Sequence[int] | None = None,
    sites: bool = True,
) -> Card:
    """Gather what there is to say of a module.

    Args:
        name: of the module, or an alias.
        options: other than its defaults, for the counts.
        widths: channels for which it is counted.
        size: of the features there, (H, W) or (T, H, W), one number for a square; 28 x 28 if None, 8 x 28 x 28 for one
            that is for 3D alone.
        sites: whether it is put into a ResNet-50 and counted there, which takes a second or two.

    Raises:
        ValueError: no such module; the message names near matches.
        TypeError: an unknown option.

    >>> se = card("se", widths=(64, 512), sites=False)
    >>> [each.cost.params for each in se.counts], se.rule_3d
    ([512, 32768], 'the squeeze is the mean over T, H and W; the parameters are the same')
    """
    found, options = spec(name), options or {}
    check_options(found, options)
    spatial = size_for(found, size)
    counts = tuple(count(found.name, channels, spatial, **options) for channels in widths)
    network = NETWORKS[2 if 2 in found.dims else 3]
    rows = tuple(_sites(found, options, *network)) if sites else ()
    taken = () if options else tuple(measured.ratios(found.name))
    return Card(found, options, parse(found.cls.__doc__), counts, network, rows, taken)


def _sites(found: Spec, options: Mapping[str, Any], network: str, input_size: tuple[int, ...]) -> Iterator[Row]:
    """The cost of a ResNet-50, plain and with the module at each site where it can go."""
    possible = ["conv"] if found.site == "conv" else [site for site in SITES if site != "conv"]
    with torch.device("meta"):
        plain = create_backbone(network)
    attns = [Attention(found.name, options, site) for site in possible]
    yield from compare(plain, attns, input_size=input_size, skip_misfits=True)


def sheets(card: Card) -> list[Sheet]:
    """A card as tables of a report: what it is, its options, its cost at each width and site, its time.

    Args:
        card: of a module.

    >>> [sheet.name for sheet in sheets(card("se", {"bias": True}, sites=False))]
    ['module', 'options', 'counts']
    """
    tables = [_about(card), options_sheet(card), counts_sheet(card), sites_sheet(card)]
    return [table for table in (*tables, measured_sheet(card)) if table.records]


def _about(card: Card) -> Sheet:
    found = card.spec
    facts = {
        "idea": found.idea,
        "formula": found.formula.replace("; ", "\n"),
        "paper": found.paper,
        "year": str(found.year or ""),
        "also called": ", ".join(found.aliases),
        "site": f"{found.site}: {SITE_WORDS[found.site]}",
        "dims": ", ".join(f"{d}D" for d in sorted(found.dims)),
        "in 3D": card.rule_3d,
        "fidelity": card.fidelity,
        "time": "" if card.measured or card.options else "not measured yet; attnzoo bench measures it",
        "notes": " ".join(card.doc.text),
        "Python": card.python,
        "shell": card.shell,
    }
    return Sheet(
        "module",
        found.name,
        [Column("fact", ""), Column("value", "", wraps=True)],
        [{"fact": fact, "value": value} for fact, value in facts.items() if value],
    )


def options_sheet(card: Card) -> Sheet:
    """The options of a module: name, type, default and what the docstring says.

    Args:
        card: of it.
    """
    parameters = inspect.signature(card.spec.cls).parameters
    return Sheet(
        "options",
        f"{card.spec.name}: its options",
        [
            Column("option", "option"),
            Column("type", "type"),
            Column("default", "default"),
            Column("meaning", "meaning", wraps=True),
        ],
        [
            {
                "option": option,
                "type": _type(parameters[option]),
                "default": repr(default),
                "meaning": card.doc.arguments.get(option, ""),
            }
            for option, default in card.spec.options.items()
        ],
    )


def _type(parameter: inspect.Parameter) -> str:
    if parameter.annotation is parameter.empty:
        return ""
    text = (
        parameter.annotation
        if isinstance(parameter.annotation, str)
        else inspect.formatannotation(parameter.annotation)
    )
    return text.replace("collections.abc.", "").replace("typing.", "")


def counts_sheet(card: Card) -> Sheet:
    """The cost of a module at each width.

    Args:
        card: of it.
    """
    size = " x ".join(map(str, card.counts[0].size)) if card.counts else ""
    return Sheet(
        "counts",
        f"{card.title}: its cost on features of {size} positions, N = 1",
        [
            Column("channels", "C", digits=0),
            *columns(),
            Column("bytes_moved", "read and written", "MB"),
            Column("kernel_count", "kernels", digits=0, reader="people"),
            Column("kernels", "kernels", reader="programs"),
            Column("misfit", "misfit", reader="programs"),
        ],
        [{"channels": each.channels, **each.record} for each in card.counts],
        misfits({f"C = {each.channels}": each for each in card.counts}),
    )


def sites_sheet(card: Card) -> Sheet:
    """What a module adds to a ResNet-50 at each site where it can go.

    Args:
        card: of it.
    """
    name, input_size = card.network
    plain = card.sites[0].cost if card.sites else None
    records = []
    for row in card.sites[1:]:
        record: dict[str, Any] = {"site": row.site, "where": SITE_WORDS[row.site], "misfit": row.misfit}
        if row.cost and plain:
            params, macs = row.cost.params - plain.params, row.cost.macs - plain.macs
            record |= {"param_count_added": params, "params": f"{params:+,}", "places": row.places}
            record |= {"macs_added": macs, "multiply_adds": f"{macs:+,}"}
            record |= {"bytes_moved": row.cost.attention.bytes, "kernels": row.cost.attention.kernels}
        else:
            record |= dict.fromkeys(("params", "multiply_adds", "places"), "n/a")
        records.append(record)
    return Sheet(
        "sites",
        f"{card.title} in {name}, input {' x '.join(map(str, input_size))}",
        [
            Column("site", "site"),
            Column("where", "where", reader="people", wraps=True),
            Column("places", "places", digits=0),
            Column("params", "params", digits=0, reader="people"),
            Column("param_count_added", "params", "M", reader="programs"),
            Column("multiply_adds", "MACs", digits=0, reader="people"),
            Column("macs_added", "MACs", "G", reader="programs"),
            Column("bytes_moved", "read and written", "MB", digits=1),
            Column("kernels", "kernels", digits=0),
            Column("misfit", "misfit", reader="programs"),
        ],
        records,
        [f"n/a at {row.site}: {row.misfit}." for row in card.sites if row.misfit],
    )


def measured_sheet(card: Card) -> Sheet:
    """The time of a module beside a copy of its input.

    Args:
        card: of it.
    """
    return measured.sheet(card.spec.name, list(card.measured))
