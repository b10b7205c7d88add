"""Whose turn it is to work on an answer: one thread of a process at a time, the others wait in a queue.

Python computes in one thread at a time. A thread that reads a socket, syncs a file or asks SQLite gives its place up and
gets it back only after those that compute, each for up to 5 ms: where the answers of dozens of accounts come at once,
all of them are late together, and so are their next calls. In turns, the first are done at once and go on calling.
`benchmarks/fleet.py` measures it: 50 accounts at 500 ms took 23 to 25 s without turns and 20 s with them.
"""

from threading import Lock

ANSWER_TURN = Lock()
"""Held while an answer is parsed, while it is made into a record, and while its rows are sorted; never while a server,
a disk or another lock is waited for."""
