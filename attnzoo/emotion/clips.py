"""What the model sees of a video: windows of frames and the maps of the sound beside them."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from attnzoo.emotion import audio, media, sampling
from attnzoo.emotion.datasets import Video
from attnzoo.emotion.recipe import Audio, Clip


class Batch(NamedTuple):
    """One video, or a batch of them with a first dimension B.

    Attributes:
        frames: (T, 3, k, size, size), 0 to 255.
        sound: (T, 1, coefficients, width), MFCC maps; zeros without a sound track.
        heard: (), whether there is a sound track.
        label: (), index of the class.

    >>> Batch(torch.zeros(2, 3, 4, 8, 8), torch.zeros(2, 1, 12, 16), torch.tensor(True), torch.tensor(1)).heard
    tensor(True)
    """

    frames: Tensor
    sound: Tensor
    heard: Tensor
    label: Tensor


class Clips(Dataset[Batch]):
    """What the model sees of each video.

    Args:
        videos: the videos.
        clip: segments, window and size.
        sound: settings of the MFCC maps.
        seed: None for evaluation (centred windows, centre crop); else windows, crop and flip are drawn from it, the
            epoch and the video's number.

    >>> len(Clips([], Clip(), Audio()))
    0
    """

    def __init__(self, videos: Sequence[Video], clip: Clip, sound: Audio, seed: int | None = None) -> None:
        self.videos = videos
        self.clip = clip
        self.sound = sound
        self.seed = seed

    def __len__(self) -> int:
        return len(self.videos)

    def __getitem__(self, item: int | tuple[int, int]) -> Batch:
        """Video `i`, or that of (epoch, i) in training."""
        epoch, i = item if isinstance(item, tuple) else (0, item)
        try:
            return self._clip(epoch, i)
        except Exception as error:  # in a process that loads, nothing else says which video it was
            path, reason = str(self.videos[i].index.path), " ".join(str(error).split())
            known = isinstance(error, ValueError) and path in reason
            raise ValueError(reason if known else f"{path}: {type(error).__name__}: {reason}") from error

    def _clip(self, epoch: int, i: int) -> Batch:
        video, clip = self.videos[i], self.clip
        rng = None if self.seed is None else np.random.default_rng((self.seed, epoch, i))
        wanted = sampling.windows(len(video.index.pts), clip.segments, clip.frames, rng)
        place = 0.5 if rng is None else rng.uniform()
        frames = media.read_frames(video.index, wanted.reshape(-1).tolist(), clip.size, place)
        if not len(frames):
            raise ValueError(f"{video.index.path}: its frames can no longer be decoded")
        if rng is not None and rng.uniform() < clip.flip:
            frames = frames[:, :, ::-1]
        pixels = torch.from_numpy(frames.copy()).reshape(clip.segments, clip.frames, *frames.shape[1:])
        maps = sound_maps(video.index, clip, self.sound)
        # Contiguous, since otherwise the layout of a batch would depend on the number of workers.
        return Batch(
            frames=pixels.permute(0, 4, 1, 2, 3).contiguous(),
            sound=torch.from_numpy(maps).unsqueeze(1),
            heard=torch.tensor(video.index.sound is not None),
            label=torch.tensor(video.label),
        )


def sound_maps(index: media.Index, clip: Clip, sound: Audio) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """MFCC maps (T, coefficients, width) of a video, one per segment of the picture.

    Args:
        index: the video.
        clip: for the number of segments.
        sound: settings of the MFCC maps.

    >>> from pathlib import Path
    >>> index = media.Index(Path("silent.mp4"), tuple(range(20)), 0.1, 10.0, 20, sound=None)
    >>> sound_maps(index, Clip(segments=4), Audio(coefficients=12, width=16)).shape
    (4, 12, 16)
    """
    cepstra = audio.mfcc(
        media.read_sound(index, sound.rate),
        sound.rate,
        coefficients=sound.coefficients,
        mels=sound.mels,
        window=sound.window,
        hop=sound.hop,
        preemphasis=sound.preemphasis,
    )
    return audio.segment_maps(cepstra, clip.segments, sound.width)


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
