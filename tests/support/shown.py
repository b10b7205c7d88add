"""What the pages of the documentation show, cut out of their Markdown: code blocks, commands, tables, links."""

import re
from collections.abc import Iterator

from tests.support.paths import DOCS, ROOT

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
README = PAGES[0].read_text()


def page(name: str) -> str:
    return (DOCS / name).read_text()


def blocks(language: str, text: str = README) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def every_block(language: str) -> list[str]:
    return [block for each in PAGES for block in blocks(language, each.read_text())]


def section(text: str, heading: str) -> str:
    """What stands below a heading, up to the next one."""
    return re.split(r"^#{1,6} ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def rows(text: str) -> list[list[str]]:
    """The cells of every table's rows, heads and rules left out; `\\|` is no border."""
    lines = text.splitlines()
    rules = {number for number, line in enumerate(lines) if re.fullmatch(r"\|[-:|]+\|", line)}
    kept = [
        line
        for number, line in enumerate(lines)
        if line.startswith("|") and not {number, number + 1} & rules
    ]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


def in_code(cell: str) -> list[str]:
    """What stands in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def command_lines() -> list[str]:
    """Every command line of every page, comments cut off, ours spelled `convo-pipeline …` however it was started."""
    lines = [
        line.split("   #")[0].strip() for block in every_block("sh") for line in block.splitlines()
    ]
    ours = r"^(?:convo )?(?:python3 (?:/opt/convo-pipeline/)?run\.py(?! test)|(?:\.venv/bin/)?convo-pipeline)(?= |$)"
    return sorted(
        {
            re.sub(ours, "convo-pipeline", line)
            for line in lines
            if line and not line.startswith("#")
        }
    )


def anchors(text: str) -> Iterator[str]:
    """The names by which GitHub links to the headings of a page."""
    for title in re.findall(r"^#{1,6} (.+)$", without_blocks(text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        yield re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
