"""Frame-folded attention: the 2D module on each frame of a 3D network."""

import copy

import pytest
import torch
from torch import nn

import attnzoo
from attnzoo import create_backbone, nd
from attnzoo.inject import attentions


def network(attn: str | None = None, **options: object) -> nn.Module:
    torch.manual_seed(0)
    return create_backbone("resnet3d/10", num_classes=3, widen_factor=0.25, attn=attn, **options).eval()  # type: ignore[arg-type]


def settle(module: nn.Module) -> nn.Module:
    """Parameters at random, so that no gate is at its start."""
    generator = torch.Generator().manual_seed(1)
    for p in module.parameters():
        p.data = torch.randn(p.shape, generator=generator) / 2
    return module


@pytest.mark.parametrize("name", [n for n in attnzoo.list_modules(spatial_dims=2) if attnzoo.spec(n).site != "conv"])
def test_each_frame_is_attended_to_as_a_picture(name: str) -> None:
    attn = settle(attnzoo.create(name, 128)).eval().double()
    x = torch.randn(2, 128, 3, 9, 9, dtype=torch.float64)
    with torch.no_grad():
        expected = torch.stack([attn(frame) for frame in x.unbind(2)], 2)
        torch.testing.assert_close(nd.Frames(attn)(x), expected, rtol=1e-9, atol=1e-9)


def test_it_is_mpes_own_folded_mode() -> None:
    flat, folded = (
        attnzoo.create("mpe", 32, groups=4),
        attnzoo.create("mpe", 32, spatial_dims=3, groups=4, temporal="folded"),
    )
    folded.load_state_dict(settle(flat).state_dict())
    x = torch.randn(2, 32, 3, 9, 9)
    torch.testing.assert_close(nd.Frames(flat)(x), folded(x))


def test_injection_keeps_the_keys_and_ejection_gives_the_network_back() -> None:
    plain = network()
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    model = attnzoo.inject(copy.deepcopy(plain), "se", spatial_dims=2)
    assert {key: value for key, value in model.state_dict().items() if ".attn." not in key}.keys() == before.keys()
    added = [key for key in model.state_dict() if key not in before]
    assert len(attentions(model)) == 4
    assert all(".attn.attention.fc." in key for key in added)
    again = network("se", spatial_dims=2, identity=False)
    again.load_state_dict(model.state_dict())
    clip = torch.randn(2, 3, 4, 32, 32)
    assert torch.equal(again(clip), model(clip))
    assert not torch.allclose(model(clip), plain(clip))
    back = attnzoo.eject(model)
    assert all(torch.equal(value, before[key]) for key, value in back.state_dict().items())
    assert torch.equal(back(clip), plain(clip))


def test_folded_and_joint_attention_differ_and_on_one_frame_agree() -> None:
    folded, joint = network("se", spatial_dims=2), network("se")
    joint.load_state_dict({key.replace(".attn.attention.", ".attn."): v for key, v in folded.state_dict().items()})
    clip = torch.randn(2, 3, 32, 32, 32)  # 2 frames are left in layer4
    assert not torch.allclose(folded(clip), joint(clip))
    still = torch.randn(2, 3, 1, 32, 32)
    torch.testing.assert_close(folded(still), joint(still))


def test_it_starts_as_an_identity_compiles_and_exports() -> None:
    plain, clip = network(), torch.randn(1, 3, 4, 32, 32)
    model = attnzoo.inject(copy.deepcopy(plain), "cbam", spatial_dims=2, identity=True).eval()
    assert torch.equal(model(clip), plain(clip))
    model = attnzoo.inject(copy.deepcopy(plain), "ca", spatial_dims=2).eval()
    expected = model(clip)
    for other in (
        torch.compile(model, backend="eager", fullgraph=True),
        torch.export.export(model, (clip,)).module(),
        torch.fx.symbolic_trace(model),
    ):
        torch.testing.assert_close(other(clip), expected)


@pytest.mark.parametrize(
    ("backbone", "name", "dims", "message"),
    [
        ("resnet3d/10", "epsa", 2, r"spatial_dims=2 at layer1\.0\.conv1: a convolution is not replaced frame by frame"),
        ("timm/resnet18", "se", 3, r"spatial_dims=3 at layer1\.0\.bn2: it has 2; leave it out"),
        ("resnet3d/10", "se", 1, r"spatial_dims=1 at layer1\.0\.bn2: it has 3; leave it out"),
    ],
)
def test_refuses(backbone: str, name: str, dims: int, message: str) -> None:
    with torch.device("meta"), pytest.raises(ValueError, match=message):
        create_backbone(backbone, attn=name, spatial_dims=dims)
