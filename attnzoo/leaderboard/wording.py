"""Figures of a board as people read them, in every format alike."""

from attnzoo.leaderboard.board import Row


def percent(share: float) -> str:
    """A share in per cent, with one decimal.

    Args:
        share: 0 to 1.

    >>> percent(0.1234)
    '12.3'
    """
    return f"{100 * share:.1f}"


def ranking(row: Row) -> str:
    """The ranks that are open, as in 2 or 1–3.

    Args:
        row: of a board.
    """
    best, worst = row.rank
    return str(best) if best == worst else f"{best}–{worst}"


def spread(row: Row) -> str:
    """Mean and standard deviation in per cent.

    Args:
        row: of a board.
    """
    return percent(row.mean) + (f" ± {percent(row.sd)}" if row.sd is not None else "")


def interval(row: Row) -> str:
    """The 95 % interval in per cent.

    Args:
        row: of a board.
    """
    return f"{percent(row.ci[0])}–{percent(row.ci[1])}" if row.ci else "–"


def difference(row: Row) -> str:
    """The difference from the baseline in points, with half its interval where that is known.

    Args:
        row: of a board.
    """
    if row.against is None:
        return "–"
    margin = f" ± {percent(row.against.margin)}" if row.against.margin else ""
    return f"{100 * row.against.difference:+.1f}{margin}"


def p_told(p: float | None) -> str:
    """A p-value in a sentence.

    Args:
        p: or None.

    >>> p_told(0.00004), p_told(0.0312), p_told(None)
    ('p < 0.001', 'p = 0.031', 'cannot be made')
    """
    return "cannot be made" if p is None else "p < 0.001" if p < 0.001 else f"p = {p:.3f}"


def p_value(p: float | None) -> str:
    """A p-value with what digits it deserves.

    Args:
        p: or None.

    >>> p_value(0.00004), p_value(0.0312)
    ('<0.001', '0.031')
    """
    return "–" if p is None else "<0.001" if p < 0.001 else f"{p:.3f}"
