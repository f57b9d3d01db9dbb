"""The protocols: the published counts and ids, disjoint parts, and a line that tells each division from any other."""

import itertools
import re
from collections import Counter
from pathlib import Path

import pytest

from attnzoo.emotion.datasets import Folder, Video
from attnzoo.emotion.media import Index
from attnzoo.emotion.protocols import Split, find, list_protocols, split
from attnzoo.emotion.recipe import Data

INDEX = Index(Path("a.mp4"), (0, 1), 0.1, 10.0, 2, None)
# Ekman-6 as CTEN numbers it, id for id (tools/annotations/ek6).
EKMAN6 = {
    "anger": range(887, 1112),
    "disgust": range(1, 240),
    "fear": range(600, 887),
    "joy": range(1112, 1417),
    "sadness": range(1417, 1638),
    "surprise": range(240, 600),
}
VE8 = {
    "Anger": 101,
    "Anticipation": 101,
    "Disgust": 115,
    "Fear": 167,
    "Joy": 180,
    "Sadness": 100,
    "Surprise": 236,
    "Trust": 101,
}


def folder(names: dict[str, list[str]], splits: tuple[str, ...] = ()) -> Folder:
    videos = tuple(Video(f"{label}/{name}", i, INDEX) for i, label in enumerate(names) for name in names[label])
    return Folder(Path("mine"), tuple(names), videos, (), splits=splits)


@pytest.fixture(scope="module")
def ekman() -> Folder:
    return folder({label: [f"{i}.mp4" for i in ids] for label, ids in EKMAN6.items()})


@pytest.fixture(scope="module")
def ve8() -> Folder:
    return folder({label: [f"{i}.mp4" for i in range(n)] for label, n in VE8.items()})


@pytest.fixture
def actors() -> Folder:
    """Twelve actors with six videos each, two of each class."""
    videos = tuple(
        Video(f"{label}/{actor}-{i}.mp4", number, INDEX, speaker=f"{actor:02d}")
        for number, label in enumerate(("calm", "fear", "joy"))
        for actor in range(12)
        for i in range(2)
    )
    return Folder(Path("actors"), ("calm", "fear", "joy"), videos, ())


def names(videos: tuple[Video, ...]) -> set[str]:
    return {video.name for video in videos}


def per_class(videos: tuple[Video, ...]) -> list[int]:
    counted = Counter(video.label for video in videos)
    return [counted[label] for label in sorted(counted)]


def is_partition(parts: Split, whole: Folder) -> bool:
    keys = [video.key for part in (parts.train, parts.val, parts.test) for video in part]
    return sorted(keys) == sorted(video.key for video in whole.videos)


def test_ek6_parity_is_ctens_split_in_counts_and_ids(ekman: Folder) -> None:
    parts = split(ekman, Data(protocol="ek6-parity", val_fraction=0))
    assert per_class(parts.train) == [113, 119, 144, 152, 111, 180]
    assert per_class(parts.test) == [112, 120, 143, 153, 110, 180]
    train, test = names(parts.train), names(parts.test)
    # Ids from trainlist01.txt and testlist01.txt. The list is sorted as text: 10, 100, 101, ... stand before 2.
    listed = (
        "anger/1000 anger/887 anger/999 disgust/10 disgust/101 disgust/110 disgust/2 disgust/21 disgust/98 fear/600"
    )
    assert set(f"{listed} joy/1113 sadness/1637 surprise/241".split()) <= train
    listed = "anger/1001 anger/888 disgust/1 disgust/100 disgust/111 disgust/20 disgust/99 fear/601 fear/885 joy/1112"
    assert set(f"{listed} sadness/1418 surprise/240 surprise/598".split()) <= test
    assert is_partition(parts, ekman)
    # The classes in another order, and folders of frames without a suffix, give the same split.
    turned = folder({label: [str(i) for i in EKMAN6[label]] for label in reversed(EKMAN6)})
    assert names(split(turned, Data(protocol="ek6-parity")).test) == test


def test_ek6_1to1_halves_each_class_at_random(ekman: Folder) -> None:
    parts = split(ekman, Data(protocol="ek6-1to1", val_fraction=0))
    assert is_partition(parts, ekman)
    assert all(abs(a - b) <= 1 for a, b in zip(per_class(parts.train), per_class(parts.test), strict=True))
    assert names(parts.test) != names(split(ekman, Data(protocol="ek6-parity")).test)


def test_ve8_10x_is_ten_different_splits_two_to_one(ve8: Folder) -> None:
    folds = [split(ve8, Data(protocol="ve8-10x", fold=fold)) for fold in range(10)]
    for parts in folds:
        assert is_partition(parts, ve8)
        assert all(abs(n / whole - 1 / 3) < 0.01 for n, whole in zip(per_class(parts.test), VE8.values(), strict=True))
    for one, two in itertools.combinations(folds, 2):
        common = len(names(one.test) & names(two.test)) / len(one.test)
        assert 0.2 < common < 0.47  # a third by chance
    again = split(ve8, Data(protocol="ve8-10x", fold=3))
    assert names(again.test) == names(folds[3].test)
    other = split(ve8, Data(protocol="ve8-10x", fold=3, split_seed=1))
    assert names(other.test) != names(folds[3].test)


def test_ve8_10x_takes_the_published_splits_where_there_are_ten(ve8: Folder) -> None:
    parts = [tuple("test" if (i + fold) % 3 == 0 else "train" for fold in range(10)) for i in range(len(ve8.videos))]
    videos = tuple(Video(v.key, v.label, INDEX, parts=p) for v, p in zip(ve8.videos, parts, strict=True))
    published = Folder(ve8.root, ve8.classes, videos, (), splits=tuple(f"list {i:02d}" for i in range(1, 11)))
    for fold in (0, 4):
        told = split(published, Data(protocol="ve8-10x", fold=fold))
        assert names(told.test) == {v.name for i, v in enumerate(videos) if (i + fold) % 3 == 0}
    assert "list 05" in told.protocol


@pytest.mark.parametrize(("protocol", "count"), [("ve8-5fold", 5), ("kfold(3)", 3), ("kfold( 10 )", 10)])
def test_folds_test_every_video_once_in_even_shares(ve8: Folder, protocol: str, count: int) -> None:
    folds = [split(ve8, Data(protocol=protocol, fold=fold)) for fold in range(count)]
    assert Counter(name for parts in folds for name in names(parts.test)) == Counter(names(ve8.videos))
    for parts in folds:
        assert is_partition(parts, ve8)
        assert abs(len(parts.test) - len(ve8.videos) / count) < 1
        assert all(abs(n - whole / count) < 1 for n, whole in zip(per_class(parts.test), VE8.values(), strict=True))


def test_validation_is_of_each_class_and_never_of_the_test_videos(ve8: Folder) -> None:
    for protocol in (None, "ve8-10x", "ve8-5fold", "ek6-parity", "ek6-1to1", "kfold(4)"):
        without = split(ve8, Data(protocol=protocol, val_fraction=0))
        parts = split(ve8, Data(protocol=protocol, val_fraction=0.1))
        assert names(parts.test) == names(without.test)
        assert names(parts.val) | names(parts.train) == names(without.train)
        assert all(abs(n / whole - 0.1) < 0.01 for n, whole in zip(per_class(parts.val), VE8.values(), strict=True))


@pytest.mark.parametrize("count", [2, 5, 12])
def test_speakers_are_in_one_part_alone(actors: Folder, count: int) -> None:
    tested: list[str | None] = []
    for fold in range(count):
        data = Data(protocol=f"speakers({count})", fold=fold, val_fraction=0.2)
        parts = split(actors, data)
        who = [{video.speaker for video in part} for part in (parts.train, parts.val, parts.test)]
        assert all(who)
        assert not any(a & b for a, b in itertools.combinations(who, 2))
        assert is_partition(parts, actors)
        assert len(who[1]) == 2  # a fifth of twelve
        assert f"{len(who[2])} of 12 speakers" in parts.protocol
        tested += who[2]
    assert sorted(map(str, tested)) == [f"{actor:02d}" for actor in range(12)]


def test_a_list_is_followed_to_the_letter() -> None:
    told = [("train", "test"), ("train", "val"), ("test", "train"), ("", "test")] * 2
    videos = tuple(Video(f"{'ab'[i // 4]}/{i}.mp4", i // 4, INDEX, parts=parts) for i, parts in enumerate(told))
    listed = Folder(Path("mine"), ("a", "b"), videos, (), splits=("one", "two"))
    first = split(listed, Data(protocol="from-list", val_fraction=0.25))
    assert names(first.test) == {"a/2", "b/6"}
    assert names(first.train) | names(first.val) == {"a/0", "a/1", "b/4", "b/5"}
    assert per_class(first.val) == [1, 1]  # the list keeps none, so it is carved from training
    assert "from-list fold 0 of 0 to 1" in first.protocol
    assert "one, 2 videos in none of its parts" in first.protocol
    second = split(listed, Data(protocol="from-list", fold=1, val_fraction=0))
    assert [sorted(names(p)) for p in (second.train, second.val, second.test)] == [
        ["a/2", "b/6"],
        ["a/1", "b/5"],
        ["a/0", "a/3", "b/4", "b/7"],
    ]
    assert "its own validation" in second.protocol
    with pytest.raises(ValueError, match=r"fold=2: the splits of mine are 0 one, 1 two"):
        split(listed, Data(protocol="from-list", fold=2))
    with pytest.raises(ValueError, match=r"without published splits: name them with data\.annotations"):
        split(folder({"a": ["1"], "b": ["2"]}), Data(protocol="from-list"))


def test_no_two_divisions_have_the_same_line(ve8: Folder) -> None:
    several = [
        Data(),
        Data(split_seed=1),
        Data(test_fraction=0.5),
        Data(val_fraction=0),
        *(Data(protocol="ve8-10x", fold=fold) for fold in range(10)),
        *(Data(protocol="ve8-5fold", fold=fold) for fold in range(5)),
        *(Data(protocol="kfold(5)", fold=fold) for fold in range(5)),
        Data(protocol="kfold(5)", split_seed=1),
        Data(protocol="ek6-parity"),
        Data(protocol="ek6-1to1"),
    ]
    lines = [split(ve8, data).protocol for data in several]
    assert len(set(lines)) == len(lines)
    for data, line in zip(several, lines, strict=True):
        parts = split(ve8, data)
        counts = f"{len(parts.train)} training, {len(parts.val)} validation, {len(parts.test)} test videos"
        assert counts in line
        assert f"split seed {data.split_seed}" in line
        assert data.protocol is None or line.startswith(data.protocol)
        assert re.search(r"test set [0-9a-f]{8}\)$", line)


def test_the_test_set_is_known_by_its_videos_whatever_their_format(ve8: Folder) -> None:
    frames = folder({label: [str(i) for i in range(n)] for label, n in VE8.items()})
    for protocol in (None, "ve8-10x", "ve8-5fold", "ek6-parity"):
        assert split(frames, Data(protocol=protocol)).protocol == split(ve8, Data(protocol=protocol)).protocol


def test_what_cannot_be_divided_is_one_clear_line(actors: Folder, ve8: Folder) -> None:
    with pytest.raises(ValueError, match=r"no protocol is called 'ek6-party', did you mean ek6-parity\?"):
        Data(protocol="ek6-party")
    for wrong in ("kfold(1)", "kfold", "speakers(x)", ""):
        with pytest.raises(ValueError, match=r"no protocol is called .*kfold\(n\) and speakers\(n\), n from 2 on"):
            Data(protocol=wrong)
    for name, fold, has in (
        (None, 1, "fold 0 alone"),
        ("ek6-parity", 1, "fold 0 alone"),
        ("ve8-10x", 10, "folds 0 to 9"),
    ):
        with pytest.raises(ValueError, match=f"fold={fold}: .* has the {has}"):
            Data(protocol=name, fold=fold)
    small = folder({"a": ["1", "2", "3"], "b": ["1", "2", "3", "4"]})
    with pytest.raises(ValueError, match=r"class 'a' of mine has 3 usable videos, too few for 4 folds"):
        split(small, Data(protocol="kfold(4)"))
    with pytest.raises(
        ValueError, match=r"class 'a' of mine has 1 usable videos, too few for training, validation and"
    ):
        split(folder({"a": ["1"], "b": ["1", "2"]}), Data())
    with pytest.raises(ValueError, match=r"1101 videos of mine have no speaker, as Anger/0.mp4; layouts ravdess"):
        split(ve8, Data(protocol="speakers(2)"))
    with pytest.raises(ValueError, match=r"actors has 12 speakers, too few for speakers\(13\)"):
        split(actors, Data(protocol="speakers(13)"))


def test_the_protocols_can_be_listed() -> None:
    for protocol in list_protocols():
        assert find(protocol.name).about == protocol.about
        assert protocol.about
