"""The entries of a released file: those of the plain network, and the attention's."""

import re
from collections.abc import Mapping

from torch import Tensor

from attnzoo.official.families import Family


class Entries:
    """A file's entries: those of the plain network under torchvision's names, and the attention's by block.

    Args:
        family: how files with its attention are named.
        theirs: the file's names and tensors.

    Attributes:
        shell: torchvision's names and the tensors of the plain network.
        names: torchvision's names and the file's.
        parts: of each block (or stage) the names within its attention and the file's.

    >>> import torch
    >>> from attnzoo.official.families import FAMILIES
    >>> theirs = {"layer1.0.bn2.weight": torch.ones(64), "layer1.0.sge.weight": torch.ones(1, 64, 1, 1)}
    >>> file = Entries(FAMILIES["sge"], theirs)
    >>> list(file.shell), file.parts
    (['layer1.0.bn2.weight'], {'layer1.0': {'weight': 'layer1.0.sge.weight'}})
    """

    def __init__(self, family: Family, theirs: Mapping[str, Tensor]) -> None:
        self.family = family
        self.stem = next((p for p in ("layer0.", "stem.") if any(key.startswith(p) for key in theirs)), "")
        self.caffe = self.stem == "layer0."
        # The convolution follows its attention in a Sequential, and in a shortcut the norm follows both.
        self.led = {own[1] for key in theirs if family.place == "before" and (own := re.fullmatch(family.own, key))}
        self.shell: dict[str, Tensor] = {}
        self.names: dict[str, str] = {}
        self.parts: dict[str, dict[str, str]] = {}
        for key, value in theirs.items():
            block = re.match(r"(layer[1-9]\.\d+)\.(.+)", key)
            if family.place == "before":
                self._add_before(key, value)
                continue
            if family.place == "stage":
                own, at = re.fullmatch(family.own, key), f"layer{key[3:4]}"
            else:
                own, at = (re.fullmatch(family.own, block[2]), block[1]) if block else (None, "")
            if own:
                self.parts.setdefault(at, {})[own[1]] = key
            elif not (family.place == "conv2" and block and block[2] == "conv2.weight"):  # of a network without it
                plain = re.sub(r"^layer0\.", "", re.sub(r"^last_linear\.", "fc.", key))
                plain = plain.replace(".conv2.0.", ".conv2.") if family.place == "conv2" else plain
                self.shell[plain], self.names[plain] = value, key

    def _add_before(self, key: str, value: Tensor) -> None:
        """An entry of a file with attention in front of all convolutions."""
        led = next((path for path in self.led if key.startswith(f"{path}.")), None)
        plain = key.removeprefix(self.stem)
        if led:
            place, (number, within) = led.removeprefix(self.stem), key[len(led) + 1 :].split(".", 1)
            shortcut = place.endswith("downsample")
            if number == "0":
                self.parts.setdefault(f"{place}.0" if shortcut else place, {})[within] = key
                return
            plain = f"{place}.{int(number) - 1}.{within}" if shortcut else f"{place}.{within}"
        self.shell[plain], self.names[plain] = value, key

    def name_of(self, key: str, names: Mapping[str, str]) -> str:
        """What the file calls, or would call, an entry of our network.

        Args:
            key: the entry's name in our network.
            names: of those that the file has: our names and the file's.
        """
        if key in names or key.endswith("num_batches_tracked"):  # which old files do not have
            return names.get(key, key)
        place, attn, within = key.partition(".attn.")
        if self.family.place == "before":
            if attn:
                return f"{self.stem * (place == 'conv1')}{place.removesuffix('.0')}.0.{within}"
            return f"{self.stem}{key}" if re.match(r"(conv|bn)1\.", key) else key
        if attn:
            block = ".".join(place.split(".")[:2])
            known = next((n for k, n in names.items() if k.endswith(f".attn.{within}")), None)
            if self.family.place == "stage":
                return f"bam{place[5]}.{known.partition('.')[2] if known else '*'}"
            return f"{block}.{known.split('.', 2)[2] if known else self.family.child + '.*'}"
        if self.caffe:
            key = key.replace("fc.", "last_linear.") if key.startswith("fc.") else key
            return f"{self.stem}{key}" if re.match(r"(conv|bn)1\.", key) else key
        return key.replace(".conv2.", ".conv2.0.") if self.family.place == "conv2" else key
