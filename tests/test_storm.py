"""A short run of tools/storm.py: workers come and go in every way under load, and no request is lost."""

import process
import storm


def test_storm_short_loses_nothing(record_property):
    process.all_descriptors()
    # In a run this short a worker cannot reach both limits.
    kinds = [*storm.EVENTS, "max_requests"]
    options = ["--max-requests", "200", "--max-requests-jitter", "100"]
    summary, wrong = storm.storm(1, kinds, clients=80, options=options)
    for number, line in enumerate(summary):
        record_property(f"storm {number}", line)
    assert not wrong, "\n".join([*summary, *wrong[:20]])
