"""The real fvcore and thop in a process of their own: what they say, why it is wrong, and that nothing comes back."""

import logging
import warnings
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from typer.testing import CliRunner

import attnzoo
from attnzoo.cli import app
from attnzoo.profiling.explain import beside, explain
from attnzoo.profiling.external import External, measure, measure_all, pack
from attnzoo.profiling.layout import sheet
from attnzoo.profiling.table import Attention, compare

IMAGE = (1, 3, 64, 64)


def meta(build: Any, *args: Any, **kwargs: Any) -> nn.Module:
    with torch.device("meta"):
        model: nn.Module = build(*args, **kwargs)
    return model


def injected(name: str, **options: Any) -> nn.Module:
    return meta(lambda: attnzoo.inject(torchvision.models.resnet18(), name, **options))


NETWORKS: dict[str, tuple[nn.Module, tuple[int, ...]]] = {
    "resnet18": (meta(torchvision.models.resnet18), IMAGE),
    "mpe": (injected("mpe", stages=(4,), groups=4), IMAGE),
    "sa": (injected("sa", groups=4), IMAGE),
    "sge": (injected("sge", groups=4), IMAGE),
    "nl": (meta(attnzoo.create, "nl", 64), (1, 64, 16, 16)),
    "r3d": (meta(torchvision.models.video.r3d_18), (1, 3, 4, 32, 32)),
    "swin": (meta(torchvision.models.swin_t), IMAGE),
    "vit": (meta(timm.create_model, "vit_tiny_patch16_224"), (1, 3, 224, 224)),
    "conv": (nn.Conv2d(3, 8, 1), IMAGE),
    "shared": (nn.Sequential(*[nn.Sequential(layer) for layer in [nn.Conv2d(3, 3, 3, padding=1)] * 2]), IMAGE),
    "softmax": (nn.Sequential(nn.Conv2d(3, 8, 1), nn.Softmax()), IMAGE),  # thop wants a number for its dim
    "misfit": (nn.Sequential(nn.Conv2d(4, 8, 1)), IMAGE),
    "local": (nn.Sequential(nn.Conv2d(3, 8, 1)), IMAGE),
    "after": (nn.Sequential(nn.Conv2d(3, 8, 1)), IMAGE),
}
NETWORKS["local"][0].register_forward_hook(lambda *_: None)


@pytest.fixture(scope="module")
def said() -> dict[str, dict[str, External]]:
    """One process for all of them."""
    models, sizes = zip(*NETWORKS.values(), strict=True)
    return dict(zip(NETWORKS, measure_all(["fvcore", "thop"], models, sizes), strict=True))


def notes(said: dict[str, dict[str, External]], name: str, tool: str) -> list[str]:
    model, size = NETWORKS[name]
    return explain(model, attnzoo.profile(model, size), said[name][tool])


@pytest.mark.parametrize("name", ["resnet18", "mpe", "sa", "sge", "nl", "r3d", "swin", "vit", "conv"])
def test_the_tools_say_what_our_conventions_say(said: dict[str, dict[str, External]], name: str) -> None:
    model, size = NETWORKS[name]
    cost = attnzoo.profile(model, size)
    for tool, one in said[name].items():
        assert (one.error, one.tool, one.flops) == ("", tool, cost.by_counter[tool])
    assert said[name]["fvcore"].params == cost.params


def test_agreement_needs_no_footnote(said: dict[str, dict[str, External]]) -> None:
    assert notes(said, "resnet18", "fvcore") == notes(said, "resnet18", "thop") == []
    assert notes(said, "r3d", "fvcore") == notes(said, "swin", "fvcore") == []


def test_a_subclass_is_named(said: dict[str, dict[str, External]]) -> None:
    model, size = NETWORKS["r3d"]
    assert attnzoo.profile(model, size).macs > 20 * said["r3d"]["thop"].flops
    flops, params = notes(said, "r3d", "thop")
    assert flops.startswith("thop counts 0 for Conv3DSimple (a subclass of nn.Conv3d): ")
    assert params == "thop does not count parameters of Conv3DSimple (a subclass of nn.Conv3d): 32,956,416"


def test_functional_products_are_named(said: dict[str, dict[str, External]]) -> None:
    lines = "\n".join(notes(said, "swin", "thop"))
    assert "thop counts 0 for linear in ShiftedWindowAttention: " in lines
    assert "thop counts 0 for matmul in ShiftedWindowAttention: " in lines
    assert "thop does not count parameters of Linear used without being called: " in lines
    assert notes(said, "nl", "thop")[0].startswith("thop counts 0 for matmul in NonLocal: ")
    for tool in ("fvcore", "thop"):
        assert f"{tool} counts 0 for scaled_dot_product_attention in Attention: " in notes(said, "vit", tool)[0]


@pytest.mark.parametrize("name", ["sa", "sge"])
def test_bare_parameters_are_counted_in_the_footnote(said: dict[str, dict[str, External]], name: str) -> None:
    model, _ = NETWORKS[name]
    lost = sum(p.numel() for p in model.parameters()) - said[name]["thop"].params
    lines = [line for line in notes(said, name, "thop") if "does not count parameters" in line]
    assert sum(int(line.rpartition(": ")[2].replace(",", "")) for line in lines) == lost > 0
    assert f"that {attnzoo.spec(name).cls.__name__} holds outside its layers" in lines[0]


def test_what_is_counted_twice_is_named(said: dict[str, dict[str, External]]) -> None:
    assert said["shared"]["fvcore"].flops == 2 * 3 * 3 * 9 * 64 * 64
    flops, params = notes(said, "shared", "thop")
    assert flops.startswith("thop counts ")
    assert flops.endswith(" too much for Conv2d")
    assert params == "thop counts too many parameters of Conv2d: 84"


def test_errors_are_one_line_and_stay_there(said: dict[str, dict[str, External]]) -> None:
    assert not said["softmax"]["fvcore"].error
    assert said["softmax"]["thop"].error.startswith("TypeError: ")
    assert said["misfit"]["fvcore"].error.startswith("RuntimeError: ")
    assert said["misfit"]["thop"].error == said["misfit"]["fvcore"].error
    assert "lambda" in said["local"]["thop"].error
    for name in ("softmax", "misfit", "local"):
        one = said[name]["thop"]
        assert "\n" not in one.error
        assert (one.flops, one.params, one.shares) == (0, 0, {})
        assert explain(NETWORKS[name][0], attnzoo.profile(nn.Conv2d(3, 8, 1)), one) == [f"thop failed: {one.error}"]
    assert (said["after"]["thop"].flops, said["after"]["fvcore"].flops) == (3 * 8 * 64 * 64, 3 * 8 * 64 * 64)


def state(model: nn.Module) -> list[Any]:
    """What a tool might leave in a model or in the process."""
    hooks = [len(v) for m in model.modules() for k, v in m.__dict__.items() if k.endswith("hooks")]
    return [
        [(name, m.training, sorted(m.__dict__)) for name, m in model.named_modules()],
        [(key, id(t), t.tolist()) for key, t in model.state_dict(keep_vars=True).items()],
        hooks,
        torch.get_rng_state().tolist(),
        torch.is_grad_enabled(),
        list(warnings.filters),
        logging.root.manager.disable,
        nn.functional.conv2d,
        nn.functional.linear,
        torch.get_default_dtype(),
    ]


def test_leaves_the_model_and_the_process_as_they_were() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.Softmax())
    model[1].eval()
    before = state(model)
    for one in measure_all(["fvcore", "thop"], [model], [IMAGE])[0].values():
        assert bool(one.error) == (one.tool == "thop")
    assert state(model) == before


def test_a_crash_and_a_hang_cost_only_their_own_number(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "wild.py").write_text(
        "import os, signal, time, torch\n"
        "class Dies(torch.nn.Module):\n"
        "    def forward(self, x): os.kill(os.getpid(), signal.SIGKILL)\n"
        "class Leaves(torch.nn.Module):\n"
        "    def forward(self, x): raise SystemExit('good bye')\n"
        "class Hangs(torch.nn.Module):\n"
        "    def forward(self, x): time.sleep(60)\n"
        "class Prints(torch.nn.Module):\n"
        "    def forward(self, x): print('{}'); os.write(1, b'{}'); return x\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    import wild  # type: ignore[import-not-found]

    models = [wild.Dies(), wild.Leaves(), wild.Hangs(), wild.Prints()]
    results = [one["thop"] for one in measure_all(["thop"], models, [IMAGE] * 4, timeout=5)]
    assert [one.error for one in results] == ["it died of SIGKILL", "good bye", "no result in 5 s", ""]


class Here(nn.Module):
    """As in a notebook."""

    def forward(self, x: Tensor) -> Tensor:
        return x


def test_what_another_process_cannot_import_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Here, "__module__", "__main__")
    assert "Here must be in a module that another process can import" in measure("thop", Here(), IMAGE).error


def test_a_tool_is_one_of_two() -> None:
    with pytest.raises(ValueError, match=r"'ptflops'.*fvcore, thop"):
        measure_all(["ptflops"], [nn.Conv2d(3, 8, 1)], [IMAGE])
    with pytest.raises(ValueError, match="shorter"):
        measure_all(["thop"], [nn.Conv2d(3, 8, 1)], [])


def test_weights_are_not_sent() -> None:
    assert len(pack(torchvision.models.resnet18())) < 100_000


@pytest.fixture
def table() -> Any:
    network = meta(torchvision.models.video.r3d_18)
    attns = [Attention("se"), Attention("sa", {"groups": 7})]
    rows = list(compare(network, attns, input_size=(1, 3, 4, 32, 32), skip_misfits=True))
    models = [network, attns[0].put_into(network), network]
    return beside(sheet("r3d_18", "", rows, ["fvcore", "thop"]), rows, models, ["fvcore", "thop"])


def test_the_table_shows_the_tools_beside_ours(table: Any) -> None:
    assert [column.head for column in table.columns[-4:]] == ["fvcore 0.1.5", "off MACs", "thop 0.1.1", "off MACs"]
    plain, se, misfit = table.records
    for record in (plain, se):
        assert record["flops_fvcore_run"] == record["flops_fvcore"]
        assert abs(record["flops_fvcore_off"]) < 1
        assert record["flops_thop_off"] < -95
    assert "flops_thop_run" not in misfit or misfit["flops_thop_run"] is None
    (note,) = (note for note in table.notes if note.startswith("thop counts 0 for Conv3DSimple"))
    assert note.endswith("(none, se).")


def test_the_command_runs_the_tools_where_several_are_named(attnzoo_cli: Any) -> None:
    out = attnzoo_cli("--counter", "fvcore,thop,torch,all")
    assert "fvcore 0.1.5" in out
    assert "thop counts 0 for Conv3DSimple (a subclass of nn.Conv3d): " in out
    assert "fvcore 0.1.5" not in attnzoo_cli("--counter", "fvcore")


@pytest.fixture
def attnzoo_cli() -> Any:
    def run(*options: str) -> str:
        size = ["--input-size", "1", "3", "4", "32", "32"]
        result = CliRunner().invoke(app, ["profile", "torchvision/r3d_18", *size, "--format", "markdown", *options])
        assert result.exit_code == 0, result.output
        return result.output

    return run
