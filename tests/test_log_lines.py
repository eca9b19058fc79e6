"""The reference of log lines has every line that the source can write, and no line is in Rust's debug format."""

import re

from process import ROOT

PAGE = ROOT / "docs" / "reference" / "logs.md"
MACRO = re.compile(r"\blog::(error|warn|info|debug|trace)!\(\s*(?:target:\s*\w+,\s*)?\"((?:[^\"\\]|\\.)*)\"", re.S)
PYTHON = re.compile(r"\b_?LOG\.(error|warning|info|debug)\(\"((?:[^\"\\]|\\.)*)\"")
ANY_MACRO = re.compile(r"\blog::(?:error|warn|info|debug|trace)!\(")
# The plan of the supervisor orders its lines.
SAY = re.compile(r"\bsay\(\s*Level::(\w+),\s*format!\(\s*\"((?:[^\"\\]|\\.)*)\"", re.S)
LEVELS = {"Error": "ERROR", "Warn": "WARNING", "Info": "INFO", "error": "ERROR", "warn": "WARNING", "info": "INFO", "debug": "DEBUG"}
# Lines whose text comes from elsewhere: from the application, a traceback, an error at the start.
OTHERS_WORDS = {"{text}", "{}: {text}", "{}", "{}\n{}", "{sentence}", "{error:#}", "{error}", "{list}", "{sentence}{pause}"}


def sources():
    for path in sorted((ROOT / "src").rglob("*.rs")):
        if path.name == "tests.rs":
            continue
        text = path.read_text()
        yield path.relative_to(ROOT), text.partition("#[cfg(test)]\n")[0] if "mod tests {" in text else text


def written():
    """Yields each line that the source writes: its file, its level, and the text in the source."""
    for path, text in sources():
        for level, literal in MACRO.findall(text) + SAY.findall(text):
            literal = re.sub(r"\\\n\s*", "", literal)
            yield path, LEVELS[level], literal.replace('\\"', '"').replace("\\n", "\n")
    # maypole.eventlet is left out, because it writes eventlet's lines.
    for path in [ROOT / "python" / "maypole" / name for name in ("_server.py", "oslo.py")]:
        for level, text in PYTHON.findall(path.read_text()):
            yield path.relative_to(ROOT), level.upper(), re.sub(r"%[sd]", "{}", text)


def shape(text):
    """Returns a line without its values: `cannot accept: …`. The page shows the first of several lines."""
    first = text.partition("\n")[0].replace("`", "")
    return re.sub(r"[\s…]*…\s*", "…", re.sub(r"\{[^{}]*\}", "…", first)).strip("…; ")


def rows():
    """Returns the lines in the page's tables, by level."""
    found, level = {}, None
    for line in PAGE.read_text().splitlines():
        if heading := re.match(r"### (ERROR|WARNING|INFO|DEBUG)\b", line):
            level = found.setdefault(heading[1], [])
        elif line.startswith("#"):
            level = None
        elif level is not None and (row := re.match(r"\| (`+)(.+?)\1 \|", line)):
            level.append(row[2].strip())
    return found


def test_every_line_of_the_source_is_in_the_reference():
    known = {level: [shape(row) for row in lines] for level, lines in rows().items()}
    missing = [
        f"{path}: [{level}] {shape(text)}"
        for path, level, text in written()
        if text not in OTHERS_WORDS and shape(text) not in known.get(level, [])
    ]
    assert not missing, f"{PAGE} has no row for:\n" + "\n".join(missing)


def test_every_row_of_the_reference_is_in_the_source():
    known = {(level, shape(text)) for _, level, text in written()}
    everything = "".join(re.sub(r"\\\n\s*", "", text) for _, text in sources())
    extra = [
        f"[{level}] {row}"
        for level, lines in rows().items()
        for row in lines
        # Another function composes this line. Its first words stand in some string.
        if (level, shape(row)) not in known and shape(row).split("…")[0] not in everything
    ]
    assert not extra, "\n".join(extra)


def test_the_extractor_sees_every_macro():
    for path, text in sources():
        assert len(MACRO.findall(text)) == len(ANY_MACRO.findall(text)), path


def test_no_line_is_in_the_debug_format():
    wrong = [f"{path}: {text}" for path, _, text in written() if re.search(r"\{[^{}]*\?\}", text)]
    assert not wrong, "\n".join(wrong)
    # No line has an error number of the system, or a verb that does not agree with its number.
    for path, level, text in written():
        assert "os error" not in text and not re.search(r"\{\w*\} (requests|calls|connections) (are|were)\b", text), (path, text)
