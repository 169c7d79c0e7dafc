"""Tables as GitHub's Markdown has them."""


def as_table(rows: list[list[str]]) -> str:
    """``rows``: the heads, then how each column is aligned ("---" or "---:"), then the cells."""
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)
