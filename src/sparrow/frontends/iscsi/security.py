"""The security stage of a login as a plug: which methods a target allows, and the exchange each method runs.

``AuthMethod=None`` is built in. A method that asks questions (CHAP) is an ``AuthMethod`` whose ``start`` gives a
fresh ``AuthExchange`` per login; the stage hands it every key that is not AuthMethod and sends back what it answers,
until it says that it is complete.

Source: RFC 7143, 6.3.2 and 12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from sparrow.frontends.iscsi.errors import LoginRejected, LoginStatus
from sparrow.frontends.iscsi.keys import NONE, NOT_UNDERSTOOD, REJECT, Pair

AUTH_METHOD: Final = "AuthMethod"


@dataclass(frozen=True, slots=True, kw_only=True)
class SecurityStep:
    """What the stage has to say to one request.

    Attributes:
        answers: pairs for the Login Response.
        complete: authentication is over; the initiator may leave the stage.
    """

    answers: tuple[Pair, ...] = ()
    complete: bool = False


class AuthExchange(Protocol):
    """One run of an authentication method."""

    def step(self, pairs: Sequence[Pair]) -> SecurityStep:
        """Judge the keys of one request; raise ``LoginRejected`` to refuse the initiator."""


class AuthMethod(Protocol):
    """A method by the name AuthMethod negotiates it under."""

    @property
    def name(self) -> str:
        """For example ``CHAP``."""

    def start(self, initiator_name: str) -> AuthExchange:
        """A fresh exchange for one login."""


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthPolicy:
    """What a target demands.

    Attributes:
        allow_none: an initiator may log in without authentication.
    """

    allow_none: bool = True
    methods: tuple[AuthMethod, ...] = ()


class SecurityStage:
    """The security stage of one login, from the first request to the transition out of it."""

    def __init__(self, policy: AuthPolicy, *, initiator_name: str) -> None:
        self._policy = policy
        self._initiator_name = initiator_name
        self._exchange: AuthExchange | None = None
        self._complete = False

    @property
    def complete(self) -> bool:
        """Authentication succeeded, or None was agreed on."""
        return self._complete

    def require_skippable(self) -> None:
        """Check that a login may begin without this stage.

        Raises:
            LoginRejected: the target wants authentication.
        """
        if not self._policy.allow_none:
            raise LoginRejected(
                LoginStatus.AUTHENTICATION_FAILURE,
                "the target wants authentication and none was offered",
            )
        self._complete = True

    def step(self, pairs: Sequence[Pair], *, transit: bool) -> SecurityStep:
        """Answer the keys of one request of this stage.

        Raises:
            LoginRejected: no method both sides accept, or the method refused.
        """
        answers: list[Pair] = []
        rest = [pair for pair in pairs if pair[0] != AUTH_METHOD]
        for _, offer in (pair for pair in pairs if pair[0] == AUTH_METHOD):
            answers.append((AUTH_METHOD, self._choose(offer)))
        if self._exchange is not None:
            step = self._exchange.step(rest)
            answers += step.answers
            self._complete = step.complete
        else:
            # No method runs, so nothing these keys could belong to is known here.
            answers += [(key, NOT_UNDERSTOOD) for key, _ in rest]
            if transit and not self._complete:
                # AuthMethod was never offered; its default is None.
                self.require_skippable()
        return SecurityStep(answers=tuple(answers), complete=self._complete)

    def _choose(self, offer: str) -> str:
        """Pick the first method of the initiator's list that the policy allows."""
        if self._exchange is not None or self._complete:
            raise LoginRejected(LoginStatus.INITIATOR_ERROR, "AuthMethod was settled already")
        methods = {method.name: method for method in self._policy.methods}
        for name in offer.split(","):
            if name == NONE and self._policy.allow_none:
                self._complete = True
                return NONE
            if name in methods:
                self._exchange = methods[name].start(self._initiator_name)
                return name
        raise LoginRejected(
            LoginStatus.AUTHENTICATION_FAILURE,
            f"none of the offered authentication methods is accepted ({REJECT})",
        )
