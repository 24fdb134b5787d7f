"""Reference answers to the exercises of lesson 01, under the names of the stubs."""

import math


def percentile(samples_ms, percent):
    """Interpolate between the two sorted samples next to (n - 1) * percent / 100."""
    ordered = sorted(samples_ms)
    place = (len(ordered) - 1) * percent / 100
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    return below + (place - math.floor(place)) * (above - below)


def largest_batch(latencies_ms, deadline_ms):
    """Return the largest batch of which at least 99 % of the calls are in time, or 0."""

    def share_in_time(calls_ms):
        return sum(call_ms <= deadline_ms for call_ms in calls_ms) / len(calls_ms)

    in_time = [batch for batch, calls in latencies_ms.items() if share_in_time(calls) >= 0.99]
    return max(in_time, default=0)


def name_flaws():
    """Name what makes each of the four benchmarks claim what it did not measure."""
    return {
        "A": "the loading is timed",  # and for ten calls it weighs as much as they do
        "B": "nothing ran",  # map() waits until somebody asks for its results
        "C": "no warm-up",  # the first of only two calls is the first that `fresh` ever ran
        "D": "different batch sizes",  # one image a call against 32
    }
