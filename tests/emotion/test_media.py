"""Decoding against videos whose content is known frame by frame."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from attnzoo.emotion import media, sampling

Write = Callable[..., Path]


def grey(frames: np.ndarray) -> list[int]:
    """The number i of each frame, from its grey level 8 * i + 20."""
    return [round((float(f.mean()) - 20) / 8) for f in frames]


@pytest.mark.parametrize("container", ["mp4", "mkv", "mov", "avi"])
def test_frames_are_those_asked_for_in_any_container(write_video: Write, tmp_path: Path, container: str) -> None:
    codec = "mpeg4" if container == "avi" else "libx264"
    index = media.read_index(write_video(tmp_path / f"a.{container}", codec=codec))
    assert len(index.pts) == 24
    wanted = [0, 23, 7, 8, 7]
    frames = media.read_frames(index, wanted, 32)
    assert frames.shape == (5, 32, 32, 3)
    assert grey(frames) == wanted


def test_long_gop_and_b_frames(write_video: Write, tmp_path: Path) -> None:
    index = media.read_index(write_video(tmp_path / "a.mp4", frames=28, options={"movflags": "+faststart"}))
    assert grey(media.read_frames(index, list(range(28)), 16)) == list(range(28))


def test_time_starts_with_the_first_frame(write_video: Write, tmp_path: Path) -> None:
    late = media.read_index(write_video(tmp_path / "late.mkv", first_pts=5, click=1.5))
    assert late.start == pytest.approx(0.5)
    assert late.seconds == pytest.approx(2.4)
    assert grey(media.read_frames(late, [0, 10], 16)) == [0, 10]
    # The click sounds at 1.5 s of the file, so 1.0 s after the first frame.
    sound = media.read_sound(late, 8000)
    assert len(sound) == round(late.seconds * 8000)
    assert abs(int(np.abs(sound).argmax()) / 8000 - 1.0) < 0.05


def test_short_side_is_scaled_and_a_square_cut_along_the_long_side(write_video: Write, tmp_path: Path) -> None:
    def left_half_white(_: int) -> np.ndarray:
        picture = np.zeros((48, 96, 3), np.uint8)
        picture[:, :48] = 255
        return picture

    index = media.read_index(write_video(tmp_path / "a.mp4", size=(96, 48), draw=left_half_white))
    left, middle, right = (media.read_frames(index, [3], 24, place)[0].mean() for place in (0.0, 0.5, 1.0))
    assert left > 245
    assert right < 10
    assert middle == pytest.approx(127, abs=8)


def test_a_video_without_sound_gives_zeros_of_its_length(write_video: Write, tmp_path: Path) -> None:
    index = media.read_index(write_video(tmp_path / "a.mp4", click=None))
    assert not index.sound
    sound = media.read_sound(index, 16000)
    assert sound.shape == (38400,)
    assert not sound.any()


def test_a_truncated_file_gives_the_frames_before_the_cut(write_video: Write, tmp_path: Path) -> None:
    whole = write_video(tmp_path / "a.mp4", options={"movflags": "+faststart"}, size=(320, 240))
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    index = media.read_index(cut)
    assert 0 < len(index.pts) < index.promised == 24
    assert grey(media.read_frames(index, [0, 2], 16)) == [0, 2]


@pytest.mark.parametrize(("name", "options"), [("a.mkv", {}), ("a.mp4", {"movflags": "frag_keyframe+empty_moov"})])
def test_a_truncated_file_that_claims_no_number_of_frames_is_noticed(
    videos: Path, tmp_path: Path, name: str, options: dict[str, str]
) -> None:
    whole, cut = tmp_path / name, tmp_path / f"cut_{name}"
    with av.open(str(next((videos / "calm").iterdir()))) as source, av.open(str(whole), "w", options=options) as copy:
        tracks = {stream: copy.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:  # the last one of each track is empty
                packet.stream = tracks[packet.stream]
                copy.mux(packet)
    count = len(media.read_index(whole).pts)
    assert media.read_index(whole).promised == 0
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size * 7 // 10])
    index = media.read_index(cut)
    assert len(index.pts) < count - 2
    assert index.promised == pytest.approx(count, abs=3)


@pytest.mark.parametrize(("kind", "number"), [("video", 5), ("video", 0), ("audio", 5)])
def test_a_bad_packet_costs_what_it_holds_and_not_the_rest(
    videos: Path, tmp_path: Path, kind: str, number: int
) -> None:
    path, bad = next((videos / "calm").iterdir()), tmp_path / "bad.mp4"
    with av.open(str(path)) as container:
        packet = [p for p in container.demux(**{kind: 0}) if p.size][number]
        assert packet.pos is not None
        at, length = packet.pos, packet.size
    content = bytearray(path.read_bytes())
    content[at : at + length] = b"\xff" * length
    bad.write_bytes(content)
    whole, index = media.read_index(path), media.read_index(bad)
    frames = media.read_frames(whole, range(24), 16).astype(int)
    # Frames 0 to 15 hang on the one at 0; at 16 there is a new key frame.
    last, first = (media.read_frames(index, [i], 16).astype(int)[0] for i in (20, 0))
    assert np.abs(last - frames[20]).max() == 0
    assert np.abs(first - frames[16 if (kind, number) == ("video", 0) else 0]).max() == 0
    one, two = media.read_sound(whole, 8000), media.read_sound(index, 8000)
    assert np.abs(one - two)[8000:].max() < 1e-3  # what comes after the damage is heard at its own time


def test_a_title_that_is_not_utf8_is_no_reason_to_refuse_a_film(write_video: Write, tmp_path: Path) -> None:
    plain, titled = write_video(tmp_path / "plain.mkv"), tmp_path / "titled.mkv"
    with av.open(str(plain)) as source, av.open(str(titled), "w") as film:
        film.metadata["title"] = "Caf\u00e9"
        copy = film.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.stream = copy
                film.mux(packet)
    content = titled.read_bytes()
    assert content.count("Caf\u00e9".encode()) == 1
    titled.write_bytes(content.replace("Caf\u00e9".encode(), b"Caf\xe9!"))  # as Latin-1 has it
    frames = [media.read_frames(media.read_index(path), range(24), 16) for path in (titled, plain)]
    np.testing.assert_array_equal(*frames)


def test_a_sound_that_changes_its_rate_and_channels(write_video: Write, tmp_path: Path) -> None:
    path = tmp_path / "sound.mp3"
    for rate, layout, loud in ((16000, "mono", 0.0), (44100, "stereo", 0.5)):
        part = tmp_path / f"{rate}.mp3"
        with av.open(str(part), "w", options={"write_xing": "0", "id3v2_version": "0"}) as container:
            stream = container.add_stream("libmp3lame", rate=rate, layout=layout)
            wave = loud * np.sin(np.arange(rate) * 2 * np.pi * 500 / rate)
            samples = np.stack([wave] * (1 if layout == "mono" else 2)).astype(np.float32)
            frame = av.AudioFrame.from_ndarray(samples, format="fltp", layout=layout)
            frame.sample_rate, frame.pts = rate, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode())
        with path.open("ab") as file:
            file.write(part.read_bytes())
    index = replace(media.read_index(write_video(tmp_path / "a.mp4")), sound=path)
    sound = media.read_sound(index, 8000)
    assert np.abs(sound[1000:7000]).max() < 0.01
    assert np.abs(sound[10000:15000]).max() == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("kind", ["gif", "tiff", "ppm", "png", "avif"])
def test_a_still_image_is_no_short_video(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "still.mp4"
    Image.new("RGB", (64, 48), (200, 30, 30)).save(path, kind)
    with pytest.raises(ValueError, match=r"still\.mp4: not a video: a still image"):
        media.read_index(path)


@pytest.mark.parametrize("content", [b"", b"no video at all\n" * 50, b"\0" * 4096])
def test_what_is_no_video_is_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "bad.mp4"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"bad\.mp4: ") as error:
        media.read_index(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("frames", "segments", "length"), [(100, 4, 8), (97, 3, 16), (30, 4, 8), (5, 2, 8), (1, 3, 4)])
def test_windows(frames: int, segments: int, length: int) -> None:
    centred = sampling.windows(frames, segments, length)
    drawn = [sampling.windows(frames, segments, length, np.random.default_rng(seed)) for seed in range(200)]
    for windows in (centred, *drawn):
        assert windows.shape == (segments, length)
        assert windows.min() >= 0
        assert windows.max() < frames
        assert (np.diff(windows) % frames == 1 % frames).all()
    if frames >= segments * length:
        middles = centred.mean(1) + 0.5
        assert np.abs(middles - (np.arange(segments) + 0.5) * frames / segments).max() <= 1
        starts = np.stack([w[:, 0] for w in drawn])
        for i in range(segments):
            low, high = int(i * frames / segments), int((i + 1) * frames / segments) - length
            # Every start from the segment's first to its last possible one is drawn.
            assert set(range(low, high)) <= set(starts[:, i].tolist()) <= set(range(low, high + 2))
