"""What the reasons mean under which crawls count what they left out, where that does not go without saying."""

EXPLAINED = {  # reasons that say little by themselves
    "bad_http": "the server's answer is no valid HTTP (the log says what is wrong with it): trying again is no use",
    "cut_off": "the list breaks off: it has more than what was read",
}


def explained(reason: str) -> str:
    """``reason``, and what it means where that does not go without saying."""
    return f"{reason}: {EXPLAINED[reason]}" if reason in EXPLAINED else reason
