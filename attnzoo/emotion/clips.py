"""What the model sees of a video: windows of frames and the maps of the sound beside them."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attnzoo.emotion import audio, media, sampling
from attnzoo.emotion.datasets import Video
from attnzoo.emotion.decoding import check_torchcodec
from attnzoo.emotion.inputs import Audio, Clip
from attnzoo.emotion.samples import Reader


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


class Clips(Reader):
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
        super().__init__(videos, seed, damaged, views)
        self.videos = videos
        self.clip = clip
        self.sound = sound

    def read(self, epoch: int, i: int) -> Batch:
        """See `Reader.read`."""
        frames = self._frames(epoch, i)
        sound, heard = self._sound(epoch, i)
        return Batch(frames, sound, heard, label=torch.tensor(self.videos[i].label))

    def _frames(self, epoch: int, i: int) -> Tensor:
        index, clip, rng = self.videos[i].index, self.clip, self.rng(epoch, i)
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
        maps = sound_maps(index, self.clip, self.sound, self.rng(epoch, i))
        return torch.from_numpy(maps).unsqueeze(1).contiguous(), torch.tensor(index.sound is not None)


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
