"""Reference answers to the exercises of lesson 04, under the names of the stubs."""

import torch


def global_threshold(weights, sparsity):
    """Drop the first of the sorted magnitudes of all layers; return the mask of each layer."""
    magnitudes = torch.cat([weight.abs().flatten() for weight in weights.values()])
    kept = torch.ones(len(magnitudes), dtype=torch.bool)
    kept[magnitudes.argsort()[: round(sparsity * len(magnitudes))]] = False
    pieces = kept.split([weight.numel() for weight in weights.values()])
    return {
        name: piece.reshape(weight.shape)
        for (name, weight), piece in zip(weights.items(), pieces, strict=True)
    }


def shapes_after(block, kept):
    """Cut each layer's outputs to what it still makes, and its inputs to what it still gets."""
    if "shortcut" not in block and kept["input"] != kept["output"]:
        raise ValueError("The shortcut adds the input to the output: keep as many in both.")
    ends = {
        "conv1": (kept["inner"], kept["input"]),
        "conv2": (kept["output"], kept["inner"]),
        "shortcut": (kept["output"], kept["input"]),
        "next": (block["next"][0], kept["output"]),
    }
    return {layer: ends[layer] + tuple(shape[2:]) for layer, shape in block.items()}


def choose_technique(options, budget):
    """Return the name of the most accurate option within the budget on this machine, or None."""

    def fits(option):
        is_fast = any(
            latency_ms <= budget["latency_ms"]
            for runtime, latency_ms in option["latency_ms"].items()
            if runtime in budget["runtimes"]
        )
        return is_fast and option["size_bytes"] <= budget["size_bytes"]

    best = max(filter(fits, options), key=lambda option: option["accuracy"], default=None)
    return best and best["name"]
