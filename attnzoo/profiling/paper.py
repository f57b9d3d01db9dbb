"""A paper's printed costs held against ours: the verdict comes of rounding our integer as the paper prints its own."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import ROUND_DOWN, ROUND_HALF_UP, Decimal

import torch
from torch import Tensor, nn

from attnzoo.profiling.cost import Cost
from attnzoo.profiling.counter import profile
from attnzoo.profiling.recipe import Paper, PaperRow
from attnzoo.profiling.sheets import Column, Sheet, Units, scale
from attnzoo.profiling.table import default_size
from attnzoo.profiling.twin import Remembering, twin, undisturbed

MACS_2BN = "macs+2bn"
AS_PRINTED = "as printed"
TRUNCATED = "truncated"


@dataclass(frozen=True, slots=True)
class Judged:
    """A printed number and ours.

    Attributes:
        paper: as printed.
        ours: the integer.
        equal: "as printed", "truncated" or "as 49.3"; "" if ours cannot be printed like that.
        deviation: of ours from the paper's, %.

    >>> judge("49.30", 49_292_328, 10**6)
    Judged(paper='49.30', ours=49292328, equal='as 49.3', deviation=-0.0155...)
    """

    paper: str
    ours: int
    equal: str
    deviation: float


def judge(paper: str, ours: int, unit: int) -> Judged:
    """Whether a number that a paper prints is ours.

    Rounded to the paper's decimals it may be equal as printed; else equal when the decimals are cut off; else, where
    the paper's last decimal is a zero that may be padding, equal without it.

    Args:
        paper: as printed, with its decimals.
        ours: the integer.
        unit: what the paper counts in, such as 10**6.

    >>> judge("7.84", 7_845_199_312, 10**9).equal
    'truncated'
    """
    exact = Decimal(ours) / unit
    printed = Decimal(paper)

    def cut(like: Decimal, rounding: str) -> Decimal:
        return exact.quantize(like, rounding=rounding)

    equal = ""
    if cut(printed, ROUND_HALF_UP) == printed:
        equal = AS_PRINTED
    elif cut(printed, ROUND_DOWN) == printed:
        equal = TRUNCATED
    elif "." in paper and paper.endswith("0") and cut(Decimal(paper[:-1]), ROUND_HALF_UP) == printed:
        equal = f"as {paper[:-1].rstrip('.')}"
    return Judged(paper, ours, equal, float(100 * (exact / printed - 1)) if printed else float("inf"))


@dataclass(frozen=True, slots=True)
class Result:
    """A row of a paper, measured.

    Attributes:
        row: of the recipe.
        counter: the convention of its FLOPs.
        convention: whether that is another than the paper's table has.
        plain: the network without attention, under the same head.
        plain_flops: its FLOPs in the convention.
        cost: of the network with it.
        params: the verdict on the parameters.
        flops: the verdict on the FLOPs.
    """

    row: PaperRow
    counter: str
    convention: bool
    plain: Cost
    plain_flops: int
    cost: Cost
    params: Judged
    flops: Judged

    @property
    def verdict(self) -> str:
        """In words: equal, equal under a named convention, or not reproducible."""
        judged = {"params": self.params, "FLOPs": self.flops}
        missed = [name for name, each in judged.items() if not each.equal]
        if missed:
            return "not reproducible" if len(missed) == len(judged) else f"{missed[0]} not reproducible"
        named = [f"{name} {each.equal}" for name, each in judged.items() if each.equal != AS_PRINTED]
        if self.convention:
            named = [n for n in named if not n.startswith("FLOPs")]
            named += [f"FLOPs by {self.counter}" + (", truncated" if self.flops.equal == TRUNCATED else "")]
        return f"equal with {' and '.join(named)}" if named else "equal as printed"

    def why(self, units: Units) -> str:
        """Why it is not reproducible, with the numbers filled in; "" if it is.

        Args:
            units: of the paper.
        """
        if self.params.equal and self.flops.equal:
            return ""
        facts = {"classes": str(self.row.num_classes)}
        for what, prefix, judged, plain in (
            ("params", "M", self.params, self.plain.params),
            ("flops", "G", self.flops, self.plain_flops),
        ):
            column = Column("", "", prefix)
            paper = Decimal(judged.paper) * scale(prefix, units)
            for of, value in (
                ("plain", plain),
                ("ours", judged.ours),
                ("added", judged.ours - plain),
                ("excess", plain - paper),
            ):
                facts[f"{what}_{of}"] = f"{column.text(int(value), units)} {column.unit_name(units)}"
            facts[f"{what}_paper"] = f"{judged.paper} {column.unit_name(units)}"
        return self.row.reason.format(**facts) or "This configuration prints other numbers, whatever the counter."


def measure(paper: Paper, build: Callable[[str, int | None], nn.Module]) -> Iterator[Result]:
    """Every row of a paper's table.

    Args:
        paper: of the recipe.
        build: makes the plain network from its name and the number of classes, on the meta device for speed.

    Raises:
        ValueError: what `Attention.put_into` and `profile` raise, with the row's label.

    >>> from attnzoo import create_backbone
    >>> row = PaperRow(label="SE", attn="se", params="11.8", flops="1.8")
    >>> paper = Paper(title="", network="timm/resnet18", rows=[row])
    >>> [r.verdict for r in measure(paper, lambda name, classes: create_backbone(name, num_classes=classes))]
    ['equal as printed']
    """
    plains: dict[int, tuple[nn.Module, Cost]] = {}
    for row in paper.rows:
        try:
            if row.num_classes not in plains:
                network = build(paper.network.backbone, row.num_classes)
                size = paper.network.input_size or default_size(network)
                plains[row.num_classes] = network, profile(network, size, memory=False)
            network, plain = plains[row.num_classes]
            model = row.attention.put_into(network)
            cost = profile(model, plain.input_size, memory=False)
        except (ValueError, TypeError) as error:
            raise ValueError(f"row {row.label} of {paper.title}: {error}") from error
        counter = row.counter or _counter(row.flops, paper, model, cost)
        yield Result(
            row,
            counter,
            counter != paper.counter,
            plain,
            _flops(counter, network, plain),
            cost,
            judge(row.params, cost.params, scale("M", paper.units)),
            judge(row.flops, _flops(counter, model, cost), scale("G", paper.units)),
        )


def _counter(printed: str, paper: Paper, model: nn.Module, cost: Cost) -> str:
    """The paper's convention, unless the row is equal as printed under another one alone."""

    def equal(name: str) -> str:
        return judge(printed, _flops(name, model, cost), scale("G", paper.units)).equal

    if equal(paper.counter):
        return paper.counter
    return next((name for name in (*cost.by_counter, MACS_2BN) if equal(name) == AS_PRINTED), paper.counter)


def _flops(counter: str, model: nn.Module, cost: Cost) -> int:
    """In a convention, of a model of that cost."""
    return cost.macs + 2 * _batch_norm(model, cost) if counter == MACS_2BN else cost.by_counter[counter]


def _batch_norm(model: nn.Module, cost: Cost) -> int:
    """Elements that the batch norms of a network see in one pass."""
    seen = 0

    def count(_: nn.Module, args: tuple[Tensor, ...]) -> None:
        nonlocal seen
        seen += args[0].numel()

    ghost = twin(model, cost.device).eval()
    for module in ghost.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.register_forward_pre_hook(count)
    with undisturbed(), torch.no_grad(), Remembering() if cost.device == "meta" else contextlib.nullcontext():
        ghost(*(torch.zeros(size, device=cost.device) for size in cost.input_size))
    return seen


def sheet(paper: Paper, results: Sequence[Result]) -> Sheet:
    """The verdicts as a table of a report: the paper's numbers in columns of their own, ours beside them.

    Args:
        paper: of the recipe.
        results: of `measure`.

    >>> from attnzoo import create_backbone
    >>> row = PaperRow(label="SE", attn="se", params="11.8", flops="1.8")
    >>> paper = Paper(title="Table 1", network="timm/resnet18", rows=[row])
    >>> sheet(paper, list(measure(paper, lambda name, classes: create_backbone(name, num_classes=classes)))).title
    'Table 1 in timm/resnet18, input 1 x 3 x 224 x 224, eval mode'
    """
    columns = [
        Column("row", "row", wraps=True),
        Column("configuration", "ours", reader="people", wraps=True),
        Column("model", "model", reader="programs"),
        Column("attn", "attn", reader="programs"),
        Column("site", "site", reader="programs"),
        Column("options", "options", reader="programs"),
        Column("num_classes", "num_classes", reader="programs"),
        Column("img_size", "img_size", reader="programs"),
    ]
    for key, head, unit in (("param_count", "params", "M"), ("flops", "FLOPs", "G")):
        columns += [
            Column(f"paper_{key}", head, unit, "paper", units=paper.units),
            Column(key, head, unit, "ours"),
            Column(f"{key}_deviation", "off", "%", digits=2, signed=True),
        ]
    columns += [Column("counter", "counter", reader="programs"), Column("verdict", "verdict", wraps=True)]
    records = []
    for result in results:
        row, attention = result.row, result.row.attention
        told = (attention.site, f"{row.num_classes} classes", attention.written, result.counter)
        records.append(
            {
                "row": row.label,
                "configuration": " ".join(filter(None, told)).replace(",", " "),
                "model": paper.network.backbone,
                "attn": attention.name,
                "site": attention.site,
                "options": attention.written,
                "num_classes": row.num_classes,
                "img_size": "x".join(map(str, result.cost.input_size[0][2:])),
                "paper_param_count": row.params,
                "param_count": result.params.ours,
                "param_count_deviation": result.params.deviation,
                "paper_flops": row.flops,
                "flops": result.flops.ours,
                "flops_deviation": result.flops.deviation,
                "counter": result.counter,
                "verdict": result.verdict,
                "why": result.why(paper.units),
            }
        )
    size = " x ".join(map(str, results[0].cost.input_size[0]))
    title = f"{paper.title} in {paper.network.backbone}, input {size}, eval mode"
    return Sheet("paper", title, columns, records, list(_notes(paper, results)), paper.units)


def _notes(paper: Paper, results: Sequence[Result]) -> Iterator[str]:
    yield (
        f"Equal as printed: ours, rounded to the paper's decimals, is what it prints; FLOPs by {paper.counter} unless "
        "said otherwise. Off: deviation of ours from the paper's number."
    )
    equals = {equal for r in results for equal in (r.params.equal, r.flops.equal)}
    if TRUNCATED in equals:
        yield "Truncated: equal when the decimals after the paper's last one are cut off instead of rounded."
    for r in results:
        for judged in (r.params, r.flops):
            if judged.equal.startswith("as ") and judged.equal != AS_PRINTED:
                yield f"{r.row.label} {judged.equal}: equal to {judged.paper} if its last zero is padding."
    if any(r.counter == MACS_2BN for r in results):
        yield (
            "macs+2bn: multiply-accumulates plus two for an element that a batch norm sees. It is fvcore's count, but "
            "for what fvcore charges pooling modules and group norms."
        )
    for r in results:
        for text in (r.row.note, r.why(paper.units)):
            if text:
                yield f"{r.row.label}: {' '.join(text.split())}"
