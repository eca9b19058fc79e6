"""A short run of tools/soak.py: every kind of client once, without a leak."""

import soak


def test_soak_short_leaves_nothing_behind(server, record_property):
    soak.all_descriptors()
    run = soak.soak(soak.start(server), 8, cycles=2)
    for name, value in run.peaks.items():
        record_property(name, value)
