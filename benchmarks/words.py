"""Realistic message texts: the same number gives the same text, and some texts repeat."""

SAMPLE = (
    "hello are you open on sunday we would like two loaves of rye bread and a cake for eight"
    " people please what does it cost with nuts can i collect at noon or is delivery to the old"
    " town possible thank my sister tomorrow morning"
)
WORDS = SAMPLE.split()
REPEATED = ("thank you", "hello", "yes please", "are you open today", "ok", "see you tomorrow")


def text_of(number: int) -> str:
    """Return the text of a message; every fourth is one of a few repeated texts.

    >>> text_of(1), text_of(7)
    ('i it would would please', 'see you tomorrow')
    """
    if number % 4 == 3:
        return REPEATED[number * 7919 % len(REPEATED)]
    state = number * 2_654_435_761 % 2**32
    words = []
    for _ in range(4 + state % 12):
        state = (state * 1_664_525 + 1_013_904_223) % 2**32
        words.append(WORDS[(state >> 8) % len(WORDS)])
    return " ".join(words)
