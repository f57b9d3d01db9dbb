"""Pages that are made when the site is built: one for each module of the registry, with a picture of its gate."""

import html
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from torch import Tensor, nn

from attnzoo import nd
from attnzoo.backbones import create_backbone
from attnzoo.catalogue.card import SITE_WORDS, Card, card, counts_sheet, measured_sheet, options_sheet, sites_sheet
from attnzoo.catalogue.listing import listing
from attnzoo.inject import attentions, inject
from attnzoo.maps import GateMap, enlarge, gate_maps
from attnzoo.profiling import paper
from attnzoo.profiling.recipe import read
from attnzoo.profiling.report import render
from attnzoo.profiling.sheets import Sheet
from attnzoo.registry import list_modules, spec

VIDEO = Path(__file__).parents[2] / "tests" / "data" / "bigbuckbunny.mp4"
FRAME = 60
STAGE = 2  # of the small network, whose maps there have an eighth of the frame's resolution
KINDS = {
    "gate": "The gate by which the features are multiplied, averaged over channels",
    "gain": "It is not of the form x * gate(x); this is the norm over channels of its output, divided by its input's",
    "energy": "It takes the place of a convolution; this is the root mean square over channels of its output",
}


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Name the pages in the navigation."""
    for section in config.nav or []:
        if "Modules" in section:
            section["Modules"] += [{name: f"modules/{name}.md"} for name in list_modules()]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Make the pages and their pictures."""
    matplotlib.use("agg")
    frame = _frame(VIDEO, FRAME)
    files.append(File.generated(config, "modules/index.md", content=_index()))
    for name in list_modules():
        found = card(name)
        seen, channels = _look(name, frame)
        picture = _picture(frame, seen, channels)
        files.append(File.generated(config, f"modules/{name}.png", content=picture))
        files.append(File.generated(config, f"modules/{name}.md", content=_page(found, seen, channels is not None)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put tables that commands print where a comment asks for them."""
    marker = "<!-- attnzoo table table1 -->"
    return markdown.replace(marker, _table_1()) if marker in markdown else markdown


def _table_1() -> str:
    def build(name: str, classes: int | None = None) -> nn.Module:
        with torch.device("meta"):
            return create_backbone(name, num_classes=classes)

    recipe = read("table1", build)
    assert recipe.paper is not None
    return _table(paper.sheet(recipe.paper, list(paper.measure(recipe.paper, build))))


def _index() -> str:
    found = listing()
    order = ("name", "idea", "year", "site", "params", "multiply_adds")
    shown = {column.key: column for column in found.columns}
    records = [
        {**record, "name": f"[{record['name']}]({record['name']}.md)", "idea": _prose(record["idea"])}
        for record in found.records
    ]
    table = _table(replace(found, columns=[shown[key] for key in order], records=records))
    return (
        f"---\nhide: [toc]\n---\n\n# Modules\n\n{found.title}. `attnzoo list` prints this table, and less of it: see "
        f"[Finding the right one](../finding.md).\n\n{table}\n"
    )


def _page(found: Card, seen: GateMap, by_channel: bool) -> str:
    about = found.spec
    facts = {
        "paper": f"<{about.paper}>" if about.paper else "",
        "year": str(about.year or ""),
        "also called": ", ".join(f"`{alias}`" for alias in about.aliases),
        "site": f"`{about.site}`: {SITE_WORDS[about.site]}",
        "dims": ", ".join(f"{d}D" for d in sorted(about.dims)),
        "fidelity": _prose(found.fidelity),
    }
    table = "".join(f"| {fact} | {value} |\n" for fact, value in facts.items() if value)
    options = options_sheet(found)
    told = [
        {**{key: _code(row[key]) for key in ("option", "type", "default")}, "meaning": _prose(row["meaning"])}
        for row in options.records
    ]
    sites = sites_sheet(found)
    sites = replace(sites, columns=[column for column in sites.columns if column.key != "where"])
    size = " x ".join(map(str, found.counts[0].size))
    network, input_size = found.network
    costs = {
        f"On features of {size} positions, N = 1": counts_sheet(found),
        f"Added to {network}, input {' x '.join(map(str, input_size))}": sites,
        "Time, in multiples of that of a copy x * c": measured_sheet(found),
    }
    parts = [
        f"# {about.name}",
        _prose(about.idea),
        f"| | |\n| --- | --- |\n{table}",
        f"```text\n{about.formula.replace('; ', chr(10))}\n```" if about.formula else "",
        *map(_prose, found.doc.text),
        f"**3D**: {_prose(found.rule_3d)}.",
        "## Use",
        f"```python\n{found.python}\n```",
        f"```console\n$ {found.shell.replace(chr(10), chr(10) + '$ ')}\n```",
        *(["## Options", _table(replace(options, records=told))] if told else []),
        "## Cost",
        *(f"### {_prose(head)}\n\n{_table(each)}" for head, each in costs.items() if each.records),
        "" if found.measured else "Its time beside a copy was not measured yet; `attnzoo bench` measures it.",
        "## What it looks at",
        f"![A frame, and beside it what {about.name} makes of each position]({about.name}.png)",
        _caption(seen, by_channel),
        "## Class",
        f"::: {about.cls.__module__}.{about.cls.__qualname__}\n    options:\n      heading_level: 3\n"
        "      members: false\n      show_bases: false\n      show_docstring_description: false\n"
        "      show_docstring_parameters: false\n      show_docstring_attributes: false",
    ]
    return "\n\n".join(filter(None, parts)) + "\n"


def _caption(seen: GateMap, by_channel: bool) -> str:
    what = (
        "The gate by which the features are multiplied, the same at all positions and here shown for each channel"
        if by_channel
        else KINDS[seen.kind]
    )
    return (
        f"{what}. A small ResNet has it in stage {STAGE}. Nothing is trained, all weights are drawn (seed 0): the "
        "picture shows what the module can tell apart, not what training makes of it. Frame: Big Buck Bunny, (c) 2008 "
        "Blender Foundation, [CC-BY 3.0](https://creativecommons.org/licenses/by/3.0/)."
    )


def _table(sheet: Sheet) -> str:
    """A table, without its title, and its notes as paragraphs below it."""
    table = render([sheet], "markdown").partition("\n")[2].strip().split("\n\n")[0]
    said = "\n\n".join(map(_prose, sheet.notes))
    return f'{table}\n\n<div class="notes" markdown>\n\n{said}\n\n</div>' if said else table


def _code(text: str) -> str:
    """Code in the cell of a table, where a bar would end it."""
    return f"<code>{html.escape(text).replace('|', '&#124;')}</code>"


def _prose(text: str) -> str:
    """Text of a docstring, in which only `code` is marked up."""
    parts = re.split(r"(`[^`]+`)", text)
    return "".join(
        part if i % 2 else re.sub(r"([*_\[\]])", r"\\\1", part).replace("<", "&lt;") for i, part in enumerate(parts)
    )


def _frame(video: Path, number: int) -> np.ndarray:
    with av.open(str(video)) as container:
        for i, frame in enumerate(container.decode(video=0)):
            if i == number:
                return frame.to_ndarray(format="rgb24")
    raise ValueError(f"{video} has no frame {number}")


def _look(name: str, frame: np.ndarray) -> tuple[GateMap, Tensor | None]:
    """What attention makes of a frame in a small network; where that is the same at all positions, of each channel."""
    torch.manual_seed(0)
    # The last block: in the first a convolution changes the width, which not all that replace one can.
    blocks = None if spec(name).site == "stage" else "last"
    network = inject(create_backbone("torchvision/resnet18"), name, stages=(STAGE,), blocks=blocks)
    x = torch.from_numpy(frame).permute(2, 0, 1).unsqueeze(0).float() / 255
    with torch.no_grad():
        for attention in attentions(network).values():
            for parameter in attention.parameters():  # many start where all positions are alike
                parameter += torch.randn_like(parameter) / 10
        for norm in network.modules():
            if isinstance(norm, nn.modules.batchnorm._BatchNorm):
                norm.momentum = None  # the statistics are those of the frame
        network.train()(torch.cat([x, x.flip(3)]))
    network.eval()
    path, attention = list(attentions(network).items())[-1]
    inputs: list[Tensor] = []
    handle = attention.register_forward_pre_hook(lambda _, args: inputs.append(args[0]))
    seen = gate_maps(network, x)[path]
    handle.remove()
    spread = float(seen.values.max() - seen.values.min())
    if isinstance(attention, nd.Gate) and spread < 1e-4 * float(seen.values.abs().max()):
        with torch.no_grad():
            return seen, attention.gate(inputs[-1])[0].flatten(1).mean(1)
    return seen, None


def _picture(frame: np.ndarray, seen: GateMap, channels: Tensor | None) -> bytes:
    figure = Figure(figsize=(9, 2.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.imshow(frame)
    left.set_axis_off()
    if channels is None:
        grey = frame.mean(2)
        right.imshow(grey, cmap="gray")
        values = enlarge(seen.values, grey.shape)[0].numpy()
        image = right.imshow(values, cmap="inferno", alpha=0.75)
        right.set_axis_off()
        figure.colorbar(image, ax=right, label=seen.kind)
    else:
        right.plot(channels.numpy(), "o", markersize=3, color="#b5367a")
        right.set_xlabel("channel")
        right.set_ylabel(seen.kind)
        right.spines[["top", "right"]].set_visible(False)
    return _png(figure)


def _png(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return buffer.getvalue()
