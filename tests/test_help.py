"""`--help` and `-h`: in groups, in 80 columns, in sentences that begin with a verb, with units and defaults."""

import re

import pytest

from process import run

pytestmark = pytest.mark.smoke

GROUPS = ["Application", "Where it listens", "TLS", "HTTP/2", "Behind a proxy", "Static files", "Limits", "Time limits", "Logs", "Status and metrics", "Workers", "Process", "Other"]
ENTRY = re.compile(r"^  ((?:-\w, )?--[\w-]+|MODULE)\S*(?: \S+)? {2,}(\S.*)$")
# A text begins with one of these verbs. Add a verb if a new option needs one.
VERBS = set(
    """Add Answer Ask Call Change Check Close Decrypt Do Expect Find Format Give Hold Import Kill Leave Let Limit Listen Log Make Pass
    Print Put Raise Read Redirect Refuse Reload Replace Run Send Serve Set Show Speak Start Take Trust Use Write""".split()
)
# Options with a value whose text describes the default in words, instead of in brackets.
WITHOUT_DEFAULT = {
    "MODULE",
    "--chdir",
    "--pythonpath",
    "--static",
    "--sendfile-root",
    "--paste",
    "--certfile",
    "--keyfile-password",
    "--ca-certs",
    "--ssl-crl",
    "--ciphers",
    "--reload-extra-file",
    "--uwsgi-opt",
    "--raw-env",
    "--prefix",
    "--mount",
    "--virtual-host",
    "--worker-tmp-dir",
}


def printed(option):
    done = run(option, env={"COLUMNS": "80"})
    assert (done.returncode, done.stderr) == (0, ""), done
    return done.stdout


def entries(text):
    """Returns the options of each group, with their text in one line."""
    found, group = {}, None
    for line in text.splitlines():
        if re.fullmatch(r"[A-Z][^\[]*:", line):
            group = line[:-1]
        elif match := ENTRY.match(line):
            found.setdefault(group, []).append([match[1].rpartition(" ")[2], match[2]])
        elif line.startswith(" " * 22) and group in found:
            found[group][-1][1] += " " + line.strip()
    return found


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_fits_80_columns(option):
    assert max(len(line) for line in printed(option).splitlines()) <= 80


def test_help_has_less_than_270_lines():
    assert len(printed("--help").splitlines()) < 270


def test_help_has_every_option_in_a_group():
    found = entries(printed("--help"))
    assert list(found) == GROUPS
    settings = {line.split(" = ")[0] for line in run("--print-config", "probe").stdout.splitlines()}
    options = {option for group in found.values() for option, _ in group}
    expected = {"--" + name.replace("_", "-") for name in settings if "." not in name and name != "application"}
    more = {"MODULE", "--host", "--port", "--check-config", "--print-config", "--version", "--help"}
    assert options == expected | more


def test_text_of_every_option_is_a_sentence_that_begins_with_a_verb():
    for group in entries(printed("--help")).values():
        for option, text in group:
            assert text.split()[0] in VERBS, (option, text)
            assert re.search(r"[.\]]$", text) and "`" not in text, (option, text)


def test_text_of_every_option_with_a_value_says_the_default():
    with_value = {match[1] for match in re.finditer(r"^  (?:-\w, )?(--[\w-]+) [A-Z]", printed("--help"), re.M)}
    assert len(with_value) > 30
    for group in entries(printed("--help")).values():
        for option, text in group:
            if option in with_value - WITHOUT_DEFAULT:
                assert re.search(r"\[.+\]$|Default: ", text), (option, text)


def test_short_help_has_the_options_that_matter_and_an_example():
    text = printed("-h")
    assert len(re.findall(r"^  (?:-\w, )?--", text, re.M)) == 12
    assert "maypole shop.wsgi:application" in text
    assert "`maypole --help` prints all options. The documentation: " in text


def test_help_comes_before_what_is_wrong_behind_it():
    assert run("--help", "--no-such-option").returncode == 0
