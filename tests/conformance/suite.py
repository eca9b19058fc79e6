"""What the two suites share: a verdict on each case, cases side by side, failed ones again alone, and the summary."""

import collections
import concurrent.futures
import dataclasses

LEVELS = ("MUST", "SHOULD", "POLICY")
#: How often a case that failed beside others is tried again alone: a busy machine is not a fault of the server.
RETRIES = 2


@dataclasses.dataclass
class Verdict:
    """What became of one case: `seen` is what the server did, for a person to read."""

    name: str
    level: str
    source: str
    passed: bool
    seen: str
    #: Faults of any response that the case does not ask for: the invariant's name, and a text.
    faults: list = dataclasses.field(default_factory=list)

    def line(self, argued):
        word = "ok  " if self.passed else "argd" if self.name in argued else "FAIL"
        return f"{word} {self.level:6} {self.name:34} {self.source:16} {self.seen[:260]}"


def judge_all(cases, judge, at_once, argued):
    """Returns `judge(case)` of each case. What failed beside others is judged again alone, if it may not fail."""
    with concurrent.futures.ThreadPoolExecutor(at_once) as threads:
        verdicts = list(threads.map(judge, cases))
    for number, case in enumerate(cases):
        for _ in range(RETRIES):
            if verdicts[number].passed or case.name in argued:
                break
            verdicts[number] = judge(case)
    return verdicts


def summary(suite, server, verdicts, argued, verbose=False):
    """Prints the verdicts and returns whether the suite passed. `argued` maps the cases that may fail to the reason."""
    counts = collections.Counter((verdict.level, verdict.passed) for verdict in verdicts)
    failed = [verdict for verdict in verdicts if not verdict.passed and verdict.name not in argued]
    for verdict in verdicts:
        if verbose or not verdict.passed:
            print(verdict.line(argued))
    # A case that passes needs no argument any more.
    settled = [verdict.name for verdict in verdicts if verdict.passed and verdict.name in argued]
    for name in settled:
        print(f"FAIL {suite} {server}: {name} passes, so remove its argument")
    scores = (f"{level} {counts[level, True]}/{counts[level, True] + counts[level, False]}" for level in LEVELS)
    print(f"{suite} {server}  {'  '.join(scores)}", flush=True)
    return bool(verdicts) and not failed and not settled
