"""Believable message texts, the same for the same number: most are said once, some again and again."""

SPOKEN = (
    "hello are you open on sunday we would like two loaves of rye bread and a cake for eight people please what does"
    " it cost with nuts can i collect at noon or is delivery to the old town possible thank my sister tomorrow morning"
)
WORDS = SPOKEN.split()
OFTEN = ("thank you", "hello", "yes please", "are you open today", "ok", "see you tomorrow")


def text_of(number: int) -> str:
    """Return the text of a message: every fourth is one that many people write.

    >>> text_of(1), text_of(7)
    ('i it would would please', 'see you tomorrow')
    """
    if number % 4 == 3:
        return OFTEN[number * 7919 % len(OFTEN)]
    state = number * 2_654_435_761 % 2**32
    words = []
    for _ in range(4 + state % 12):
        state = (state * 1_664_525 + 1_013_904_223) % 2**32
        words.append(WORDS[(state >> 8) % len(WORDS)])
    return " ".join(words)
