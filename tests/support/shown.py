"""Read code blocks, commands, tables and links from the Markdown of the pages."""

import re
from collections.abc import Iterator

from tests.support.paths import DOCS, ROOT

PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md"))]
README = PAGES[0].read_text()


def page(name: str) -> str:
    return (DOCS / name).read_text()


def blocks(language: str, text: str = README) -> list[str]:
    """Return the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, re.M | re.S)


def every_block(language: str) -> list[str]:
    return [block for path in PAGES for block in blocks(language, path.read_text())]


def section(text: str, heading: str) -> str:
    """Return the text between a heading and the next one."""
    return re.split(r"^#{1,6} ", text.split(f"# {heading}\n", 1)[1], maxsplit=1, flags=re.M)[0]


def rows(text: str) -> list[list[str]]:
    """Return the cells of all table rows without heads; `\\|` is no border."""
    lines = text.splitlines()
    rules = {number for number, line in enumerate(lines) if re.fullmatch(r"\|[-:|]+\|", line)}
    kept = [
        line
        for number, line in enumerate(lines)
        if line.startswith("|") and not {number, number + 1} & rules
    ]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in kept]


def in_code(cell: str) -> list[str]:
    """Return the texts in backticks."""
    return re.findall(r"`([^`]+)`", cell)


def without_blocks(text: str) -> str:
    return re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)


def command_lines() -> list[str]:
    """Return the command lines of all pages without comments; ours begin with `convo-pipeline`."""
    lines = [
        line.split("   #")[0].strip() for block in every_block("sh") for line in block.splitlines()
    ]
    ours = (
        r"^(?:convo )?(?:python3 (?:/opt/convo-pipeline/)?run\.py(?! test)"
        r"|(?:\.venv/bin/)?convo-pipeline)(?= |$)"
    )
    return sorted(
        {
            re.sub(ours, "convo-pipeline", line)
            for line in lines
            if line and not line.startswith("#")
        }
    )


def anchors(text: str) -> Iterator[str]:
    """Yield the names by which GitHub links to the headings of a page."""
    for title in re.findall(r"^#{1,6} (.+)$", without_blocks(text), re.M):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", title).lower()
        yield re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
