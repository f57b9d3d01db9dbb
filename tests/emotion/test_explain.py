"""What the model goes by: numbers against closed forms, the film and the strip as files, the maps against chance."""

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
import torch
from matplotlib.image import imread
from numpy.typing import NDArray
from rich.console import Console
from torch import Tensor, nn

from attnzoo import cli, inject
from attnzoo.backbones.resnet3d import resnet3d
from attnzoo.emotion.checkpoints import load_checkpoint, save_model
from attnzoo.emotion.evaluation import find_video, predict
from attnzoo.emotion.explain import Explanation, contributions, explain, write
from attnzoo.emotion.film import GAP, HEAD, PANEL
from attnzoo.emotion.fusion import list_fusions
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.puppet import Puppet
from attnzoo.emotion.recipe import Recipe
from attnzoo.emotion.video import clips
from attnzoo.maps import activation_layer, activation_map, enlarge

BUNNY = Path(__file__).parents[1] / "data" / "bigbuckbunny.mp4"
MPE = {"name": "mpe", "options": {"groups": 2}}
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    """A function that writes the checkpoint of a small model that has learnt nothing."""

    def checkpoint(
        attn: Any = "none",
        fusion: Any = "concat",
        classes: tuple[str, ...] = ("calm", "joy", "fear"),
        change: Callable[[AudioVisualModel], object] = lambda model: None,
        **clip: int,
    ) -> Path:
        settings = {
            "name": "test",
            "clip": {"segments": 2, "frames": 4, "size": 32, **clip},
            "audio": {"coefficients": 12, "mels": 24, "width": 16},
            "model": {
                "attn": attn,
                "visual": {"backbone": "resnet3d/10", "options": {"widen_factor": 0.125, "stem_size": 3}},
                "audio": {"backbone": "timm/resnet10t"},
                "width": 16,
                "fusion": fusion,
            },
        }
        recipe = Recipe.model_validate(settings)
        torch.manual_seed(0)
        model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, len(classes))
        change(model)
        about = {"recipe": recipe.model_dump(mode="json"), "classes": classes, "data": "", "history": []}
        path = tmp_path / "run" / "model.safetensors"
        save_model(model.state_dict(), about, path)
        return path

    return checkpoint


def test_it_explains_the_prediction_of_what_the_model_sees(make: Make) -> None:
    path = make(MPE)
    found = explain(path, BUNNY)
    (reading,) = predict(path, [BUNNY])
    np.testing.assert_allclose(found.prediction.probabilities, reading.prediction.probabilities, rtol=1e-5)
    np.testing.assert_allclose(found.prediction.timeline, reading.prediction.timeline, rtol=1e-5)
    assert found.target == reading.prediction.predicted
    recipe = load_checkpoint(path)[1]["recipe"]
    sample = clips([find_video(BUNNY)], recipe)[0]
    assert sample is not None
    np.testing.assert_array_equal(found.frames, sample.frames.permute(0, 2, 3, 4, 1))
    told = json.loads(json.dumps(found.as_dict()))
    assert told["label"] == reading.as_dict()["label"]
    assert [s["end"] for s in told["segments"]] == [s["end"] for s in reading.as_dict()["timeline"]]
    for segment in told["segments"]:
        assert sum(segment["probabilities"].values()) == pytest.approx(1, abs=1e-5)


def test_the_activation_is_that_of_the_target_and_one_at_its_greatest(make: Make) -> None:
    path = make()
    found = {name: explain(path, BUNNY, name, "visual.layer1") for name in ("calm", "joy")}
    for e in found.values():
        assert e.activation.shape == e.frames.shape[:-1]
        assert e.activation.min() == 0
        assert e.activation.max() == pytest.approx(1)
        peaks = [s["activation"] for s in e.as_dict()["segments"]]
        assert max(p["peak"] for p in peaks) == pytest.approx(1)
        for t, peak in enumerate(peaks):
            at = peak["at"]
            assert e.activation[t, at["frame"], at["y"], at["x"]] == pytest.approx(peak["peak"])
    assert not np.allclose(found["calm"].activation, found["joy"].activation)

    def silence(model: AudioVisualModel) -> None:
        nn.init.zeros_(model.classifier.weight)

    nothing = explain(make(change=silence), BUNNY)
    assert not nothing.activation.any()  # and not 0 / 0
    assert "nothing in the picture speaks for it" in strip_text(nothing)


def strip_text(e: Explanation) -> str:
    from attnzoo.emotion import figures

    return f"{figures.headline(e)}\n{figures.notes(e)}"


@pytest.mark.parametrize(
    ("attn", "kind", "modules", "branches"),
    [
        ("none", None, 0, 0),
        ({"name": "se", "options": {"reduction": 4}, "label": "squeezed"}, "gate of squeezed", 4, 0),
        ({**MPE, "stages": [2, 3], "identity": True}, "gate of mpe", 2, 3),
        ({**MPE, "dims": 2}, "gate of mpe", 4, 3),
        ({**MPE, "streams": ["audio"]}, None, 0, 3),
        ("cbam", "gain of cbam", 4, 0),
        ({"name": "sk", "options": {"groups": 1}, "streams": ["visual"]}, "output's energy of sk", 4, 2),
    ],
)
def test_gates_and_branches_of_any_attention(
    make: Make, tmp_path: Path, attn: Any, kind: str | None, modules: int, branches: int
) -> None:
    found = explain(make(attn), BUNNY)
    assert (found.gates and found.gates.name) == kind
    if found.gates:
        assert len(found.gates.levels) == modules
        assert all(path.startswith("visual.layer") and len(values) == 2 for path, values in found.gates.levels.items())
        assert found.gates.values.shape == found.frames.shape[:-1]
        assert found.gates.values.mean() == pytest.approx(1, abs=0.1)
    else:
        assert "No attention in the visual ResNet" in strip_text(found)
    for stream in found.branches:
        table = np.array(stream.weights)
        assert table.shape == (2, branches)
        np.testing.assert_allclose(table.sum(1), 1, rtol=1e-5)
        np.testing.assert_allclose(np.mean(list(stream.modules.values()), 0), table, rtol=1e-5)
    assert bool(found.branches) == bool(branches)
    if attn == "none":  # what has no gate has no panel for it either
        film, strip, _ = write(found, tmp_path)
        assert read_film(film)[0].shape[1] < read_film(write(explain(make(MPE), BUNNY), tmp_path)[0])[0].shape[1]
        assert imread(strip).shape[0] > 300


@pytest.mark.parametrize("name", list_fusions())
def test_picture_and_sound_add_up_in_every_fusion(make: Make, name: str) -> None:
    """Shapley values: their sum is what both make of nothing, and swapping the players swaps the values."""
    path = make(fusion=name)
    found = explain(path, BUNNY)
    model, info = load_checkpoint(path)
    sample = clips([find_video(BUNNY)], info["recipe"])[0]
    assert sample is not None
    width = info["recipe"].model.width
    with torch.no_grad():
        both = model(sample.frames[None], sample.sound[None]).log_softmax(-1)[0, :, found.target]
        nothing = torch.zeros(1, 2, width)
        neither = model.classifier(model.fusion(nothing, nothing)).log_softmax(-1)[0, :, found.target]
    total = torch.tensor([part.picture + part.sound for part in found.parts])
    torch.testing.assert_close(total, both - neither, rtol=1e-4, atol=1e-5)
    shares = [part.share for part in found.parts]
    assert all(share is not None and 0 < share < 1 for share in shares)


def test_who_is_not_listened_to_has_no_share(make: Make) -> None:
    def deaf(model: AudioVisualModel) -> None:
        nn.init.zeros_(model.project_audio.weight)
        nn.init.zeros_(model.project_audio.bias)

    def blind(model: AudioVisualModel) -> None:
        nn.init.zeros_(model.project_visual.weight)
        nn.init.zeros_(model.project_visual.bias)

    def neither(model: AudioVisualModel) -> None:
        deaf(model)
        blind(model)

    assert [part.share for part in explain(make(change=deaf), BUNNY).parts] == [0, 0]
    assert [part.share for part in explain(make(change=blind), BUNNY).parts] == [1, 1]
    assert [part.share for part in explain(make(change=neither), BUNNY).parts] == [None, None]


def test_contributions_of_a_model_that_adds_are_what_each_adds() -> None:
    """Two classes with logits (v + a, 0): small ones add half of themselves to log p = -log(1 + exp(-v - a))."""

    class Adds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = nn.Identity()

        def fusion(self, visual: Tensor, audio: Tensor) -> Tensor:
            return torch.cat((visual + audio, 0 * visual), -1)

    visual, audio = torch.tensor([0.001, -0.002]).reshape(1, 2, 1), torch.tensor([0.003, 0.002]).reshape(1, 2, 1)
    parts: Any = contributions(Adds(), visual, audio, target=0)  # type: ignore[arg-type]
    np.testing.assert_allclose([p.picture for p in parts], [0.0005, -0.001], rtol=1e-2)
    np.testing.assert_allclose([p.sound for p in parts], [0.0015, 0.001], rtol=1e-2)
    np.testing.assert_allclose([p.share for p in parts], [0.75, 0.5], rtol=1e-2)


@pytest.mark.parametrize("frames", [1, 3, 40])
def test_silent_and_short_videos(make: Make, tmp_path: Path, write_video: Callable[..., Path], frames: int) -> None:
    video = write_video(tmp_path / f"silent {frames} [x].mp4", frames=frames, click=None)
    found = explain(make(MPE), video)
    assert not found.heard
    assert [part.sound for part in found.parts] == [0, 0]
    assert [branches.stream for branches in found.branches] == ["visual"]  # nothing goes through the audio ResNet
    assert "No sound track" in strip_text(found)
    film, strip, numbers = write(found, tmp_path / "out")
    assert (film.name, strip.stem) == (f"silent {frames} [x].mp4", f"silent {frames} [x]")
    assert len(read_film(film)) == 8
    assert json.loads(numbers.read_text()) == json.loads(json.dumps(found.as_dict()))


def read_film(path: Path) -> list[NDArray[np.uint8]]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_the_film_shows_the_frames_as_the_model_saw_them_and_where_in_time(make: Make, tmp_path: Path) -> None:
    found = explain(make(MPE, frames=8, segments=3), BUNNY)
    told: list[tuple[int, int]] = []
    film, strip, _ = write(found, tmp_path / "out", lambda done, total: told.append((done, total)))
    assert told[-1] == (24, 24)
    with av.open(str(film)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
        assert stream.average_rate == 25  # that of the video
    pictures = read_film(film)
    assert len(pictures) == 24
    marks = []
    for i, picture in enumerate(pictures):
        seen = found.frames[divmod(i, 8)]
        panel = (
            picture[HEAD : HEAD + PANEL, GAP : GAP + PANEL].reshape(32, PANEL // 32, 32, PANEL // 32, 3).mean((1, 3))
        )
        assert np.abs(panel - seen).mean() < 6, i
        red = (picture[..., 0] > 150) & (picture[..., 1] < 90) & (picture[..., 2] < 90)
        marks.append(int(red[HEAD + PANEL + GAP :].sum(0).argmax()))
    assert marks == sorted(marks)
    assert len(set(marks)) == 24  # the mark moves with every picture
    assert imread(strip).shape[1] > 800
    assert sorted(p.name for p in film.parent.iterdir()) == [f"{BUNNY.stem}{s}" for s in (".json", ".mp4", ".png")]


def test_an_interrupted_film_leaves_the_one_before_it(make: Make, tmp_path: Path) -> None:
    found = explain(make(), BUNNY)
    film = write(found, tmp_path)[0]
    before = film.read_bytes()

    def interrupt(done: int, total: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(found, tmp_path, interrupt)
    assert film.read_bytes() == before
    assert not [p for p in tmp_path.iterdir() if p.name.endswith(".part")]


def test_many_segments_and_odd_names_are_drawn_without_a_warning(make: Make, tmp_path: Path) -> None:
    classes = ("$anger", r"a$\frac{$b", "[bold]", "信頼", "x" * 90, *"abcdef")
    found = explain(make(MPE, classes=classes, segments=20, frames=1), BUNNY, "$anger")
    _, strip, numbers = write(found, tmp_path)
    assert json.loads(numbers.read_text())["target"] == "$anger"
    assert imread(strip).shape[1] < 3000
    console = Console(width=400, file=io.StringIO())
    console.print(found.render())
    assert "$anger" in console.file.getvalue()  # type: ignore[attr-defined]


def test_what_cannot_be_explained_is_one_line(make: Make, tmp_path: Path, write_video: Callable[..., Path]) -> None:
    path, text = make(), tmp_path / "text.mp4"
    text.write_text("no video")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"path": text}, "not a readable video"),
        ({"target": "joi"}, "knows no class 'joi'; it has calm, joy, fear"),
        ({"layer": "visual.layer9"}, r"no layer 'visual\.layer9': .* has no 'layer9'; it has conv1, .*layer4"),
        ({"layer": "audio.layer1"}, "has no maps of each segment's frames"),
        ({"layer": "classifier"}, "has no maps of each segment's frames"),
    ]
    for options, message in cases:
        with pytest.raises(ValueError, match=message) as error:
            explain(**{"checkpoint": path, "path": BUNNY, **options})
        assert "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match=r"there is no video nowhere\.mp4"):
        explain(path, Path("nowhere.mp4"))
    video = write_video(tmp_path / "mine.mp4")
    with pytest.raises(ValueError, match=r"would take the place of the video; choose another folder"):
        write(explain(path, video), tmp_path)


def test_the_command_writes_a_film_a_strip_and_the_numbers(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["attnzoo", "explain", *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            cli.main()
        said = capsys.readouterr()
        return int(stop.value.code or 0), said.out, said.err

    path = make(MPE)
    status, out, err = run(path, BUNNY)
    assert status == 0, err
    beside = [path.parent / "explain" / f"{BUNNY.stem}{suffix}" for suffix in (".mp4", ".png", ".json")]
    assert all(f"written: {p}" in out and p.stat().st_size > 1000 for p in beside)
    status, out, _ = run(path, BUNNY, "--out", tmp_path / "here", "--target", "fear", "--json")
    assert json.loads(out) == json.loads((tmp_path / "here" / "bigbuckbunny.json").read_text())
    assert json.loads(out)["target"] == "fear"
    status, _, err = run(path, BUNNY, "--target", "envy")
    assert (status, err.count("\n")) == (2, 1)
    assert "knows no class 'envy'; it has calm, joy, fear" in err


def acted(cue: str, count: int, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Clips of puppets, whether the cue is on in each, and the box of all that its part can reach in each.

    The other cues are on or off whatever this one is, and a part whose cue is off is there, but rests.
    """
    cues, parts, frames, size = ("micro", "meso", "macro"), {"micro": "patch", "meso": "face"}, 8, 48
    pixels, boxes = [], torch.zeros(count, size, size)
    for number in range(count):
        on = {name: bool(number >> i & 1) for i, name in enumerate(cues)}
        puppet = Puppet(
            {**on, **dict.fromkeys(("pitch", "rhythm", "noise"), False)}, frames, 16, size, size, (seed, 0, number)
        )
        pixels.append(torch.from_numpy(np.stack(list(puppet.pictures()))).permute(3, 0, 1, 2) / 127.5 - 1)
        left, top, right, bottom = (round(edge * size) for edge in puppet.look().boxes()[parts[cue]])
        boxes[number, top:bottom, left:right] = 1
    return torch.stack(pixels), torch.arange(count) >> cues.index(cue) & 1, boxes


@pytest.mark.parametrize(("cue", "times"), [("micro", 3.0), ("meso", 1.8)])
def test_the_activation_lights_up_where_the_cue_is(cue: str, times: float) -> None:
    """Its share in the box of the part that moves, against the share of the picture that the box has: chance."""
    x, y, _ = acted(cue, 96, seed=1)
    torch.manual_seed(0)
    net = inject(resnet3d(10, num_classes=2, widen_factor=0.125, stem_size=3), "mpe", groups=2)
    optimizer, steps = torch.optim.Adam(net.parameters()), 80
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 6e-3, total_steps=steps)
    for _ in range(steps):
        chosen = torch.randint(len(x), (16,))
        flipped = torch.where(torch.rand(16, 1, 1, 1, 1) < 0.5, x[chosen], x[chosen].flip(-1))
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(flipped), y[chosen]).backward()
        optimizer.step()
        schedule.step()
    x, y, boxes = acted(cue, 32, seed=2)
    with torch.no_grad():
        right = net.eval()(x).argmax(1) == y
    assert right.float().mean() > 0.85
    shown = right & (y == 1)
    layer = activation_layer(net, x[:1])
    cam = enlarge(activation_map(net, [x[shown]], 1, layer), x.shape[2:]).mean(1)
    share = (cam * boxes[shown]).sum((1, 2)) / cam.sum((1, 2))
    chance = boxes[shown].mean((1, 2))
    assert (share > chance).all()
    assert share.mean() > times * chance.mean()
