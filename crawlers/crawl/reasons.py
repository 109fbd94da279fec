"""Explanations of the less obvious reasons under which a crawl counts discarded pages."""

EXPLANATIONS = {  # reason -> explanation
    "bad_http": "the server's response is not valid HTTP (see the log)",
    "cut_off": "the listing is truncated: it has more products than were read",
}


def explained(reason: str) -> str:
    """``reason`` with its explanation, if it has one."""
    return f"{reason}: {EXPLANATIONS[reason]}" if reason in EXPLANATIONS else reason
