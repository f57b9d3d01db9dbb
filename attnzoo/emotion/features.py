"""Features of frozen streams, worked out once and kept on disk, so that what follows them trains in seconds per epoch.

An entry holds what a stream makes of one view of one video, (T, num_features) in float32. Its name is a hash of all
that it depends on: the stream's weights, backbone and normalisation; the settings of the clips, and of the sound; the
view; and the content of the video, which is its size and sixteen blocks of 64 KiB spread evenly over it, so that a file
that was copied, renamed or touched keeps its features. Entries are written whole under a name of their own and then put
in place: any number of processes may fill one folder. What is damaged is worked out anew.
"""

import json
import os
import tempfile
import zipfile
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from attnzoo.emotion.clips import Batch, Clips
from attnzoo.emotion.loading import ignore_interrupts
from attnzoo.emotion.media import Index
from attnzoo.emotion.model import AudioVisualModel
from attnzoo.emotion.recipe import Recipe, Stream, StreamName

LAYOUT = 1  # of the entries and of what decoding gives; with another number, old entries are no longer found
BLOCK = 1 << 16
BLOCKS = 16

Progress = Callable[[int, int], None]


def cached(clips: Clips, model: AudioVisualModel, recipe: Recipe, *, progress: Progress | None = None) -> Clips:
    """Clips in which features stand for what a frozen stream would see; missing features are worked out first.

    Interrupted, it goes on where it was. The features are in full precision, on the accelerator if there is one.

    Args:
        clips: of the recipe, for training (with fixed views) or for evaluation.
        model: whose frozen streams they are for; the model takes the features in place of pixels and maps.
        recipe: with the folder in `training.cache`; without one the clips are given back as they are.
        progress: called with the number of views that are done and of those that were missing.

    Raises:
        ValueError: no stream is frozen as a whole, or an entry cannot be written.

    >>> from attnzoo.emotion.recipe import Audio, Clip
    >>> settings = {"visual": {"backbone": "resnet3d/10", "freeze": "all"}, "audio": {"backbone": "timm/resnet10t"}}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     training = {"cache": folder, "views": 1}
    ...     recipe = Recipe.model_validate({"name": "mine", "model": settings, "training": training})
    ...     model = AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 2)
    ...     list(cached(Clips([], recipe.clip, recipe.audio), model, recipe).keys)
    ['visual']
    """
    folder = recipe.training.cache
    if folder is None:
        return clips
    keys = {name: _key(name, model, recipe) for name in frozen(model)}
    if not keys:
        raise ValueError(
            "training.cache keeps the features of a stream that is frozen as a whole, and neither is; set "
            "model.visual.freeze=all (attention in it would be trained) or leave the cache out"
        )
    features = FeatureClips(clips, folder, keys)
    features.fill(model, recipe.training.workers, progress)
    return features


def frozen(model: AudioVisualModel) -> list[StreamName]:
    """The streams in which nothing is trained.

    Args:
        model: any.

    >>> settings = {"visual": {"backbone": "resnet3d/10", "freeze": "all"}, "audio": {"backbone": "timm/resnet10t"}}
    >>> recipe = Recipe.model_validate({"name": "mine", "model": settings})
    >>> with torch.device("meta"):
    ...     frozen(AudioVisualModel(recipe.model, recipe.clip, recipe.audio, 2))
    ['visual']
    """
    streams: dict[StreamName, tuple[nn.Module, ...]] = {
        "visual": (model.visual,),
        "audio": (model.sound_norm, model.audio),
    }
    trained = {
        name: any(p.requires_grad for p in chain.from_iterable(part.parameters() for part in parts))
        for name, parts in streams.items()
    }
    return [name for name in streams if not trained[name]]


class FeatureClips(Clips):
    """Clips with features (T, num_features) in place of the frames, the sound, or both.

    Args:
        clips: as they would be without.
        folder: of the entries.
        keys: for each stream with features, a hash of all but the video that they depend on.

    >>> from attnzoo.emotion.recipe import Audio, Clip
    >>> len(FeatureClips(Clips([], Clip(), Audio()), Path("features"), {"visual": "4f1c"}))
    0
    """

    def __init__(self, clips: Clips, folder: Path, keys: Mapping[StreamName, str]) -> None:
        super().__init__(clips.videos, clips.clip, clips.sound, clips.seed, clips.damaged, clips.views)
        self.clips = clips
        self.lost = clips.lost
        self.folder = folder
        self.keys = dict(keys)
        self.contents = [_told(video.index) for video in self.videos]

    def __getitem__(self, item: int | tuple[int, int]) -> Batch | None:
        """Video `i`, or that of (epoch, i) in training; None if it is skipped."""
        return None if self.lost[item[1] if isinstance(item, tuple) else item] else super().__getitem__(item)

    def _frames(self, epoch: int, i: int) -> Tensor:
        return self._kept("visual", epoch, i)[0] if "visual" in self.keys else super()._frames(epoch, i)

    def _sound(self, epoch: int, i: int) -> tuple[Tensor, Tensor]:
        return self._kept("audio", epoch, i) if "audio" in self.keys else super()._sound(epoch, i)

    def _kept(self, name: StreamName, epoch: int, i: int) -> tuple[Tensor, Tensor]:
        path = self.entry(name, epoch, i)
        entry = _read(path)
        if entry is None:
            raise ValueError(f"{self.videos[i].index.path}: its features in {path} are gone or damaged; start again")
        return entry

    def entry(self, name: StreamName, epoch: int, i: int) -> Path:
        """The file with the features that a stream makes of what an epoch sees of a video.

        Args:
            name: of the stream.
            epoch: in training.
            i: number of the video.
        """
        view = "centred"
        if self.seed is not None and self.views not in (None, 1):
            view = f"{epoch % self.views} of {self.videos[i].key}"
        told = sha256(f"{self.keys[name]} {self.contents[i]} {view}".encode()).hexdigest()
        return self.folder / name / told[:2] / f"{told[2:]}.npz"

    def missing(self, epoch: int, i: int) -> list[StreamName]:
        """The streams whose features of a view are not there, or damaged.

        Args:
            epoch: in training.
            i: number of the video.
        """
        return [name for name in self.keys if _read(self.entry(name, epoch, i)) is None]

    def fill(self, model: AudioVisualModel, workers: int = 0, progress: Progress | None = None) -> None:
        """Work out what is missing.

        Args:
            model: left in the mode and on the device in which it was.
            workers: processes that load videos.
            progress: called with the number of views that are done and of those that were missing.
        """
        views = range(self.views or 1) if self.seed is not None else range(1)
        todo = [(epoch, i) for epoch in views for i in range(len(self)) if self.missing(epoch, i)]
        if not todo:
            return
        mode, home = model.training, next(model.parameters()).device
        device = torch.accelerator.current_accelerator(check_available=True) or home
        loader = DataLoader(
            _Missing(self, todo), batch_size=None, num_workers=workers, worker_init_fn=ignore_interrupts
        )
        model.eval().to(device)
        try:
            with torch.inference_mode():
                for done, ((epoch, i), batch) in enumerate(zip(todo, loader, strict=True), 1):
                    for name in self.missing(epoch, i) if batch is not None else ():
                        make, inputs = {
                            "visual": (model.visual_features, batch.frames),
                            "audio": (model.audio_features, batch.sound),
                        }[name]
                        features = make(inputs.unsqueeze(0).to(device)).squeeze(0)
                        _write(self.entry(name, epoch, i), features.float().cpu(), batch.heard)
                    if progress:
                        progress(done, len(todo))
        finally:
            model.train(mode).to(home)


class _Missing(Dataset[Batch | None]):
    """What is needed of the views whose features are missing; None where there is nothing to do any more."""

    def __init__(self, features: FeatureClips, todo: Sequence[tuple[int, int]]) -> None:
        self.features = features
        self.todo = todo

    def __len__(self) -> int:
        return len(self.todo)

    def __getitem__(self, number: int) -> Batch | None:
        item = self.todo[number]
        return self.features.clips[item] if self.features.missing(*item) else None  # another process may have been here


def content(index: Index) -> str:
    """A hash of the content of a video, and of its sound where that is a file of its own.

    Args:
        index: of the video: a file, or a folder of frames.

    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder) / "a.mp4"
    ...     written = path.write_bytes(b"frames")
    ...     content(Index(path, (0, 1), 0.1, 10.0, 2, None))
    'f180efa6d88e8fbd'
    """
    digest = sha256()
    sources = [index.path] if index.sound in (None, index.path) else [index.path, index.sound]
    for source in filter(None, sources):
        files = sorted(source.iterdir()) if source.is_dir() else [source]
        sizes = [file.stat().st_size for file in files]
        digest.update(json.dumps(sizes).encode())
        for number in _spread(range(len(files))):
            with files[number].open("rb") as file:
                for start in _spread(range(0, sizes[number], BLOCK)):
                    file.seek(start)
                    digest.update(file.read(BLOCK))
    return digest.hexdigest()[:16]


def _told(index: Index) -> str:
    try:
        return content(index)
    except OSError:  # the clips will say so
        return ""


def _spread(items: range) -> Sequence[int]:
    """At most `BLOCKS` of them, the first and the last among them."""
    return items if len(items) <= BLOCKS else [items[n * (len(items) - 1) // (BLOCKS - 1)] for n in range(BLOCKS)]


def _key(name: StreamName, model: AudioVisualModel, recipe: Recipe) -> str:
    """A hash of all but the video that the features of a stream depend on."""
    stream: Stream = getattr(recipe.model, name)
    told: list[Any] = [LAYOUT, stream.backbone, stream.options, recipe.clip.model_dump(mode="json")]
    told.append(stream.model_dump(mode="json")["normalisation"] if name == "visual" else recipe.audio.model_dump())
    digest = sha256(json.dumps(told, sort_keys=True, default=str).encode())
    for key, value in model.get_submodule(name).state_dict().items():
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def _read(path: Path) -> tuple[Tensor, Tensor] | None:
    """Features and whether there is a sound track; None where there is no whole entry."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as entry:  # its checksums are looked at
            return torch.from_numpy(entry["features"]), torch.from_numpy(entry["heard"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None


def _write(path: Path, features: Tensor, heard: Tensor) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file, part = tempfile.mkstemp(dir=path.parent)
        try:
            with os.fdopen(file, "wb") as stream:
                np.savez(stream, features=features.numpy(), heard=heard.numpy())
            Path(part).replace(path)
        finally:
            Path(part).unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(f"cannot write features to {path}: {error.strerror or error}") from None
