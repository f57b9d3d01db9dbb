"""Backbones by name, the Kinetics 3D ResNets, and weights from files."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import attnzoo
from attnzoo import create_backbone
from attnzoo.backbones.resnet3d import PadShortcut, resnet3d
from attnzoo.inject import attentions

CLASSES = (8, 400, 700, 1039)
# Depth -> millions of parameters for each number of classes, and with shortcut A (400); state-dict entries;
# 10^9 multiply-accumulates of a 16 x 112 x 112 clip with a stride along time of 1 and of 2 in the first convolution.
KINETICS: dict[int, tuple[tuple[float, ...], float, int, tuple[float, float]]] = {
    10: ((14.40, 14.61, 14.76, 14.93), 14.43, 74, (5.65, 2.91)),
    18: ((33.21, 33.41, 33.56, 33.74), 33.24, 122, (8.31, 4.35)),
    34: ((63.52, 63.72, 63.87, 64.05), 63.55, 218, (12.70, 6.66)),
    50: ((46.22, 47.02, 47.63, 48.33), 44.24, 320, (10.07, 5.26)),
    101: ((85.26, 86.07, 86.68, 87.37), 83.29, 626, (13.89, 7.17)),
    152: ((117.42, 118.22, 118.84, 119.53), 115.45, 932, (18.61, 9.53)),
    200: ((126.62, 127.42, 128.04, 128.73), 124.65, 1220, (25.80, 13.13)),
}


def millions(model: nn.Module) -> float:
    return sum(p.numel() for p in model.parameters()) / 1e6


@pytest.mark.parametrize("depth", KINETICS)
def test_resnet3d_has_the_published_size(depth: int) -> None:
    counts, padded, entries, giga = KINETICS[depth]
    with torch.device("meta"):
        model = resnet3d(depth, num_classes=0)
        assert len(model.state_dict()) == entries - 2
        for classes, count in zip(CLASSES, counts, strict=True):
            model.fc = nn.Linear(model.num_features, classes)
            assert millions(model) == pytest.approx(count, abs=0.01)
        model = resnet3d(depth, shortcut="A")
        assert millions(model) == pytest.approx(padded, abs=0.01)
        assert not any("downsample" in key for key in model.state_dict())
        for stride, macs in zip((1, 2), giga, strict=True):
            model = resnet3d(depth, stem_stride=stride)
            assert len(model.state_dict()) == entries
            cost = attnzoo.profile(model, (1, 3, 16, 112, 112), counter="macs")
            assert cost.macs / 1e9 == pytest.approx(macs, abs=0.01)


def test_resnet3d_101_exactly() -> None:
    with torch.device("meta"):
        assert sum(p.numel() for p in resnet3d(101, num_classes=400).parameters()) == 86_064_720


@pytest.mark.parametrize(("depth", "expansion"), [(10, 1), (34, 1), (50, 4)])
def test_resnet3d_halves_the_clip_as_published(depth: int, expansion: int) -> None:
    with torch.device("meta"):
        model = resnet3d(depth, num_classes=0)
        shapes = {}
        for name in ("conv1", "layer1", "layer2", "layer3", "layer4"):
            hook = lambda _, __, out, name=name: shapes.update({name: tuple(out.shape[1:])})  # noqa: E731
            model.get_submodule(name).register_forward_hook(hook)
        out = model(torch.empty(2, 3, 16, 112, 112))
    assert shapes == {
        "conv1": (64, 16, 56, 56),
        "layer1": (64 * expansion, 8, 28, 28),
        "layer2": (128 * expansion, 4, 14, 14),
        "layer3": (256 * expansion, 2, 7, 7),
        "layer4": (512 * expansion, 1, 4, 4),
    }
    assert tuple(out.shape) == (2, model.num_features) == (2, 512 * expansion)


@pytest.mark.parametrize("depth", [18, 34, 50, 101, 152])
def test_resnet3d_has_the_keys_of_the_2d_networks(depth: int) -> None:
    with torch.device("meta"):
        flat = getattr(torchvision.models, f"resnet{depth}")(num_classes=400).state_dict()
        assert list(resnet3d(depth).state_dict()) == list(flat)


@pytest.mark.parametrize("depth", [18, 50])
def test_resnet3d_on_one_frame_is_torchvisions_resnet(depth: int) -> None:
    """With each 2D kernel as the centre of a 3D one, a clip of one frame must give torchvision's output."""
    torch.manual_seed(0)
    flat = getattr(torchvision.models, f"resnet{depth}")(num_classes=7).eval()
    volume = resnet3d(depth, num_classes=7).eval()
    state = volume.state_dict()
    for key, value in flat.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif key.endswith("running_mean"):
            value.normal_(0, 0.1)
        if value.ndim == 4:
            state[key].zero_()
            state[key][:, :, state[key].shape[2] // 2] = value
        else:
            state[key].copy_(value)
    x = torch.randn(2, 3, 32, 48)
    with torch.no_grad():
        torch.testing.assert_close(volume(x.unsqueeze(2)), flat(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [3, 8])
def test_shortcut_a_is_subsampling_and_zero_channels(channels: int, stride: int) -> None:
    for size in ((4, 6, 8), (3, 5, 1)):
        x = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
        taken = x[:, :, torch.arange(0, size[0], stride)]
        taken = taken[:, :, :, torch.arange(0, size[1], stride)][..., torch.arange(0, size[2], stride)]
        plain = torch.zeros(2, channels, *taken.shape[2:], dtype=x.dtype)
        plain[:, :3] = taken
        shortcut = PadShortcut(channels, stride)
        assert torch.equal(shortcut(x), plain)
        assert taken.shape == nn.functional.avg_pool3d(x, 1, stride).shape
        assert not list(shortcut.state_dict())
        (gradient,) = torch.autograd.grad(shortcut(x).sum(), x)
        assert gradient.sum() == taken.numel()


@pytest.mark.parametrize("depth", [10, 50])
def test_resnet3d_with_shortcut_a_runs_and_trains(depth: int) -> None:
    model = resnet3d(depth, num_classes=3, shortcut="A", widen_factor=0.125, stem_pool=False, stem_size=3)
    model(torch.randn(2, 3, 3, 9, 11)).sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(("depth", "options"), [(51, {}), (18, {"shortcut": "C"})])
def test_resnet3d_refuses_unknown_depths_and_shortcuts(depth: int, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"51.*10, 14, 18, 34, 50, 101, 152, 200|'C'.*A.*B"):
        resnet3d(depth, **options)


FAMILIES = {"timm/resnet18": 512, "torchvision/resnet50": 2048, "resnet3d/10": 512}


def pictures(name: str, channels: int = 3) -> Tensor:
    return torch.randn(2, channels, *((4, 32, 32) if "3d" in name else (32, 32)))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_takes_the_same_arguments(name: str) -> None:
    for classes, channels in ((8, 3), (0, 1)):
        model = create_backbone(name, num_classes=classes, in_channels=channels).eval()
        assert (model.num_classes, model.num_features) == (classes, FAMILIES[name])
        with torch.no_grad():
            assert model(pictures(name, channels)).shape == (2, classes or FAMILIES[name])
    with torch.device("meta"):
        default = create_backbone(name, in_channels=2)
        assert default.num_classes == 1000
        assert default(pictures(name, 2).to("meta")).shape == (2, 1000)


@pytest.mark.parametrize("name", FAMILIES)
def test_the_attention_flag_is_injection(name: str) -> None:
    options = {"stages": (3, 4), "blocks": "last", "site": "out", "identity": True}
    with torch.device("meta"):
        plain = create_backbone(name, num_classes=8)
        ours = create_backbone(name, num_classes=8, attn="mpe", attn_options={"groups": 16}, **options)
        theirs = attnzoo.inject(plain, "mpe", groups=16, **options)
        shapes = [[(k, v.shape) for k, v in m.state_dict().items()] for m in (ours, theirs)]
        assert shapes[0] == shapes[1]
        default = create_backbone(name, attn="se")
        everywhere = attnzoo.inject(create_backbone(name), "se")
        assert list(default.state_dict()) == list(everywhere.state_dict())


def test_options_go_to_the_network() -> None:
    with torch.device("meta"):
        assert create_backbone("resnet3d/10", widen_factor=2).num_features == 1024
        assert create_backbone("timm/resnet18", block_args={"attn_layer": "eca"}).layer1[0].se is not None
        assert create_backbone("torchvision/resnet50", width_per_group=128).layer1[0].conv1.out_channels == 128


def test_one_channel_responds_like_three_grey_ones() -> None:
    torch.manual_seed(0)
    colour = create_backbone("torchvision/resnet18", num_classes=0).eval()
    torch.manual_seed(0)
    grey = create_backbone("torchvision/resnet18", num_classes=0, in_channels=1).eval()
    x = pictures("torchvision", 1)
    with torch.no_grad():
        torch.testing.assert_close(grey(x), colour(x.expand(-1, 3, -1, -1)), rtol=1e-4, atol=1e-4)


def checkpoint(path: Path, state: dict[str, Tensor], kind: str) -> Path:
    """A file as people publish them."""
    if kind == "new":  # Kinetics, since 2020
        saved: Any = {
            "epoch": 200,
            "arch": "resnet-10",
            "state_dict": state,
            "optimizer": {"state": {}},
            "scheduler": {},
        }
    elif kind == "old":  # Kinetics, 2018: saved from DataParallel
        saved = {"epoch": 9, "arch": "resnet-10", "state_dict": {f"module.{k}": v for k, v in state.items()}}
        saved["optimizer"] = {"param_groups": [{"lr": 0.1}]}
    elif kind == "model":
        saved = {"model": state}
    else:
        saved = state
    torch.save(saved, path)
    return path


@pytest.mark.parametrize("kind", ["new", "old", "model", "bare"])
@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("resnet3d/10", {"widen_factor": 0.25}),
        ("timm/resnet10t", {"channels": (16, 32, 64, 128)}),
        ("torchvision/resnet50", {"width_per_group": 8}),
    ],
)
@pytest.mark.parametrize("attn", [None, "se"])
def test_weights_files_load(tmp_path: Path, name: str, options: dict[str, Any], kind: str, attn: str | None) -> None:
    source = create_backbone(name, num_classes=5, **options).eval()
    file = checkpoint(tmp_path / "weights.pth", source.state_dict(), kind)
    loaded = create_backbone(name, num_classes=5, weights=file, attn=attn, identity=attn is not None, **options).eval()
    x = pictures(name)
    with torch.no_grad():
        assert torch.equal(loaded(x), source(x))


@pytest.mark.parametrize("classes", [8, 0])
@pytest.mark.parametrize(("name", "kind"), [("resnet3d/10", "old"), ("torchvision/resnet18", "bare")])
def test_a_head_for_other_classes_is_left_out(tmp_path: Path, name: str, kind: str, classes: int) -> None:
    source = create_backbone(name, num_classes=5).state_dict()
    file = checkpoint(tmp_path / "weights.pth", source, kind)
    torch.manual_seed(3)
    model = create_backbone(name, num_classes=classes, weights=str(file))
    torch.manual_seed(3)
    fresh = create_backbone(name, num_classes=classes).state_dict()
    for key, value in model.state_dict().items():
        assert torch.equal(value, (fresh if key.startswith("fc.") else source)[key]), key
    assert sum(key.startswith("fc.") for key in model.state_dict()) == (2 if classes else 0)


class Foreign:
    """Something that torch.load would have to run code for."""


def foreign_files(folder: Path) -> dict[str, Path]:
    good = checkpoint(folder / "good.pth", resnet3d(10, widen_factor=0.125).state_dict(), "new")
    files = {name: folder / f"{name}.pth" for name in ("truncated", "empty", "text", "code", "numbers", "nothing")}
    files["truncated"].write_bytes(good.read_bytes()[: good.stat().st_size // 2])
    files["empty"].write_bytes(b"")
    files["text"].write_text("<html>\n<body>Quota exceeded</body>\n</html>\n")
    torch.save({"state_dict": {"conv1.weight": Foreign()}}, files["code"])
    torch.save({"epoch": 3, "losses": [1.0, 2.0]}, files["numbers"])
    torch.save({"state_dict": {}}, files["nothing"])
    return files


@pytest.mark.parametrize("kind", ["truncated", "empty", "text", "code", "numbers", "nothing"])
def test_a_file_that_is_no_state_dict_is_refused_in_one_line(tmp_path: Path, kind: str) -> None:
    file = foreign_files(tmp_path)[kind]
    with pytest.raises(ValueError, match=f"{kind}\\.pth") as error:
        create_backbone("resnet3d/10", weights=file, widen_factor=0.125)
    assert "\n" not in str(error.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        create_backbone("resnet3d/10", weights=tmp_path / "none.pth")


@pytest.mark.parametrize(
    ("other", "shown"),
    [
        (("resnet3d/18", {}), "foreign keys"),
        (("timm/resnet18", {}), "keys"),
        (("resnet3d/10", {"in_channels": 1}), "other shapes conv1.weight"),
        (("resnet3d/50", {"shortcut": "A"}), "options {shortcut: A}"),
        (("resnet3d/10", {"attn": "se"}), "foreign keys"),
    ],
)
def test_weights_of_another_network_are_refused_in_one_line(
    tmp_path: Path, other: tuple[str, dict[str, Any]], shown: str
) -> None:
    name, options = other
    file = checkpoint(tmp_path / "other.pth", create_backbone(name, num_classes=400, **options).state_dict(), "old")
    with pytest.raises(ValueError, match=f"other.pth.*ResNet3d.*{shown}") as error:
        create_backbone("resnet3d/10", num_classes=400, weights=file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("timm/resnet1O1", "timm/resnet101"),
        ("torchvision/resnet5", "torchvision/resnet50"),
        ("torchvision/resnet1000", "torchvision/resnet101"),
        ("resnet3d/51", "resnet3d/50"),
        ("resnet3d/resnet50", "resnet3d/50"),
        ("resnet3d/", "resnet3d"),
        ("resnet50", "timm/"),
        ("tmim/resnet50", "timm/"),
        ("torchvision/fcn_resnet50", "torchvision/"),  # a network for segmentation, not a backbone
        ("torchvision/fasterrcnn_resnet50_fpn", "torchvision/"),
    ],
)
def test_an_unknown_backbone_gets_its_near_matches(
    name: str, near: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=name) as error:
        create_backbone(name)
    assert near in str(error.value)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir()), "nothing may be downloaded for a name that is refused"


@pytest.mark.parametrize(
    ("error", "shown", "name", "options"),
    [
        (ValueError, "mpe", "timm/resnet18", {"attn": "mpa"}),
        (TypeError, "groups", "timm/resnet18", {"attn": "mpe", "attn_options": {"group": 4}}),
        (ValueError, "stage 5", "resnet3d/10", {"attn": "se", "stages": (5,)}),
        (ValueError, "attn=", "timm/resnet18", {"attn_options": {"groups": 4}}),
        (ValueError, "weights=", "resnet3d/10", {"pretrained": True}),
        (TypeError, "widen_factor", "resnet3d/10", {"widen": 2}),
        (TypeError, "no_such", "timm/resnet18", {"no_such": 2}),
        (TypeError, "no_such", "torchvision/resnet18", {"no_such": 2}),
    ],
)
def test_bad_options_are_refused(error: type[Exception], shown: str, name: str, options: dict[str, Any]) -> None:
    with torch.device("meta"), pytest.raises(error, match=shown) as caught:
        create_backbone(name, **options)
    assert "\n" not in str(caught.value)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file named and nested as the SE networks of moskomule are, of ten classes."""
    state = create_backbone("torchvision/resnet18", attn="se", num_classes=10).state_dict()
    state = {f"module.{key.replace('.bn2.attn.', '.se.')}": value for key, value in state.items()}
    path = tmp_path_factory.mktemp("released") / "se_resnet18.pth"
    torch.save({"epoch": 90, "state_dict": state}, path)
    return path


def test_a_released_file_is_a_backbone(released: Path) -> None:
    state = torch.load(released, weights_only=True)["state_dict"]
    plain = create_backbone(str(released))
    assert (plain.num_classes, plain.num_features) == (10, 512)
    grey = create_backbone(str(released), num_classes=0, in_channels=1, attn="ca")
    assert {type(m).__name__ for m in attentions(grey).values()} == {"SqueezeExcitation", "CoordinateAttention"}
    assert grey.eval()(torch.randn(2, 1, 64, 64)).shape == (2, 512)
    for model in (plain, grey):
        assert torch.equal(model.state_dict()["layer4.1.conv2.weight"], state["module.layer4.1.conv2.weight"])
    image = torch.randn(1, 1, 64, 64)
    wide = create_backbone(str(released), num_classes=0)
    torch.testing.assert_close(
        create_backbone(str(released), num_classes=0, in_channels=1).eval()(image),
        wide.eval()(image.expand(1, 3, 64, 64)),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"attn": "se"}, "already has attention"),
        ({"pretrained": True}, "its own weights"),
        ({"weights": "other.pth"}, "its own weights"),
        ({"num_classes": 8, "groups": 4}, "'groups'"),
    ],
)
def test_what_a_released_file_does_not_take_is_refused(released: Path, options: dict[str, Any], shown: str) -> None:
    with pytest.raises((ValueError, TypeError), match=shown):
        create_backbone(str(released), **options)


def test_files_of_no_known_network_are_refused(tmp_path: Path) -> None:
    torch.save(create_backbone("torchvision/resnet18").state_dict(), tmp_path / "plain.pth")
    with pytest.raises(ValueError, match=r"plain\.pth is of no network with cbam"):
        create_backbone(str(tmp_path / "plain.pth"))
    with pytest.raises(FileNotFoundError, match=r"none\.pth"):
        create_backbone(str(tmp_path / "none.pth"))


@pytest.mark.parametrize(
    "option",
    [{"stages": (3,)}, {"site": "mid"}, {"identity": True}, {"where": {"layer1": "after"}}, {"blocks": "last"}],
)
def test_a_place_without_attention_is_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"{next(iter(option))}=.* without attn"):
        create_backbone("resnet3d/10", **option)


def test_patterns_and_own_attention_go_through_the_flag() -> None:
    with torch.device("meta"):
        model = create_backbone("timm/seresnet50", attn="ca", where={"layer4.*.conv2": "after"})
        other = create_backbone("timm/seresnet50", attn="ca", replace_own=True)
    assert len(attentions(model)) == 3
    assert not any(".se." in key for key in other.state_dict())
