"""Weights out of other people's files: Kinetics 3D ResNets old and new, VAANet and CTEN, 2D ResNets inflated."""

from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

from attnzoo import create_backbone
from attnzoo.backbones.resnet3d import ResNet3d, Shortcut, resnet3d
from attnzoo.backbones.weights import inflate, shortcut_of

NARROW = {"widen_factor": 0.125}


def trained(depth: int, classes: int, shortcut: Shortcut = "B", **options: Any) -> ResNet3d:
    """A network whose norms have seen something."""
    model = resnet3d(depth, num_classes=classes, shortcut=shortcut, **{**NARROW, **options})
    for name, value in model.named_buffers():
        if name.endswith("running_mean"):
            value.normal_(0, 0.1)
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
    return model.eval()


def kinetics(path: Path, model: nn.Module, arch: str, *, since_2020: bool) -> Path:
    """A file as kenshohara/3D-ResNets-PyTorch writes it, with the state of a training beside the weights."""
    sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    sgd.step()  # momentum buffers
    content: dict[str, Any] = {"epoch": 200, "arch": arch, "optimizer": sgd.state_dict()}
    state = model.state_dict()
    if since_2020:
        steps = torch.optim.lr_scheduler.MultiStepLR(sgd, [50, 100, 150])
        content.update(state_dict=state, scheduler=steps.state_dict())
        torch.save(content, path)
    else:  # saved from DataParallel, by a torch that had neither today's files nor counts of batches
        state = {f"module.{k}": v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        torch.save({**content, "state_dict": state}, path, _use_new_zipfile_serialization=False)
    return path


def clip() -> Tensor:
    return torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("since_2020", [True, False])
@pytest.mark.parametrize(("depth", "shortcut", "classes"), [(18, "A", 400), (50, "B", 700), (10, "B", 1039)])
def test_kinetics_files_load_without_a_word_about_prefix_classes_or_shortcut(
    tmp_path: Path, depth: int, shortcut: Shortcut, classes: int, since_2020: bool
) -> None:
    torch.manual_seed(0)
    source = trained(depth, classes, shortcut)
    file = kinetics(tmp_path / "resnet-kinetics.pth", source, f"resnet-{depth}", since_2020=since_2020)
    assert shortcut_of(file) == shortcut
    for wanted in (0, 8, classes):
        model = create_backbone(f"resnet3d/{depth}", weights=file, num_classes=wanted, **NARROW).eval()
        assert model.num_classes == wanted
        with torch.no_grad():
            assert torch.equal(model.forward_features(clip()), source.forward_features(clip()))
            if wanted == classes:
                assert torch.equal(model(clip()), source(clip()))


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("resnet3d/34", {}, r"it is of resnet3d/18 with options \{shortcut: A\}$"),
        ("resnet3d/50", {}, r"it is of resnet3d/18 with options \{shortcut: A\}$"),
        ("resnet3d/18", {"shortcut": "B"}, r"missing keys .*; it is of resnet3d/18 with options \{shortcut: A\}$"),
        ("resnet3d/18", {"widen_factor": 0.25}, r"other shapes conv1\.weight \(8, 3, 7, 7, 7\) for \(16, 3, 7, 7, 7\)"),
        ("resnet3d/18", {"stem_size": 3}, r"other shapes conv1\.weight \(8, 3, 7, 7, 7\) for \(8, 3, 3, 7, 7\)"),
    ],
)
def test_a_file_that_does_not_fit_says_which_network_it_is_of(
    tmp_path: Path, name: str, options: dict[str, Any], said: str
) -> None:
    file = kinetics(tmp_path / "r3d18.pth", trained(18, 400, "A"), "resnet-18", since_2020=False)
    with pytest.raises(ValueError, match=said) as error:
        create_backbone(name, weights=file, **{**NARROW, **options})
    assert str(error.value).startswith(f"{file} does not fit ResNet3d: ")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("prefix", ["", "module."])  # VAANet's save_4.pth, CTEN's save_4_0.57.pth
def test_checkpoints_of_vaanet_and_cten_give_their_visual_resnet(tmp_path: Path, prefix: str) -> None:
    torch.manual_seed(0)
    source = trained(50, 400)
    theirs = nn.ModuleDict(
        {
            "resnet": nn.Sequential(*list(source.children())[:-1]),  # nn.Sequential(children) without the head
            "sa_net": nn.Conv1d(8, 8, 1),
            "a_resnet": nn.Sequential(nn.Conv2d(1, 8, (7, 1)), nn.BatchNorm2d(8)),
            "av_fc": nn.Linear(8, 8),
        }
    )
    state = {f"{prefix}{key}": value for key, value in theirs.state_dict().items()}
    assert f"{prefix}resnet.4.0.conv1.weight" in state
    file = tmp_path / "save_4.pth"
    torch.save({"epoch": 5, "state_dict": state, "optimizer": {"state": {}, "param_groups": []}}, file)
    model = create_backbone("resnet3d/50", weights=file, num_classes=0, **NARROW).eval()
    with torch.no_grad():
        assert torch.equal(model.forward_features(clip()), source.forward_features(clip()))


def flat(depth: int, classes: int = 1000) -> nn.Module:
    model: nn.Module = getattr(torchvision.models, f"resnet{depth}")(num_classes=classes)
    for name, value in model.named_buffers():
        if name.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif name.endswith("running_mean"):
            value.normal_(0, 0.1)
    return model.eval()


def without_borders(model: nn.Module) -> nn.Module:
    """The picture and the clip as if they went round, so that no convolution sees a border, in space or in time."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv3d) and max(module.kernel_size) > 1:
            module.padding_mode = "circular"
    return model


@pytest.mark.parametrize("depth", [18, 50])
def test_an_inflated_network_gives_on_a_still_clip_what_the_2d_one_gives_on_its_frame(
    tmp_path: Path, depth: int
) -> None:
    torch.manual_seed(0)
    source = flat(depth, classes=7)
    torch.save(source.state_dict(), tmp_path / "imagenet.pth")
    volume = create_backbone(f"resnet3d/{depth}", weights=tmp_path / "imagenet.pth", num_classes=7).eval()
    frame = torch.randn(2, 3, 32, 32)
    still = frame.unsqueeze(2).expand(-1, -1, 8, -1, -1)
    with torch.no_grad():
        expected = without_borders(source)(frame)
        torch.testing.assert_close(without_borders(volume)(still), expected, rtol=1e-3, atol=1e-4)


def test_inflated_kernels_sum_to_the_2d_ones_and_all_else_is_theirs() -> None:
    state, own = flat(50).state_dict(), resnet3d(50).state_dict()
    volume = inflate(state, own)
    for key, value in state.items():
        if value.ndim == 4:
            assert volume[key].shape == own[key].shape
            torch.testing.assert_close(volume[key].sum(2), value)
            assert torch.equal(volume[key], volume[key].flip(2))
        else:
            assert torch.equal(volume[key], value)


def test_published_2d_weights_are_inflated_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From torchvision's cache of downloads, with a file of the published name in it."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    source = flat(18)
    torch.save(source.state_dict(), tmp_path / "hub" / "checkpoints" / "resnet18-f37072fd.pth")
    model = create_backbone("resnet3d/18", inflate="torchvision/resnet18", num_classes=8)
    kernel = source.get_parameter("layer4.1.conv2.weight")
    torch.testing.assert_close(model.get_parameter("layer4.1.conv2.weight").sum(2), kernel)
    with pytest.raises(ValueError, match=r"torchvision/resnet18 does not fit ResNet3d: .* it is of resnet3d/18 with"):
        create_backbone("resnet3d/50", inflate="torchvision/resnet18")


@pytest.mark.parametrize(
    ("name", "options"),
    [("timm/resnet18", {}), ("resnet3d/18", {"weights": "some.pth"})],
)
def test_inflation_is_refused_where_it_means_nothing(tmp_path: Path, name: str, options: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="inflate=timm/resnet18 is for a resnet3d without other weights"):
        create_backbone(name, inflate="timm/resnet18", **options)  # type: ignore[arg-type]
