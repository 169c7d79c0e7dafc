"""Tables as GitHub's Markdown has them."""


def name_and_figures(heads: list[str]) -> list[str]:
    """The alignment of a table whose first column is names and whose others are figures."""
    return ["---", *["---:"] * (len(heads) - 1)]


def as_table(rows: list[list[str]]) -> str:
    """``rows``: the heads, then how each column is aligned ("---" or "---:"), then the cells."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
