"""Released checkpoints of whole networks: ours must compute what the authors' networks do."""

import gzip
import json
import logging
import math
import pickle
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from torch import Tensor, nn

from attnzoo import official
from attnzoo.inject import attentions
from attnzoo.registry import spec

from . import reference_nets as nets
from .reference_nets import NETWORKS, Network, logits

DATA = Path(__file__).parent / "data"
GOLDENS = ("se_resnet50", "sa_resnet50", "timm_seresnet50")
# Computed and compared; the others, ResNet-101 mostly, are only loaded.
COMPUTED = [name for name, net in NETWORKS.items() if net.depth < 101]
LOADED = [name for name, net in NETWORKS.items() if net.depth == 101]


@cache
def drawn(key: str, shape: tuple[int, ...]) -> Tensor:
    """A weight drawn from its key by the goldens' recipe; networks share the keys of their ResNet, so it is kept."""
    if key.endswith("dct_layer.weight"):  # FcaNet's 16 frequencies, each for as many channels
        return drawn(f"{key}.rows", (16, *shape[1:])).repeat_interleave(shape[0] // 16, 0)
    random = np.random.RandomState(zlib.crc32(key.encode()))
    if key.endswith("num_batches_tracked"):
        return torch.tensor(0)
    if key.endswith("running_mean"):
        values = 0.1 * random.standard_normal(shape)
    elif key.endswith("running_var"):
        values = random.uniform(0.5, 1.5, shape)
    elif len(shape) >= 2 and math.prod(shape[1:]) > 1:
        values = random.standard_normal(shape) / math.sqrt(math.prod(shape[1:]))
    elif len(shape) == 1 and key.endswith("weight"):
        values = random.uniform(0.5, 1.5, shape)
    else:
        values = 0.3 * random.standard_normal(shape)
    return torch.from_numpy(np.asarray(values, np.float32))


def state_of(net: Network) -> dict[str, Tensor]:
    return {key: drawn(key, shape) for key, shape in net.shapes().items()}


def marked(net: Network) -> dict[str, Tensor]:
    """A state dict that costs nothing: every entry one number of its own, repeated."""
    shapes = net.shapes()
    return {
        key: torch.tensor(0) if key.endswith("tracked") else torch.tensor(1.0 + i).expand(shape)
        for i, (key, shape) in enumerate(shapes.items())
    }


def images(height: int = 64, width: int = 96) -> Tensor:
    """The recipe's input; not square, so that height and width cannot be taken for each other."""
    random = np.random.RandomState(0)
    coarse = np.kron(random.standard_normal((2, 3, height // 32, width // 32)), np.ones((1, 1, 32, 32)))
    return torch.from_numpy((2 * (coarse + 0.5 * random.standard_normal((2, 3, height, width)))).astype(np.float32))


def golden(file: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    with np.load(DATA / "goldens" / f"{file}.npz") as held:
        tensors = {key: torch.from_numpy(held[key]) for key in held.files if key != "meta"}
        return json.loads(str(held["meta"])), tensors


def close(ours: Tensor, theirs: Tensor) -> bool:
    return ours.shape == theirs.shape and float((ours - theirs).abs().max()) <= 1e-4 * float(theirs.abs().max())


def save(path: Path, state: dict[str, Tensor], nesting: int) -> Path:
    """A file as people release them, in one of four nestings."""
    wrapped = {f"module.{key}": value for key, value in state.items()}
    extra = {"epoch": 90, "arch": "resnet50", "best_prec1": torch.tensor(77.5), "acc": 77.5, "optimizer": {"state": {}}}
    held: Any = [state, {"state_dict": wrapped, **extra}, {"model": state}, wrapped][nesting]
    torch.save(held, path)
    return path


def numbers(model: nn.Module) -> int:
    return sum(p.numel() for p in model.parameters())


def parameters(net: Network) -> int:
    buffers = ("running_mean", "running_var", "num_batches_tracked", "dct_layer.weight")
    return sum(math.prod(shape) for key, shape in net.shapes().items() if not key.endswith(buffers))


def one_line(error: pytest.ExceptionInfo[BaseException]) -> str:
    message = str(error.value)
    assert message
    assert "\n" not in message
    return message


# --- the reference itself ---


@pytest.mark.parametrize("file", sorted(path.name for path in (DATA / "keys").glob("*.json.gz")))
def test_the_references_names_and_shapes_are_the_authors(file: str) -> None:
    held = json.loads(gzip.decompress((DATA / "keys" / file).read_bytes()))
    net = NETWORKS[held["model"]]
    assert net.shapes() == {key: tuple(shape) for key, shape in held["keys"]}
    assert net.params == held["n_params"]


@pytest.mark.parametrize("name", [name for name, net in NETWORKS.items() if net.params])
def test_the_references_parameters_are_as_many_as_the_authors(name: str) -> None:
    assert parameters(NETWORKS[name]) == NETWORKS[name].params


@pytest.mark.parametrize(("name", "entries"), [("srm_resnet50", 416), ("fcanet50", 368), ("gct_resnet50", 479)])
def test_the_reference_has_as_many_entries_as_the_authors(name: str, entries: int) -> None:
    assert len(NETWORKS[name].shapes()) == entries


@pytest.mark.parametrize(
    ("name", "theirs"),
    [
        ("timm_seresnet18", "seresnet18"),
        ("timm_seresnet50", "seresnet50"),
        ("legacy_seresnet18", "legacy_seresnet18"),
        ("legacy_seresnet50", "legacy_seresnet50"),
        ("res2net50_26w_4s", "res2net50_26w_4s"),
        ("res2net50_14w_8s", "res2net50_14w_8s"),
        ("resnest50", "resnest50d"),
    ],
)
def test_the_reference_is_timms_network(name: str, theirs: str) -> None:
    state = state_of(NETWORKS[name])
    model = timm.create_model(theirs).eval()
    model.load_state_dict(state, strict=True)
    # An odd size too, where pools with and without ceil_mode part.
    for x in (images(), images()[:, :, :61, :77]):
        with torch.inference_mode():
            assert close(logits(state, x, NETWORKS[name].attention), model(x))


@pytest.mark.parametrize("name", GOLDENS)
def test_the_reference_has_the_goldens_logits(name: str) -> None:
    meta, theirs = golden(f"net_{name}")
    net = NETWORKS[name]
    assert (meta["gain"], meta["n_params"]) == (1.0, net.params)
    with torch.inference_mode():
        assert close(logits(state_of(net), images(224, 224), net.attention), theirs["logits"])


@pytest.mark.parametrize(
    ("file", "prefix", "compute"),
    [
        ("se", "se.", nets.se),
        ("cbam", "cbam.", nets.cbam),
        ("bam", "", nets.bam),
        ("sa", "sa.", nets.sa),
        ("triplet", "triplet.", nets.triplet),
        ("eca", "eca.", nets.eca),
        ("sge", "sge.", nets.sge),
        ("simam", "", lambda w, x: nets.simam(x, 1e-4)),
        ("srm", "rclb.", nets.srm),
        ("gct", "", nets.gct),
        ("fca", "att.", nets.fca),
        ("psa", "conv2.", lambda w, x: nets.epsa(w, x, 1)),
        ("splat", "conv2.", lambda w, x: nets.splat(w, x, 1, "")),
        ("res2net_block", "", lambda w, x: nets.block(w, x, "res2net", 1, False, 0)),
    ],
)
def test_the_references_attention_is_the_authors(
    file: str, prefix: str, compute: Callable[[nets.Weights, Tensor], Tensor]
) -> None:
    _, data = golden(file)
    w = nets.Weights({key.replace("sd/", prefix): value for key, value in data.items() if key.startswith("sd/")})
    assert close(compute(w, data["x"]), data["y_eval"])
    assert not w.unread()


# --- networks that are computed ---


@dataclass
class Case:
    """One network: the authors' state dict, ours loaded from a file of it, and what was logged meanwhile."""

    name: str
    net: Network
    state: dict[str, Tensor]
    model: nn.Module
    log: list[logging.LogRecord]


class Kept(logging.Handler):
    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)


@pytest.fixture(scope="module", params=COMPUTED)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    name = request.param
    net, state = NETWORKS[name], state_of(NETWORKS[name])
    path = save(tmp_path_factory.mktemp("released") / f"{name}.pth.tar", state, COMPUTED.index(name) % 4)
    kept, log = Kept(), logging.getLogger("attnzoo.official")
    level = log.level
    log.addHandler(kept)
    log.setLevel(logging.INFO)
    try:
        model = official.load(net.attention, path)
    finally:
        log.removeHandler(kept)
        log.setLevel(level)
        path.unlink()
    return Case(name, net, state, model, kept.records)


def test_logits_are_the_authors(case: Case) -> None:
    with torch.inference_mode():
        theirs = logits(case.state, images(), case.net.attention)
        assert close(case.model.eval()(images()), theirs)


@pytest.mark.parametrize("case", GOLDENS, indirect=True)
def test_logits_are_the_goldens(case: Case) -> None:
    meta, theirs = golden(f"net_{case.name}")
    assert numbers(case.model) == meta["n_params"]
    with torch.inference_mode():
        assert close(case.model.eval()(images(224, 224)), theirs["logits"])


def test_attention_is_ours_everywhere(case: Case) -> None:
    found = attentions(case.model)
    assert len(found) == case.net.places
    assert all(isinstance(module, spec(case.net.attention).cls) for module in found.values())


def test_no_parameter_is_added_or_lost(case: Case) -> None:
    assert numbers(case.model) == parameters(case.net)


def test_what_was_loaded_is_logged(case: Case) -> None:
    said = " ".join(record.getMessage() for record in case.log)
    assert {record.name for record in case.log} == {"attnzoo.official"}
    assert all(record.levelno == logging.INFO for record in case.log)
    counts = {word: re.search(rf"(\d+) {word}\b", said) for word in ("loaded", "renamed", "new", "left")}
    assert all(counts.values()), said
    assert [int(counts[word][1]) for word in ("loaded", "new", "left")] == [len(case.state), 0, 0], said


def test_a_mapping_will_do_and_ours_loads_into_it(case: Case) -> None:
    own = case.model.state_dict()
    again = official.load(case.net.attention, case.state)
    assert list(again.state_dict()) == list(own)
    assert all(torch.equal(value, own[key]) for key, value in again.state_dict().items())
    for value in again.state_dict().values():
        value.zero_()
    again.load_state_dict(own, strict=True)
    assert all(torch.equal(value, own[key]) for key, value in again.state_dict().items())
    # The mapping given is still the caller's.
    assert all(value is drawn(key, tuple(value.shape)) for key, value in case.state.items())
    assert case.state["fc.weight" if "fc.weight" in case.state else "last_linear.weight"].abs().max() > 0


# --- networks that are only loaded ---


@pytest.mark.parametrize("name", LOADED)
def test_deep_networks_load_whole(name: str) -> None:
    net = NETWORKS[name]
    state = marked(net)
    model = official.load(net.attention, {f"module.{key}": value for key, value in state.items()})
    assert len(attentions(model)) == net.places
    assert numbers(model) == parameters(net)
    ours = {key: value for key, value in model.state_dict().items() if not key.endswith("tracked")}
    given = {float(value.flatten()[0]) for key, value in state.items() if not key.endswith("tracked")}
    taken = {key: float(value.flatten()[0]) for key, value in ours.items()}
    assert set(taken.values()) == given
    assert all(bool((ours[key] == number).all()) for key, number in taken.items())


# --- options, heads, old files ---


@pytest.mark.parametrize(("options", "regularisation"), [({}, 0.1), ({"regularisation": 1e-4}, 1e-4)])
def test_simams_lambda_is_that_of_the_released_networks_unless_told(
    options: dict[str, float], regularisation: float
) -> None:
    state = state_of(NETWORKS["simam_resnet18"])
    model = official.load("simam", state, **options).eval()
    assert {m.regularisation for m in attentions(model).values()} == {regularisation}
    with torch.inference_mode():
        for value in (0.1, 1e-4):
            assert close(model(images()), logits(state, images(), "simam", value)) == (value == regularisation)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnest14d", {}),
        ("resnest50d_4s2x40d", {"pool": "before"}),
        ("resnest50d_1s4x24d", {"pool": "before"}),
    ],
)
def test_resnests_splits_groups_and_pools_are_timms(name: str, options: dict[str, str]) -> None:
    theirs = timm.create_model(name).eval()
    theirs.load_state_dict({key: drawn(key, tuple(value.shape)) for key, value in theirs.state_dict().items()})
    ours = official.load("resnest", theirs.state_dict(), **options)
    assert official.identify(theirs.state_dict()) == "splat"
    with torch.inference_mode():
        for x in (images(), images()[:, :, :61, :77]):
            assert close(ours(x), theirs(x))


def test_the_number_of_classes_is_the_heads() -> None:
    net = replace(NETWORKS["se_resnet18"], classes=10)
    state = state_of(net)
    with torch.inference_mode():
        ours = official.load("se", state).eval()(images())
    assert ours.shape == (2, 10)
    assert close(ours, logits(state, images(), "se"))


@pytest.mark.parametrize("name", ["cbam_resnet18", "bam_resnet18", "legacy_seresnet18"])
def test_files_older_than_num_batches_tracked_load(name: str) -> None:
    """torch counts batches since 0.4.1; files of before have none."""
    net = NETWORKS[name]
    state = {key: value for key, value in state_of(net).items() if not key.endswith("num_batches_tracked")}
    with torch.inference_mode():
        ours = official.load(net.attention, state).eval()(images())
    assert close(ours, logits(state, images(), net.attention))


def test_an_alias_will_do() -> None:
    model = official.load("psa", marked(NETWORKS["epsanet50_small"]))
    assert {type(m) for m in attentions(model).values()} == {spec("epsa").cls}


def test_loading_leaves_no_gradient_history_and_trains() -> None:
    model = official.load("se", state_of(NETWORKS["se_resnet18"])).train()
    model(images()).square().mean().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert all(p.is_leaf for p in model.parameters())


# --- what does not fit ---

R18 = {name: NETWORKS[f"{name}_resnet18"] for name in ("se", "cbam", "bam", "triplet", "eca", "sge", "simam")}


@pytest.mark.parametrize("name", sorted({net.attention for net in NETWORKS.values()}))
def test_a_plain_resnet_is_refused(name: str) -> None:
    basic = name in R18
    net = Network("", 18 if basic else 50)
    with pytest.raises(ValueError, match=r"(?i)missing") as error:
        official.load(name, marked(net))
    assert any(place in one_line(error) for place in ("layer1.0.", "bam1", "conv1.0.alpha"))


@pytest.mark.parametrize(
    ("name", "other"), [(name, other) for name in sorted(R18) for other in ("se", "cbam", "eca") if name != other]
)
def test_a_file_of_other_attention_is_refused(name: str, other: str) -> None:
    with pytest.raises(ValueError, match=r"(?i)foreign") as error:
        official.load(name, marked(R18[other]))
    message = one_line(error)
    assert f"layer1.0.{other}." in message
    assert re.search(r"(?i)missing", message)


@pytest.mark.parametrize("name", ["se_resnet18", "cbam_resnet18", "simam_resnet18", "legacy_seresnet18"])
def test_any_missing_entry_is_named(name: str) -> None:
    net = NETWORKS[name]
    state = marked(net)
    keys = [key for key in state if not key.endswith("num_batches_tracked")]
    # All sorts of entries: the stem, first blocks, shortcuts, norms, attention, head.
    for key in {*keys[::9], keys[0], *keys[-2:], "layer1.0.conv1.weight", "layer4.1.conv1.weight"}:
        with pytest.raises(ValueError, match=r"(?i)missing") as error:
            official.load(net.attention, {k: v for k, v in state.items() if k != key})
        # Entries that have another name in ours may be named by it: then the block is enough.
        block = re.match(r"layer\d\.\d\.(?=se|cbam|conv2\.0)", key)
        told = block[0] if block else key.removeprefix("layer0.").replace("last_linear", "")
        assert told in one_line(error)


@pytest.mark.parametrize(
    ("name", "network", "lost"),
    [
        ("cbam", "cbam_resnet18", "layer2.1.cbam.SpatialGate."),
        ("triplet", "triplet_resnet18", "layer2.1.triplet_attention.SpatialGate."),
        ("bam", "bam_resnet18", "bam2.spatial_att.gate_s.gate_s_conv_di_1."),
    ],
)
def test_a_part_that_one_block_lacks_is_missing(name: str, network: str, lost: str) -> None:
    """What an option could explain in the whole file is no option of one block."""
    state = {key: value for key, value in marked(NETWORKS[network]).items() if not key.startswith(lost)}
    with pytest.raises(ValueError, match=re.escape(f"missing keys {lost}")) as error:
        official.load(name, state)
    one_line(error)


@pytest.mark.parametrize("nesting", ["net", "model_state_dict"])
@pytest.mark.parametrize("prefix", ["_orig_mod.", "module._orig_mod.", "module.model."])
def test_other_nestings_and_prefixes_load(nesting: str, prefix: str) -> None:
    state = {f"{prefix}{key}": value for key, value in marked(R18["eca"]).items()}
    assert len(attentions(official.load("eca", {nesting: state}))) == 8


@pytest.mark.parametrize(
    "state",
    [
        {1: torch.zeros(2)},
        {**marked(R18["se"]), "layer1.0.conv2.weight": torch.zeros(4)},
        {**marked(R18["se"]), "layer1.0.bn2.weight": torch.zeros(2)},
        {**marked(R18["se"]), "conv1.weight": torch.zeros(64)},
    ],
    ids=["keys", "convolution", "norm", "stem"],
)
def test_what_is_no_network_is_refused_in_one_line(state: Any) -> None:
    with pytest.raises(ValueError, match="state dict") as error:
        official.load("se", state)
    one_line(error)


def test_a_file_cut_short_is_refused() -> None:
    state = {k: v for k, v in marked(R18["se"]).items() if not k.startswith(("layer4", "fc"))}
    with pytest.raises(ValueError, match=r"(?i)missing") as error:
        official.load("se", state)
    assert re.search(r"layer4|fc\.weight", one_line(error))


def test_foreign_entries_are_named() -> None:
    state = {**marked(R18["se"]), "aux.weight": torch.zeros(1), "layer2.1.scale": torch.zeros(1)}
    with pytest.raises(ValueError, match=r"(?i)foreign") as error:
        official.load("se", state)
    assert "aux.weight" in one_line(error)
    assert "layer2.1.scale" in one_line(error)


def test_another_shape_is_named() -> None:
    state = {**marked(R18["se"]), "layer3.1.conv2.weight": torch.zeros(256, 256, 1, 1)}
    with pytest.raises(ValueError, match=r"layer3\.1\.conv2\.weight") as error:
        official.load("se", state)
    one_line(error)


@pytest.mark.parametrize("name", ["mpe", "ca", "ema", "gc", "nl"])
def test_modules_without_released_networks_say_so(name: str) -> None:
    with pytest.raises(ValueError, match=r"released|published") as error:
        official.load(name, marked(R18["se"]))
    assert name in one_line(error)


def test_unknown_names_and_options_are_refused() -> None:
    with pytest.raises(ValueError, match="sse"):
        official.load("sse", marked(R18["se"]))
    with pytest.raises(TypeError, match="lamda"):
        official.load("simam", marked(R18["simam"]), lamda=0.1)


@pytest.mark.parametrize("held", [[1, 2], {}, {"state_dict": {}}, {"epoch": 3}, {"conv1.weight": "text"}])
def test_a_file_without_weights_is_refused(held: Any, tmp_path: Path) -> None:
    torch.save(held, tmp_path / "odd.pth")
    with pytest.raises(ValueError, match=r"odd\.pth") as error:
        official.load("se", tmp_path / "odd.pth")
    one_line(error)


def test_a_file_that_is_not_there_or_not_safe_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        official.load("se", tmp_path / "none.pth")
    (tmp_path / "text.pth").write_text("not a checkpoint")
    with pytest.raises(ValueError, match=r"text\.pth") as error:
        official.load("se", str(tmp_path / "text.pth"))
    one_line(error)
    made = tmp_path / "made"
    (tmp_path / "code.pth").write_bytes(pickle.dumps(partial(made.mkdir)))
    with pytest.raises(ValueError, match=r"code\.pth") as error:
        official.load("se", tmp_path / "code.pth")
    one_line(error)
    assert not made.exists()
