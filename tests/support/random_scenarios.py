"""Scenarios with more changes than those of `simulation`, checked by the same oracle.

Pages have few rows, the inbox changes with any call, faults begin and end within a run or last over
several, the client's clock is wrong, and upkeep runs between the runs. In addition, an erased
person never returns, and only unsent messages count as unsent.
"""

import random
from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from pathlib import Path

from convo_pipeline.base.clock import Clock
from convo_pipeline.emulator.fault import Fault, FaultContext, FaultKind
from convo_pipeline.emulator.serve import EMULATOR_TOKEN
from convo_pipeline.emulator.value_faults import HOSTILE
from convo_pipeline.emulator.view import show_id
from convo_pipeline.emulator.world import Conversation, TrueMessage
from convo_pipeline.errors import StoreError
from convo_pipeline.extract.run import AccountReport, find
from convo_pipeline.lake.compact import compact
from convo_pipeline.privacy.forget import forget
from convo_pipeline.privacy.unsent import remove_unsent
from convo_pipeline.upkeep.rebuild import rebuild_state
from convo_pipeline.upkeep.rename import rename_account
from tests.support.inboxes import TOKEN_VARIABLE
from tests.support.simulation import (
    PASSING_CODES,
    Key,
    RunPlan,
    Scenario,
    Ticking,
    make_drawn_fault,
)

FIRST_SEED = 10**9
"""First seed: these scenarios do not repeat those of `simulation`."""
MORE_SWITCHES: dict[str, tuple[object, ...]] = {
    "conversations_limit": (1, 2, 3, 5),
    "messages_limit": (3, 7, 25),
    "old_nodes_instagram": ("readable",),
    "has_updated_time": (False,),
    "refused_fields": (
        frozenset({"reactions"}),
        frozenset({"shares", "story"}),
        frozenset({"participants", "tags"}),
    ),
    "usage_headers_after": (0,),
    "calls_per_hour": (12,),
    "no_folder": ("all",),
    "error_statuses": (
        ((1, 200), (2, 200)),
        ((100, 404), (190, 401)),
        ((613, 429), (4, 403)),
        ((1, 400), (2, 400)),
    ),
}
WHOLE_RUN = (0, None)
CLOCK_ERRORS_SECONDS = (-3_600, -600, 600, 3_600, 40 * 86_400)
CLOCK_STEPS_SECONDS = (-3_600, -300, 300, 3_600)
DO_ONCE = frozenset({"token_dies", "flood", "twin_ids", "unreadable", "hostile_ids"})
"""Faults that count their own calls, or that make no sense in a part of a run."""
MOST_MESSAGES = 200


@dataclass(frozen=True)
class WindowedPlan(RunPlan):
    """A run whose faults have windows: (number of calls before, number of uses or None for all)."""

    windows: tuple[tuple[int, int | None], ...] = ()


class RandomScenario(Scenario):
    """A scenario in which the inbox changes all the time."""

    rest_seconds = 3 * 3_600.0
    """Longer than any block of the rate limit, also with a wrong clock of the client."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.forgotten_people: set[str] = set()
        self._moves = random.Random(seed)
        self._lasting_faults: tuple[str, ...] = ()
        super().__init__(FIRST_SEED + seed, folder)
        rng = self.rng
        more = {
            name: rng.choice(values)
            for name, values in MORE_SWITCHES.items()
            if rng.random() < (0.6 if name.endswith("_limit") else 0.15)
        }
        self.switches = replace(self.switches, **more)  # type: ignore[arg-type]
        for _ in range(rng.choice((0, 2, 6))):
            self._open_conversation()

    def truth(self) -> list[TrueMessage]:
        """Return every message that can be listed now and that no erased person wrote."""
        forgotten, erased = self.forgotten, self._erased_in_groups()
        return [
            message
            for message in super().truth()
            if show_id(message.conversation_id, self.switches) not in forgotten
            and self.key(message) not in erased
        ]

    def _erased_in_groups(self) -> set[Key]:
        """Return the messages that erased people wrote in groups."""
        return {
            key
            for key, message in (self.messages() if self.forgotten_people else ())
            if len(message.conversation.people) > 1
            and str(message.payload["from"]["id"]) in self.forgotten_people
        }

    # the plan

    def _plan_runs(self) -> list[RunPlan]:
        return [self._plan_run(number) for number in range(self.rng.choice((2, 2, 3, 4, 5)))]

    def _plan_run(self, number: int) -> RunPlan:
        """Draw a run; some faults of the run before continue, and each has its window."""
        rng, plan = self.rng, super()._plan_run(number)
        faults = plan.faults
        if rng.random() < 0.3:
            faults += self._lasting_faults
        if rng.random() < 0.3:
            faults += (self._random_fault(),)
        self._lasting_faults = faults
        windows = tuple(self._random_window() for _ in faults)
        calls = rng.choice((1, 2, 3, 5, 8, 13)) if rng.random() < 0.25 else plan.calls_per_run
        drawn = {field.name: getattr(plan, field.name) for field in fields(plan)}
        return WindowedPlan(
            **drawn | {"faults": faults, "windows": windows, "calls_per_run": calls}
        )

    def _random_window(self) -> tuple[int, int | None]:
        rng = self.rng
        begun, over = (rng.randrange(1, 12), None), (0, rng.randrange(1, 9))
        return rng.choice(
            (WHOLE_RUN, WHOLE_RUN, begun, over, (rng.randrange(1, 9), rng.randrange(1, 5)))
        )

    # one run

    def _faults(self, plan: RunPlan) -> list[Fault]:
        if not isinstance(plan, WindowedPlan):
            return super()._faults(plan)
        log = self._server.log
        calls_so_far = log[-1].number if len(log) else 0
        faults = [
            _windowed(fault, calls_so_far, *window)
            for fault, window in zip(super()._faults(plan), plan.windows, strict=True)
        ]
        if self._moves.random() < 0.6:
            kind = FaultKind("motion", "B6", "the inbox moves with any call", prepare=self._move)
            faults.append(Fault(kind, probability=self._moves.choice((0.05, 0.2, 0.5))))
        return faults

    def _clock(self, ticking: Ticking) -> Clock:
        """Return the client's clock: sometimes wrong, sometimes changed during the run."""
        rng, clock = self.rng, ticking.clock()
        if self.is_healing:
            return clock
        error_seconds = rng.choice(CLOCK_ERRORS_SECONDS) if rng.random() < 0.3 else 0
        step_seconds = rng.choice(CLOCK_STEPS_SECONDS) if rng.random() < 0.15 else 0
        reads_left = rng.randrange(1, 60)

        def now() -> datetime:
            nonlocal reads_left
            reads_left -= 1
            return clock.now() + timedelta(seconds=error_seconds + step_seconds * (reads_left < 0))

        return replace(clock, now=now)

    def _run(self, plan: RunPlan) -> AccountReport | None:
        report = super()._run(plan)
        self._check_forgotten(self.oracle.stored_rows)
        return report

    def _check_forgotten(self, keys: Iterable[Key]) -> None:
        if any(map(self._is_forgotten, keys)):
            self.oracle.errors.append("an erased person is stored again")

    def _move(self, context: FaultContext) -> None:
        """Change the inbox before a call is answered."""
        rng, conversations = self._moves, list(self.account.conversations.values())
        self.world.clock.advance(rng.choice((0, 0.3, 2)))
        event = rng.random()
        if event < 0.1 or not conversations:
            number = len(conversations)
            self.account.add_conversation(f"New {number}", str(5_000 + number)).add_message(
                "one more"
            )
            return
        last = min(
            conversations,
            key=lambda conversation: conversation.updated_us(self.world.clock.now_us()) or 0,
        )
        conversation = last if rng.random() < 0.4 else rng.choice(conversations)
        newest = conversation.messages[-25:]
        if event < 0.55:
            for _ in range(
                rng.choice((1, 1, 2, 22)) if len(conversation.messages) < MOST_MESSAGES else 0
            ):
                conversation.add_message(
                    f"one more {len(conversation.messages)}", is_ours=rng.random() < 0.5
                )
        elif event < 0.65 and newest:
            rng.choice(newest).edit(f"edited {rng.randrange(99)}")
        elif event < 0.75 and newest:
            rng.choice(newest).unsend()
        elif event < 0.8:
            conversation.vanish()
            self.oracle.faults_so_far.add("vanish")
        elif event < 0.85:
            conversation.touch()
        elif event < 0.9:
            conversation.make_unreadable(1)
        elif conversation.refusal and conversation.refusal.code in PASSING_CODES:
            conversation.make_unreadable(None)

    # between two runs

    def _change_inbox(self) -> None:
        super()._change_inbox()
        rng = self.rng
        for conversation in self.account.conversations.values():
            if rng.random() < 0.1:
                conversation.touch()
        upkeep = (
            self._forget,
            self._remove_unsent,
            self._rename,
            self._find,
            self._rebuild,
            self._compact,
        )
        if rng.random() < 0.66:
            rng.choice(upkeep)()

    def _forget(self) -> None:
        """Erase a person who is the only one in a conversation."""
        alone = [
            conversation
            for conversation in self.account.conversations.values()
            if len(conversation.people) == 1
        ]
        if not alone:
            return
        chosen = self.rng.choice(alone)
        person_id, now = str(chosen.people[0]["id"]), self.world.clock.now()
        if forget(self._settings, self.store, "shop", person_id, now):
            self.forgotten_people.add(person_id)
        erased = self._erased_in_groups()
        self._compare_but(
            {
                key
                for key in self.oracle.stored_rows
                if self._is_forgotten(key) or (_plain(key[0]), _plain(key[1])) in erased
            }
        )

    @property
    def forgotten(self) -> set[str]:
        """Conversations with an erased person alone, later ones too."""
        return {
            show_id(conversation.conversation_id, self.switches)
            for conversation in self.account.conversations.values()
            if len(conversation.people) == 1 and _person_id(conversation) in self.forgotten_people
        }

    def _is_forgotten(self, key: Key) -> bool:
        return _plain(key[0]) in self.forgotten

    def _remove_unsent(self) -> None:
        true = {self.key(message): message for message in self.truth()}
        try:
            unsent = remove_unsent(self._settings, self.store, self.world.clock.now())
        except StoreError:  # too many at once: a person must confirm
            return
        removed = {key for removal in unsent for key in removal.messages}
        if not self.oracle._is_blind and any(
            key in true and not true[key].is_unsent for key in removed
        ):
            self.oracle.errors.append("wrongly counted as unsent")
        self._compare_but(removed)

    def _rename(self) -> None:
        for old, new in (("shop", "store"), ("store", "shop")):
            rename_account(self.store, old, new)
        self._compare_but(set())

    def _find(self) -> None:
        people = list(map(_person_id, self.account.conversations.values()))
        faults = [self._random_fault()] if self.rng.random() < 0.3 else []
        if not people:
            return
        self.oracle.faults_so_far |= {text.partition(":")[0] for text in faults}
        self._server.set_faults(*map(make_drawn_fault, faults))
        environ, clock = {TOKEN_VARIABLE: EMULATOR_TOKEN}, Ticking(self.world.clock, 0.2).clock()
        report, _ = find(
            self._settings,
            self.store,
            "shop",
            self.rng.choice(people),
            environ=environ,
            clock=clock,
        )
        self._note_unsent()
        self.oracle.note_texts()
        self._compare_but(set())
        self.oracle._check_ledger(report)
        self.oracle._check_details(self.oracle.stored_rows)

    def _rebuild(self) -> None:
        rebuild_state(self.store)
        self.oracle.complete_since = None  # a rebuilt state does not know what was read to the end
        self._compare_but(set())

    def _compact(self) -> None:
        compact(self.store, self.world.clock.now().date())
        self._compare_but(set())

    def _compare_but(self, removed: set[Key]) -> None:
        """Check that only these rows were lost or changed for the worse."""
        oracle = self.oracle
        rows = oracle._read_rows(is_cut=True)
        for key in removed:
            oracle.stored_rows.pop(key, None)
        self._check_forgotten(rows)
        oracle._check_nothing_lost(rows)
        oracle.stored_rows = rows


def simulate_random(seed: int, folder: Path) -> list[str]:
    """Run the scenario of a seed and return its errors."""
    return RandomScenario(seed, folder).run_all()


def _windowed(fault: Fault, calls_so_far: int, after_calls: int, times: int | None) -> Fault:
    if fault.kind.name in DO_ONCE:
        return fault
    return replace(
        fault,
        after_calls=calls_so_far + after_calls,
        times=times if fault.times is None else fault.times,
    )


def _plain(id_: str) -> str:
    """Return an id as the API has it, without what the fault `hostile_ids` adds."""
    return id_.removesuffix(HOSTILE)


def _person_id(conversation: Conversation) -> str:
    return str(conversation.people[0]["id"])
