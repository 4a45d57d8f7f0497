"""A room by HTTP, for scripts: submit queries, poll judgements, or answer like a rater.

Everything that is sent may be sent again: queries and judgements have ids that name their content. So a request that fails on
the way is repeated until the server answers, and nothing is lost or doubled by a server that is restarted.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tutelage.feedback.query import FeedbackError, Judgement, Query, SegmentRecord, TextRecord, from_row, to_row

try:
    import httpx
except ImportError as error:
    raise FeedbackError("the rating room's client needs the package httpx; run: pip install 'tutelage[web]'") from error

LATER = (429, 502, 503, 504)
"""The server asks to come back."""
LONGEST_WAIT = 5.0

Preference = Callable[[Mapping[str, Any], Mapping[str, Any]], float]
"""The probability that the first of two items is better. An item has "id", and "text" or "clip" (where the clip is found)."""


class ClientError(FeedbackError):
    """What the server refused, in its own words."""


class Client:
    """One program's access. A token is made on the owner's page; a rater's token can only answer."""

    def __init__(self, url: str, token: str, patience: float = 60.0, transport: httpx.BaseTransport | None = None) -> None:
        """patience: seconds to go on trying where the server does not answer."""
        self.patience = patience
        headers = {"authorization": f"Bearer {token}", "accept": "application/json"}
        self._http = httpx.Client(base_url=url, headers=headers, timeout=30.0, transport=transport)

    @classmethod
    def by_link(cls, link: str, patience: float = 60.0) -> "Client":
        """A client by the link that `tutelage rate RUN` prints. Raises ClientError for a link that opens nothing."""
        url, _, rest = link.partition("/invite/")
        client = cls(url, "none-yet", patience)
        client._http.headers["authorization"] = f"Bearer {client._send('GET', f'/invite/{rest}')['token']}"
        return client

    def submit(self, queries: Sequence[Query], texts: Sequence[TextRecord] = (), segments: Sequence[SegmentRecord] = ()) -> int:
        """Commits queries and what they speak of; returns how many were new. Waits while too many are unanswered.

        Raises ClientError for what the server refuses, also when there was no room within the client's patience.
        """
        body = {"queries": queries, "texts": texts, "segments": segments}
        return self._send("POST", "/api/owner/queries", json={name: [to_row(row) for row in rows] for name, rows in body.items()})["new"]

    def poll(self, group: str | None = None, after: int = 0) -> tuple[list[Judgement], list[str], int]:
        """(judgements after commit `after`, ids of those erased since, the commit to ask from next time). Raises ClientError."""
        told = self._send("GET", "/api/owner/judgements", params={"after": after} | ({} if group is None else {"group": group}))
        return [from_row(Judgement, row) for row in told["judgements"]], told["erased"], told["head"]

    def withdraw(self, group: str, before_step: int | None = None) -> int:
        """Nobody is asked these queries any more; returns how many. Raises ClientError."""
        return self._send("POST", "/api/owner/withdraw", json={"group": group, "before_step": before_step})["withdrawn"]

    def leases(
        self, count: int = 8, holding: Sequence[str] = (), group: str | None = None, kind: str | None = None
    ) -> list[dict[str, Any]]:
        """Leases queries: each has "query", "kind", "items", "order" and "prompt". Raises ClientError."""
        wish = {"count": count, "holding": list(holding), "group": group, "kind": kind}
        return self._send("POST", "/api/leases", json=wish)["leases"]

    def answer(self, judgements: Sequence[Judgement]) -> None:
        """Returns when they are on the server's disk; whoever holds the token is their rater. Raises ClientError for a refusal."""
        rows = [{name: value for name, value in to_row(judgement).items() if name != "rater"} for judgement in judgements]
        for outcome in self._send("POST", "/api/judgements", json={"judgements": rows})["outcomes"]:
            if outcome["status"] == "refused":
                raise ClientError(outcome["reason"])

    def work(self, preference: Preference, margin: float = 0.0, group: str | None = None, most: int | None = None) -> int:
        """Answers pairs until none waits, or `most` of them; returns how many.

        Each pair is judged in both orders and the two probabilities are averaged, since language models favor what they read
        first. margin: how far from 1/2 the average must be; what is nearer, or at 1/2 itself, is a tie. Raises ClientError.
        """
        given = 0
        while most is None or given < most:
            leases = self.leases(8 if most is None else min(8, most - given), group=group, kind="pair")
            if not leases:
                break
            began = time.time()
            judgements: list[Judgement] = []
            for lease in leases:
                first, second = lease["items"]
                probability = (preference(first, second) + 1.0 - preference(second, first)) / 2.0
                if not 0.0 <= probability <= 1.0:
                    raise FeedbackError(f"the preference answered {probability} on average; probabilities from 0 to 1 were expected")
                answer = "tie" if abs(probability - 0.5) <= margin else "left" if probability > 0.5 else "right"
                # The id follows from the query: whoever dies before the acknowledgement answers the same again.
                judgements.append(Judgement(f"{lease['query']}:{answer}", lease["query"], "-", answer, None, began, time.time()))
            self.answer(judgements)
            given += len(judgements)
        return given

    def export(self, form: str = "labels", group: str | None = None) -> str:
        """JSON lines: the record ("labels"), texts as TRL's columns ("trl"), or raters' agreement ("quality"). Raises ClientError."""
        return self._answer("GET", "/api/owner/export", params={"form": form} | ({} if group is None else {"group": group})).text

    def bring_in(self, lines: str) -> dict[str, Any]:
        """Imports JSON lines: {"new": ..., "known": ..., "errors": [...]}. Raises ClientError."""
        return self._send("POST", "/api/owner/import", content=lines.encode())

    def close(self) -> None:
        """Lets go of the connection."""
        self._http.close()

    def _send(self, method: str, path: str, **content: Any) -> Any:
        return self._answer(method, path, **content).json()

    def _answer(self, method: str, path: str, **content: Any) -> httpx.Response:
        deadline, wait = time.monotonic() + self.patience, 0.05
        while True:
            reason, answer = "", None
            try:
                answer = self._http.request(method, path, **content)
            except httpx.TransportError as error:
                reason = f"the rating room at {self._http.base_url} cannot be reached: {error}"
            if answer is not None:
                if answer.is_success:
                    return answer
                reason = _reason(answer)
                if answer.status_code not in LATER:
                    raise ClientError(reason)
            if time.monotonic() + wait > deadline:
                raise ClientError(reason)
            time.sleep(wait)
            wait = min(2.0 * wait, LONGEST_WAIT)


def _reason(answer: httpx.Response) -> str:
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = answer.text[:200]
    return f"{answer.request.url.path} answered {answer.status_code}: {detail if isinstance(detail, str) else str(detail)[:500]}"
