"""Errors of hand-written recipes name the file, the line, the field and the way out."""

from pathlib import Path

import pytest

from attnzoo.emotion.grid import GridRecipe
from attnzoo.emotion.tasks import grid_of
from attnzoo.recipes import find, load

# table1.yaml is a recipe of cost, which tests/test_table1.py loads.
SHIPPED = sorted(p for p in (Path(__file__).parents[1] / "zoo_configs").glob("*.yaml") if p.stem != "table1")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda p: p.stem)
def test_every_recipe_that_comes_with_attnzoo_is_valid(path: Path) -> None:
    recipe = load(path.stem, grid_of)
    assert find(path.name).read_bytes() == path.read_bytes()
    trials = list(recipe.trials())
    assert len({(t.label, t.recipe.training.seed, t.recipe.data.fold) for t in trials}) == len(trials) > 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "name: a\ntraining:\n  epochs: 3\n  epoch: 4\n",
            r"r\.yaml:4: training\.epoch is not a field; did you mean epochs",
        ),
        ("name: a\ntraining:\n  lr: fast\n", r"r\.yaml:3: training\.lr = 'fast': input should be a valid number"),
        ("name: a\nclip: {size: 4}\n", r"r\.yaml:2: clip\.size = 4: input should be greater than or equal to 16"),
        ("name: a\ntraining: {logs: csv}\n", r"r\.yaml:2: training\.logs = 'csv': must be a list, as in \[csv\]"),
        ("clip: {size: 32}\n", r"r\.yaml:1: name is missing"),
        (
            "name: a\ngrid:\n  attn: [se, ssse]\n",
            r"r\.yaml:3: grid\.attn\.1.*no attention module is called 'ssse'; did you mean",
        ),
        (
            "name: a\nmodel:\n  attn: {name: mpe, options: {group: 2}}\n",
            r"r\.yaml:3: model\.attn.*no option 'group'; did you",
        ),
        ("name: a\ngrid:\n  attn: [se, se]\n", r"r\.yaml:3: grid\.attn.*two entries are called se"),
        ("name: a\nmodel:\n  visual: {backbon: x}\n", r"model\.visual\.backbon is not a field; did you mean backbone"),
        ("name: a/b\n", r"name = 'a/b': it names a folder: letters, digits"),
        ("name: .a\n", r"name = '\.a': it names a folder"),
        ("name: a\ntraining: {epochs: true}\n", r"training\.epochs = True: must be a number"),
        ("name: a\ntraining: {lr: .inf}\n", r"training\.lr = inf: input should be a finite number"),
        ("name: a\ntraining: {lr: .nan}\n", r"training\.lr = nan: input should be a finite number"),
        (
            "name: a\nmodel:\n  visual: {backbone: a/b, normalisation: {mean: [0, 0, 0], std: [0.5, 0, 0.5]}}\n",
            r"r\.yaml:3: model\.visual\.normalisation\.std\.1 = 0: input should be greater than 0",
        ),
        (
            "name: a\nmodel:\n  visual: {backbone: a/b, normalisation: kinetic}\n",
            r"r\.yaml:3: model\.visual\.normalisation = 'kinetic': must be one of half, kinetics, vaanet, imagenet",
        ),
        (
            "name: a\nmodel:\n  audio: {backbone: a/b, normalisation: imagenet}\n",
            r"r\.yaml:2: model: audio\.normalisation is for frames; the model normalises cepstral coefficients itself$",
        ),
        (
            "name: a\nmodel:\n  visual: {backbone: a/b, freeze: most}\n",
            r"r\.yaml:3: model\.visual\.freeze = 'most': must be the number of the backbone's last frozen child, co",
        ),
        (
            "name: a\nmodel:\n  visual: {backbone: a/b, freeze: -1}\n",
            r"r\.yaml:3: model\.visual\.freeze = -1: must be the number .* counted from 0, or all$",
        ),
        (
            "name: a\nmodel:\n  audio_attn: {name: se, streams: [visual]}\n",
            r"r\.yaml:2: model: audio_attn is for the audio ResNet; leave its streams out",
        ),
        ("name: a\naudio: {coefficients: 65}\n", r"r\.yaml:2: audio: coefficients=65 must be at most mels=64$"),
        ("name: a\naudio: {hop: 1.0e-5}\n", r"audio: hop=1e-05 s must be at least 1 samples of rate=16000"),
        (
            "name: a\nmodel:\n  visual: {backbone: resnet3d/10, options: {widen_factor: 0}}\n",
            r"r\.yaml:3: model\.visual\.options: widen_factor=0 must be a positive number",
        ),
        (
            "name: a\ngrid:\n  attn: [{nam: se}]\n",
            r"^\S*r\.yaml:3: grid\.attn\.0\.nam is not a field; did you mean name\?[^;]*$",
        ),
        ("name: \xff\n", r"r\.yaml: not text in UTF-8 \(byte 6\)"),
        ("name: [a\n", r"r\.yaml:2: not YAML"),
        ("- a\n", r"r\.yaml: a recipe is a mapping with the fields name, data"),
    ],
)
def test_errors_of_recipes(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(text, encoding="latin-1")
    with pytest.raises(ValueError, match=message) as error:
        load(path, GridRecipe)
    assert "\n" not in str(error.value)


def test_changes_take_the_place_of_what_the_file_says(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text("name: a\ntraining: {epochs: 3}\n")
    recipe = load(path, GridRecipe, {"training.epochs": 5, "model.attn": "se", "data.root": "somewhere"})
    assert (recipe.training.epochs, recipe.model.attn.name, recipe.data.root) == (5, "se", Path("somewhere"))
    with pytest.raises(ValueError, match=r"r\.yaml with training\.epohcs=5: training\.epohcs is not a field"):
        load(path, GridRecipe, {"training.epohcs": 5})


def test_an_unknown_recipe_lists_those_there_are() -> None:
    with pytest.raises(FileNotFoundError, match=r"there is no recipe dem.yaml; .*demo\.yaml"):
        find("dem.yaml")
