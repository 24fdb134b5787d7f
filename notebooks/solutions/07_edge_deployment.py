"""Reference answers to the exercises of lesson 07, under the names of the stubs."""

import numpy as np
import torch


def requantize(accumulator, multiplier, shift, zero_point):
    """Multiply in 64 bits, add one half, shift; then the zero point, and the ends of a byte."""
    product = accumulator.astype(np.int64) * multiplier
    scaled = (product + (1 << (shift - 1))) >> shift
    return np.clip(scaled + zero_point, -128, 127).astype(np.int8)


def find_binding_limit(needs, card):
    """Compute the three shares; the largest of them binds, and fits if it is at most 1."""
    if needs["arithmetic"] not in card["macs_per_s"]:
        return "arithmetic", False
    milliseconds = 1000 * needs["macs"] / card["macs_per_s"][needs["arithmetic"]]
    shares = {
        "flash": needs["flash_bytes"] / card["flash_bytes"],
        "RAM": needs["ram_bytes"] / card["ram_bytes"],
        "latency": milliseconds / needs["deadline_ms"],
    }
    limit = max(shares, key=shares.get)
    return limit, shares[limit] <= 1


def name_causes():
    """Name what is wrong with each of the four exports."""
    return {
        "A": "size is a plain number",  # the graph expects the batch of the example
        "B": "operator not in ONNX",
        "C": "remembers in Python",  # the answer to the example is mixed into all others
        "D": "branches on values",  # which way an `if` goes is not known without the images
    }


def brighten(images):
    """Compute both for all images, and let each image choose."""
    is_dark = images.mean(dim=(1, 2, 3), keepdim=True) < 0.25
    return torch.where(is_dark, (1.5 * images).clamp(max=1), images)
