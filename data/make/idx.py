"""Read the original files of Fashion-MNIST (IDX format, gzipped or not) and check them.

The digests are of the decompressed files, because mirrors compress the same bytes with
different headers.
"""

import gzip
import hashlib
import struct
from pathlib import Path

import numpy as np
import torch

SHA256 = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}


def read_idx(folder: Path, name: str) -> np.ndarray:
    """Return one verified file as an array of uint8: images (n, 28, 28) or labels (n,)."""
    packed = folder / f"{name}.gz"
    content = (
        gzip.decompress(packed.read_bytes()) if packed.exists() else (folder / name).read_bytes()
    )
    digest = hashlib.sha256(content).hexdigest()
    if digest != SHA256[name]:
        raise ValueError(f"{folder / name} is not the published file: its sha256 is {digest}.")
    dimensions = content[3]
    header = 4 + 4 * dimensions
    shape = struct.unpack(">" + "I" * dimensions, content[4:header])
    return np.frombuffer(content, np.uint8, offset=header).reshape(shape)


def read_fashion(folder: Path, part: str) -> tuple[np.ndarray, np.ndarray]:
    """Return ``(images, labels)`` of ``part``, which is "train" or "t10k"."""
    return read_idx(folder, f"{part}-images-idx3-ubyte"), read_idx(
        folder, f"{part}-labels-idx1-ubyte"
    )


def read_tensors(folder: Path, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the images of ``part``, (n, 1, 28, 28) in [0, 1], and the labels, (n,) int64."""
    images, labels = read_fashion(folder, part)
    return torch.tensor(images)[:, None] / 255, torch.tensor(labels).long()
