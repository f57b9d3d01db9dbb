"""The registry: names, options, plugins, and who may import whom."""

import ast
import inspect
import os
import runpy
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from torch import nn

import attnzoo
from attnzoo import registry
from attnzoo.catalogue import listing

PACKAGE = Path(attnzoo.__file__).parent
SITES = {"se": "out", "cbam": "out", "sa": "out", "triplet": "out", "ca": "mid", "mpe": "mid", "epsa": "conv"}
# What the papers and the authors' code use unless told otherwise.
DEFAULTS = {
    "se": {"reduction": 16},
    "cbam": {"reduction": 16, "kernel_size": 7},
    "ca": {"reduction": 32, "min_width": 8},
    "sa": {"groups": 64},
    "triplet": {"kernel_size": 7},
    "epsa": {"kernels": (3, 5, 7, 9), "groups": (1, 4, 8, 16), "reduction": 16},
    "mpe": {
        "groups": 8,
        "dilations": (1, 3, 5),
        "fusion": "dynamic",
        "combine": "both",
        "depthwise": False,
        "norm_groups": None,
        "residual": True,
        "temporal": "full",
    },
}

Add = Callable[..., type[nn.Module]]


@pytest.fixture
def add() -> Iterator[Add]:
    """Registers a module that does nothing, until the test ends."""
    added = []

    def register(name: str, **record: object) -> type[nn.Module]:
        class Nothing(nn.Identity):
            def __init__(self, channels: int, *, spatial_dims: int = 2) -> None:
                super().__init__()

        attnzoo.list_modules()
        cls = attnzoo.register(name, **record)(Nothing)
        added.append(name)
        return cls

    yield register
    for name in added:
        registry.unregister(name)


def test_lists_names_by_wildcard_site_and_dimension_in_natural_order(add: Add) -> None:
    for name, record in {
        "zz_10": {"dims": (2,), "site": "mid"},
        "zz_9": {"dims": (3,), "site": "stage"},
        "zz_10b": {"dims": (2, 3)},
        "zz_1": {},
    }.items():
        add(name, **record)
    assert attnzoo.list_modules("zz_*") == ["zz_1", "zz_9", "zz_10", "zz_10b"]
    assert attnzoo.list_modules("zz_?") == ["zz_1", "zz_9"]
    assert attnzoo.list_modules("zz_*", spatial_dims=2) == ["zz_1", "zz_10", "zz_10b"]
    assert attnzoo.list_modules("zz_*", spatial_dims=3) == ["zz_1", "zz_9", "zz_10b"]
    assert attnzoo.list_modules("zz_*", site="stage") == ["zz_9"]
    assert attnzoo.list_modules("zz_*", site="mid", spatial_dims=3) == []
    assert attnzoo.list_modules("zz_*", site="out") == ["zz_1", "zz_10b"]
    assert attnzoo.list_modules("no*such") == []
    assert set(SITES) <= set(attnzoo.list_modules()) == set(attnzoo.list_modules("*"))
    with pytest.raises(ValueError, match=r"'inside'.*out, mid, conv, stage"):
        attnzoo.list_modules(site="inside")


@pytest.mark.parametrize("name", SITES)
def test_the_seven_have_their_papers_record(name: str) -> None:
    found = attnzoo.spec(name)
    assert (found.name, found.site, found.dims) == (name, SITES[name], {2, 3})
    assert found.paper.startswith("https://")
    assert found.idea
    assert found.options.items() >= DEFAULTS[name].items()
    with pytest.raises(FrozenInstanceError):
        found.site = "stage"


YEARS = {
    "se": 2018,
    "cbam": 2018,
    "ca": 2021,
    "sa": 2021,
    "triplet": 2021,
    "epsa": 2022,
    "mpe": 2025,
    "ema": 2023,
    "eca": 2020,
    "sge": 2019,
    "sk": 2019,
    "nl": 2018,
    "gc": 2019,
    "bam": 2018,
    "simam": 2021,
    "cse": 2018,
    "sse": 2018,
    "scse": 2018,
    "pe": 2019,
    "lka": 2023,
    "lska": 2024,
    "lsk": 2023,
    "caa": 2024,
    "scsa": 2025,
    "ge": 2018,
    "srm": 2019,
    "gct": 2020,
    "lct": 2020,
    "fca": 2021,
    "gam": 2021,
    "nam": 2021,
    "ela": 2024,
    "mlca": 2023,
    "res2net": 2021,
    "pam": 2019,
    "cam": 2019,
    "cca": 2019,
    "a2": 2018,
    "splat": 2020,
    "axial": 2020,
    "bot": 2021,
    "halo": 2021,
    "lambda": 2021,
}


def test_each_has_the_year_of_its_paper() -> None:
    assert {name: attnzoo.spec(name).year for name in YEARS} == YEARS
    for name in attnzoo.list_modules():
        assert attnzoo.spec(name).year, name


def test_golden_are_those_compared_with_their_authors_code() -> None:
    fidelity = runpy.run_path(str(Path(__file__).with_name("test_fidelity.py")))
    compared = {name for name, _ in fidelity["CASES"].values()} | {"res2net"}
    assert {name for name in attnzoo.list_modules() if attnzoo.spec(name).golden} == compared
    assert "mpe" not in compared, "its authors released none"


def test_mpe_has_exactly_the_options_that_were_asked_for() -> None:
    assert attnzoo.spec("mpe").options.keys() == DEFAULTS["mpe"].keys()


@pytest.mark.parametrize("name", attnzoo.list_modules())
def test_options_are_the_constructors_own(name: str) -> None:
    found = attnzoo.spec(name)
    channels, *rest = inspect.signature(found.cls).parameters.values()
    assert channels.name == "channels"
    assert all(p.kind is p.KEYWORD_ONLY for p in rest), "no positional option, no **kwargs that swallows a misspelling"
    assert "spatial_dims" not in found.options
    plain, spelt_out = attnzoo.create(name, 512), attnzoo.create(name, channels=512, **found.options)
    assert type(plain) is type(spelt_out) is found.cls
    shapes = [{k: v.shape for k, v in m.state_dict().items()} for m in (plain, spelt_out)]
    assert shapes[0] == shapes[1]
    for option in ("no_such_option", *(f"{o}x" for o in found.options)):
        with pytest.raises(TypeError) as error:
            attnzoo.create(name, 512, **{option: 1})
        assert option in str(error.value)
        assert all(valid in str(error.value) for valid in found.options)
        assert "\n" not in str(error.value)
    with pytest.raises(TypeError):
        attnzoo.create(name, 512, 2)


@pytest.mark.parametrize("call", [attnzoo.spec, lambda n: attnzoo.create(n, 8), attnzoo.timm_layer])
@pytest.mark.parametrize(("name", "near"), [("mpa", "mpe"), ("cbma", "cbam"), ("tripplet", "triplet"), ("xxqq", "se")])
def test_an_unknown_name_gets_its_near_matches(call: Callable[[str], object], name: str, near: str) -> None:
    with pytest.raises(ValueError, match=f"{name}.*{near}") as error:
        call(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("se", {"reduction": 2.5}, "reduction=2.5 of se must be an integer"),
        ("se", {"reduction": "16"}, "reduction='16' of se must be an integer"),
        ("se", {"reduction": True}, "reduction=True of se must be an integer"),
        ("se", {"reduction": None}, "reduction=None of se must be an integer"),
        ("se", {"bias": "maybe"}, "bias='maybe' of se must be True or False"),
        ("se", {"bias": 1}, "bias=1 of se must be True or False"),
        ("eca", {"kernel_size": "x"}, "kernel_size='x' of eca must be an integer or None"),
        ("simam", {"regularisation": "1e-4"}, "regularisation='1e-4' of simam must be a number"),
        ("mpe", {"groups": "abc"}, "groups='abc' of mpe must be an integer"),
        ("mpe", {"dilations": 3}, "dilations=3 of mpe must be a sequence (each an integer)"),
        ("mpe", {"dilations": "135"}, "dilations='135' of mpe must be a sequence (each an integer)"),
        ("mpe", {"dilations": (1, 2.5)}, "dilations=(1, 2.5) of mpe must be a sequence (each an integer)"),
        ("mpe", {"fusion": 3}, "fusion=3 of mpe must be 'dynamic' or 'mean' or 'max' or 'static'"),
        ("gc", {"fusion": ("add", 1)}, "fusion=('add', 1) of gc must be a sequence (each 'add' or 'mul')"),
        ("sk", {"stride": 1.5}, "stride=1.5 of sk must be an integer or a sequence (each an integer)"),
        ("se", {"reduction": np.ones((2, 2))}, "reduction=array([[1., 1.], [1., 1.]]) of se must be an integer"),
        ("se", {"channels": 64.0}, "channels=64.0 of se must be an integer"),
        ("se", {"channels": "64"}, "channels='64' of se must be an integer"),
        ("se", {"spatial_dims": 2.0}, "spatial_dims=2.0 of se must be an integer"),
    ],
    ids=str,
)
def test_a_value_of_the_wrong_type_is_shown_with_what_is_right(name: str, options: Any, message: str) -> None:
    with pytest.raises(TypeError) as error:
        attnzoo.create(name, **{"channels": 64, **options})
    assert str(error.value) == message


@pytest.mark.parametrize("name", [3, None, nn.Identity, ["se"]])
def test_a_module_is_named_by_a_string(name: Any) -> None:
    with pytest.raises(TypeError, match=r"is not the name of a module.*'se'") as error:
        attnzoo.create(name, 8)
    assert "\n" not in str(error.value)


def test_values_that_mean_the_same_are_taken() -> None:
    attnzoo.create("se", np.int64(64), reduction=np.int32(4), spatial_dims=np.int8(2))
    attnzoo.create("simam", 64, regularisation=1)
    attnzoo.create("mpe", 64, dilations=[1, 2], norm_groups=None)
    attnzoo.create("gc", 64, fusion="mul")
    attnzoo.create("sk", 64, stride=[1, 2], out_channels=None)


def test_only_what_a_constructor_annotates_is_checked() -> None:
    class Odd(nn.Identity):
        def __init__(
            self,
            channels,
            *,
            spatial_dims=2,
            free=None,
            anything: Any = None,
            several: tuple[int, ...] | None = None,
            mode: Literal["a", 1] | Sequence[str] = "a",
            made: Callable[[], int] = int,
        ) -> None:
            super().__init__()

    class Unknown(nn.Identity):
        def __init__(self, channels: int, *, spatial_dims: int = 2, later: "NoSuchName" = None) -> None:  # noqa: F821
            super().__init__()

    attnzoo.list_modules()
    attnzoo.register("zz_odd")(Odd)
    attnzoo.register("zz_unknown")(Unknown)
    try:
        attnzoo.create("zz_odd", 8, free=object(), anything="x", several=[1, 2], mode=["b"], made=len)
        attnzoo.create("zz_odd", 8, several=None, mode=1)
        attnzoo.create("zz_unknown", 8, later="whatever")
        with pytest.raises(
            TypeError, match=r"several=\('1',\) of zz_odd must be a sequence \(each an integer\) or None"
        ):
            attnzoo.create("zz_odd", 8, several=("1",))
        with pytest.raises(TypeError, match=r"mode=True of zz_odd must be 'a' or 1 or a sequence \(each a string\)"):
            attnzoo.create("zz_odd", 8, mode=True)
    finally:
        registry.unregister("zz_odd")
        registry.unregister("zz_unknown")


def test_a_dimension_that_a_module_is_not_defined_for(add: Add) -> None:
    add("zz_flat", dims=(2,))
    assert isinstance(attnzoo.create("zz_flat", 8, spatial_dims=2), nn.Identity)
    with pytest.raises(ValueError, match=r"zz_flat.*2.*not for 3"):
        attnzoo.create("zz_flat", 8, spatial_dims=3)
    with pytest.raises(ValueError, match=r"se.*2 or 3.*not for 4"):
        attnzoo.create("se", 8, spatial_dims=4)


def test_register_refuses_taken_and_ill_formed_names_and_unknown_sites(add: Add) -> None:
    with pytest.raises(ValueError, match=r"'se' is taken by attnzoo\.modules\.se\.SqueezeExcitation"):
        add("se")
    assert attnzoo.spec("se").cls.__name__ == "SqueezeExcitation"
    mine = add("zz_mine")
    assert attnzoo.register("zz_mine")(mine) is mine, "the same class again, as when a notebook cell is run twice"
    with pytest.raises(ValueError, match=r"'inside'.*out, mid, conv, stage"):
        add("zz_site", site="inside")
    for name in ("", "SE", "my-se", "1x"):
        with pytest.raises(ValueError, match="lower case"):
            add(name)
    assert attnzoo.list_modules("zz_*") == ["zz_mine"]
    registry.unregister("zz_mine")
    with pytest.raises(ValueError, match="zz_mine"):
        attnzoo.create("zz_mine", 8)
    attnzoo.register("zz_mine")(mine)  # for the fixture to take out


def python(code: str, *paths: Path) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter that finds attnzoo and the packages in `paths`."""
    search = os.pathsep.join(map(str, (*paths, PACKAGE.parent)))
    env = {**os.environ, "PYTHONPATH": search, "PYTHONWARNINGS": "default"}
    return subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=120)


def distribution(root: Path, name: str, code: str) -> None:
    """An installed distribution of one module that declares itself as attention modules."""
    (root / f"{name}.py").write_text(code)
    info = root / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[attnzoo.modules]\n{name} = {name}\n")


def test_other_packages_add_modules_and_a_broken_one_only_warns(tmp_path: Path) -> None:
    distribution(
        tmp_path,
        "zz_good",
        """
import torch
from attnzoo import nd, register

@register("zz_halve", paper="none", site="stage", dims=(3,))
class Halve(nd.Gate):
    def __init__(self, channels: int, *, spatial_dims: int = 3, by: float = 2.0) -> None:
        super().__init__(channels, spatial_dims)
        self.by = by

    def gate(self, x):
        return torch.full_like(x[:, :1], 1 / self.by)
""",
    )
    distribution(tmp_path, "zz_broken", "raise OSError('disk on fire')")
    distribution(
        tmp_path,
        "zz_squatter",
        "from torch import nn\nfrom attnzoo import register\n\n@register('mpe')\nclass Squatter(nn.Identity): pass\n",
    )
    done = python(
        """
import attnzoo, torch
print(attnzoo.list_modules("zz_*"), attnzoo.list_modules("zz_*", spatial_dims=2), attnzoo.spec("zz_halve").options)
print(float(attnzoo.create("zz_halve", 4, spatial_dims=3, by=4.0)(torch.ones(1, 4, 1, 2, 3)).mean()))
print(attnzoo.spec("zz_halve").site, attnzoo.spec("mpe").cls.__module__, len(attnzoo.list_modules("mpe")))
""",
        tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == ["['zz_halve'] [] {'by': 2.0}", "0.25", "stage attnzoo.modules.mpe 1"]
    assert "zz_broken" in done.stderr
    assert "disk on fire" in done.stderr
    assert "zz_squatter" in done.stderr


def test_a_built_in_name_is_taken_before_anything_was_listed() -> None:
    done = python(
        """
import attnzoo
from torch import nn
try:
    attnzoo.register("mpe")(nn.Identity)
except ValueError as error:
    print(error)
print(attnzoo.spec("mpe").cls.__module__)
print({"se", "cbam", "ca", "sa", "triplet", "epsa", "mpe"} - set(attnzoo.list_modules()))
"""
    )
    assert done.returncode == 0, done.stderr
    taken, module, missing = done.stdout.splitlines()
    assert "taken" in taken
    assert (module, missing) == ("attnzoo.modules.mpe", "set()")


def test_import_loads_torch_and_nothing_heavier() -> None:
    heavy = (
        "timm torchvision fvcore thop lightning pytorch_lightning torchmetrics av ray librosa scipy sqlalchemy plotly"
    )
    done = python(
        f"""
import sys
import torch
before = set(sys.modules)
import attnzoo
attnzoo.create("mpe", 8)
print(sorted(set({heavy.split()!r}) & (set(sys.modules) - before)))
"""
    )
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


# Part of the package -> the parts of it that it may import, besides itself.
# `recipes` and `extras` stand beside the house: they import nothing of it, and what needs them may import them.
_LOW = {"inject", "registry", "nd"}
_BESIDE = {"recipes", "extras"}
MAY_IMPORT: dict[str, set[str]] = {
    "fast": set(),
    "nd": {"fast"},
    "registry": set(),
    "recipes": set(),
    "extras": set(),
    "sites": set(),
    "state_dicts": set(),
    "contract": {"registry", "nd", "extras"},
    "modules": {"nd", "registry", "fast"},
    "inject": {"registry", "nd", "sites"},
    "official": {*_LOW, "state_dicts"},
    "profiling": {*_LOW, *_BESIDE},
    "maps": {*_LOW, *_BESIDE},
    "backbones": {"sites", "inject", "official", "state_dicts"},
    "benchmarks": {*_LOW, "backbones", "profiling", *_BESIDE},
    "catalogue": {*_LOW, "backbones", "benchmarks", "profiling"},
    "emotion": {*_LOW, "modules", "official", "profiling", "maps", "backbones", *_BESIDE},
    "images": {"emotion", "profiling", *_BESIDE},
    "leaderboard": {"emotion", "profiling", *_BESIDE},
}
FILES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Full names of everything a file imports, anywhere in it."""
    package = ("attnzoo", *path.relative_to(PACKAGE).parts[:-1])
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = ".".join((*package[: len(package) - node.level + 1], *filter(None, [node.module])))
            names |= {f"{base if node.level else node.module}.{alias.name}" for alias in node.names}
    return names


def parts(names: set[str]) -> set[str]:
    """The parts of attnzoo among imported names; a public name counts as the part that defines it."""
    public = {name.rpartition(".")[2]: name.split(".")[1] for name in imports(PACKAGE / "__init__.py")}
    found = {name.split(".")[1] if "." in name else "attnzoo" for name in names if name.split(".")[0] == "attnzoo"}
    return {public.get(part, part) for part in found} - {"__version__"}


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_downwards_only(path: Path) -> None:
    part = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    if part in ("__init__", "__main__", "cli"):
        return
    assert part in MAY_IMPORT, f"say here what attnzoo/{part} may import"
    names = imports(path)
    itself = set() if part == "modules" else {part}
    assert parts(names) <= MAY_IMPORT[part] | itself
    if part in ("nd", "registry", "modules", "inject"):
        assert {name.split(".")[0] for name in names} <= {"torch", "attnzoo", *sys.stdlib_module_names}


def test_a_module_that_cannot_be_made_does_not_hide_the_others(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: nn.Module, channels: int, *, spatial_dims: int = 2) -> None:
        raise RuntimeError("cannot\nmake it")

    monkeypatch.setattr(add("raises"), "__init__", broken)
    rows = {row["name"]: row for row in listing().records}
    assert rows["raises"]["params"] == "n/a"
    assert rows["raises"]["misfit"] == "cannot make it"
    assert rows["se"]["params"] == "8,192"
