"""What the model sees of a video: windows of frames and the maps of the sound beside them."""

import logging
from collections.abc import Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from attnzoo.emotion import audio, media, sampling
from attnzoo.emotion.datasets import Video
from attnzoo.emotion.decoding import check_torchcodec
from attnzoo.emotion.inputs import Audio, Clip

_log = logging.getLogger(__name__)


class Batch(NamedTuple):
    """One video, or a batch of them with a first dimension B.

    Attributes:
        frames: (T, 3, k, size, size), 0 to 255.
        sound: (T, 1, coefficients, width), maps of the sound; zeros without a sound track.
        heard: (), whether there is a sound track.
        label: (), index of the class.

    >>> Batch(torch.zeros(2, 3, 4, 8, 8), torch.zeros(2, 1, 12, 16), torch.tensor(True), torch.tensor(1)).heard
    tensor(True)
    """

    frames: Tensor
    sound: Tensor
    heard: Tensor
    label: Tensor


class Clips(Dataset[Batch | None]):
    """What the model sees of each video.

    Args:
        videos: the videos.
        clip: segments, window and size.
        sound: settings of the maps of the sound.
        seed: None for evaluation (centred windows, centre crop); else windows and view are drawn from it, the epoch
            and the video's number.
        damaged: "stop" raises at a video that can no longer be read; "skip" gives None for it and says so once.
        views: in training, how many fixed views of each video the epochs see in turn; 1 is that of evaluation. None
            draws new ones in each epoch.

    Attributes:
        lost: (len(videos),), which videos were skipped; the processes that load share it.

    >>> len(Clips([], Clip(), Audio()))
    0
    """

    def __init__(
        self,
        videos: Sequence[Video],
        clip: Clip,
        sound: Audio,
        seed: int | None = None,
        damaged: Literal["stop", "skip"] = "stop",
        views: int | None = None,
    ) -> None:
        if clip.decoder == "torchcodec":
            check_torchcodec()
        self.videos = videos
        self.clip = clip
        self.sound = sound
        self.seed = seed
        self.damaged = damaged
        self.views = views
        self.lost = torch.zeros(len(videos), dtype=torch.bool).share_memory_()

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: int | tuple[int, int]) -> Batch | None:
        """Video `i`, or that of (epoch, i) in training; None if it is skipped."""
        epoch, i = item if isinstance(item, tuple) else (0, item)
        try:
            return self._clip(epoch, i)
        except media.Damaged as error:
            if self.damaged == "stop":
                raise
            if not self.lost[i]:
                self.lost[i] = True
                _log.warning("%s; it is left out", error)
            return None
        except Exception as error:  # in a process that loads, nothing else says which video it was
            path, reason = str(self.videos[i].index.path), " ".join(str(error).split())
            known = isinstance(error, ValueError) and path in reason
            raise ValueError(reason if known else f"{path}: {type(error).__name__}: {reason}") from error

    def _rng(self, epoch: int, i: int) -> np.random.Generator | None:
        """What a view is drawn from; None for the centred one."""
        if self.seed is None or self.views == 1:
            return None
        if self.views is None:
            return np.random.default_rng((self.seed, epoch, i))
        # Of the video alone, so that its features serve any split and seed.
        return np.random.default_rng((epoch % self.views, *self.videos[i].key.encode()))

    def _clip(self, epoch: int, i: int) -> Batch:
        frames = self._frames(epoch, i)
        sound, heard = self._sound(epoch, i)
        return Batch(frames, sound, heard, label=torch.tensor(self.videos[i].label))

    def _frames(self, epoch: int, i: int) -> Tensor:
        index, clip, rng = self.videos[i].index, self.clip, self._rng(epoch, i)
        wanted = sampling.windows(len(index.pts), clip.segments, clip.frames, rng)
        view = sampling.View() if rng is None else sampling.View.draw(clip, rng)
        decoded = media.read_frames(index, wanted.reshape(-1).tolist(), clip.size, view.place, clip.decoder)
        frames = torch.from_numpy(view.show(decoded).copy()).reshape(*wanted.shape, *decoded.shape[1:])
        # Contiguous, since otherwise the layout of a batch would depend on the number of workers.
        return frames.permute(0, 4, 1, 2, 3).contiguous()

    def _sound(self, epoch: int, i: int) -> tuple[Tensor, Tensor]:
        """Maps of the sound, and whether there is a sound track."""
        index = self.videos[i].index
        # Drawn as the windows of frames are, so that both come from the same part of a segment.
        maps = sound_maps(index, self.clip, self.sound, self._rng(epoch, i))
        return torch.from_numpy(maps).unsqueeze(1).contiguous(), torch.tensor(index.sound is not None)


def collate(samples: Sequence[Batch | None]) -> Batch | None:
    """Put samples together to a batch, without those that were skipped.

    Args:
        samples: of `Clips`, all of one shape.

    Returns:
        A batch; None if there is nothing in it.

    >>> collate([None, None])
    """
    present = [sample for sample in samples if sample is not None]
    return Batch(*(torch.stack(parts) for parts in zip(*present, strict=True))) if present else None


def sound_maps(
    index: media.Index, clip: Clip, sound: Audio, rng: np.random.Generator | None = None
) -> NDArray[np.float32]:
    """Maps (T, coefficients, width) of the sound of a video, one per segment of the picture; zeros without a track.

    Args:
        index: the video.
        clip: for the number of segments.
        sound: settings of the maps.
        rng: draws which frames of a segment are taken, with preset "fbank" in training; centred if None (evaluation).

    >>> from pathlib import Path
    >>> index = media.Index(Path("silent.mp4"), tuple(range(20)), 0.1, 10.0, 20, sound=None)
    >>> sound_maps(index, Clip(segments=4), Audio(coefficients=12, width=16)).shape
    (4, 12, 16)
    """
    if index.sound is None:
        return np.zeros((clip.segments, sound.coefficients, sound.width), np.float32)
    track = media.read_sound(index, sound.rate)
    edges = sampling.edges(np.array(index.pts) * index.unit, index.start + index.seconds, clip.segments)
    frames = {"window": sound.window, "hop": sound.hop, "preemphasis": sound.preemphasis}
    if sound.preset == "fbank":
        return audio.block_maps(audio.fbank(track, sound.rate, mels=sound.mels, **frames), edges, sound.width, rng)
    taper = "hann" if sound.preset == "vaanet" else "hamming"
    cepstra = audio.mfcc(track, sound.rate, coefficients=sound.coefficients, mels=sound.mels, taper=taper, **frames)
    if sound.preset == "vaanet":
        return audio.tiled_maps(cepstra, clip.segments, sound.width)
    return audio.segment_maps(cepstra, edges, sound.width)


class Epochs(Sampler[tuple[int, int]]):
    """Videos as (epoch, i), in an order drawn from seed and epoch: a resumed training sees what it would have seen.

    Args:
        count: number of videos.
        seed: of the order.

    >>> sorted(Epochs(3, seed=0))
    [(0, 0), (0, 1), (0, 2)]
    """

    def __init__(self, count: int, seed: int) -> None:
        self.count = count
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Lightning before each epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        yield from ((self.epoch, int(i)) for i in order)
