"""The numbers behind the Insights tab and the loop strip, each one small query."""

import json
from collections import Counter
from pathlib import Path
from threading import Lock

from core.types import OUTCOMES, DayVotes, Outcome, ReasonCount, SideBalance, VersionResult
from feedback.connections import open_for_reading
from feedback.pairs import count_pairs, vote_watermark
from feedback.ratings import side_balance, win_rate


class Insights:
    """Reads the database at `path`, on connections of its own, while votes come in."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._counted: tuple[tuple[int, int | None], int] | None = None
        self._lock = Lock()

    def votes_per_day(self, *, days: int = 30) -> tuple[DayVotes, ...]:
        """The newest days that had votes, oldest first; skips and replaced votes do not count."""
        with open_for_reading(self._path) as db:
            rows = db.query(
                "SELECT date(voted_ms / 1000, 'unixepoch', 'localtime') AS day, count(*) AS n "
                "FROM voted_battles WHERE is_latest AND outcome <> 'skip' "
                "GROUP BY day ORDER BY day DESC LIMIT ?",
                [days],
            )
            return tuple(DayVotes(day=row["day"], n=row["n"]) for row in rows)[::-1]

    def votes_today(self) -> int:
        """Votes since midnight, local time, without skips."""
        with open_for_reading(self._path) as db:
            n: int = db.execute(
                "SELECT count(*) FROM voted_battles WHERE is_latest AND outcome <> 'skip' AND "
                "voted_ms >= 1000 * strftime('%s', 'now', 'localtime', 'start of day', 'utc')"
            ).fetchone()[0]
        return n

    def outcomes(self) -> dict[Outcome, int]:
        """How often each outcome was given, zeros included."""
        with open_for_reading(self._path) as db:
            rows = db.query(
                "SELECT outcome, count(*) AS n FROM voted_battles WHERE is_latest GROUP BY outcome"
            )
            found = {row["outcome"]: row["n"] for row in rows}
        return {outcome: found.get(outcome, 0) for outcome in OUTCOMES}

    def side_balance(self) -> SideBalance:
        """Left against right among the votes for a side, flagged ones included."""
        outcomes = self.outcomes()
        return side_balance(outcomes["left"], outcomes["right"])

    def clean_share(self) -> float | None:
        """The share of votes that count; a fall warns that honest votes are being marked."""
        with open_for_reading(self._path) as db:
            share: float | None = db.execute(
                "SELECT avg(status = 'clean') FROM voted_battles WHERE is_latest"
            ).fetchone()[0]
        return share

    def version_results(self) -> tuple[VersionResult, ...]:
        """Each version against each it met in blind battles; the newer one is the subject."""
        with open_for_reading(self._path) as db:
            rows = db.query(
                """
                SELECT
                  max(coalesce(left_adapter, ''), coalesce(right_adapter, '')) AS version,
                  min(coalesce(left_adapter, ''), coalesce(right_adapter, '')) AS opponent,
                  sum(outcome IN ('left', 'right') AND
                    (outcome = 'left') = (coalesce(left_adapter, '') > coalesce(right_adapter, ''))
                  ) AS wins,
                  sum(outcome IN ('left', 'right')) AS decided,
                  sum(outcome IN ('tie', 'both_bad')) AS ties
                FROM voted_battles
                WHERE counts AND strategy = 'two_versions' AND outcome <> 'skip'
                GROUP BY version, opponent ORDER BY version, opponent
                """
            )
            return tuple(_version_result(**row) for row in rows)

    def reason_counts(self) -> tuple[ReasonCount, ...]:
        """The reasons given with or after votes, most frequent first, once per vote each."""
        with open_for_reading(self._path) as db:
            rows = db.query(
                "SELECT vote_id, reasons FROM voted_battles WHERE is_latest "
                "UNION ALL SELECT vote_id, reasons FROM vote_notes"
            )
            given = {
                (row["vote_id"], reason) for row in rows for reason in json.loads(row["reasons"])
            }
        counts = Counter(reason for _, reason in given)
        return tuple(
            ReasonCount(reason=reason, n=n)
            for reason, n in sorted(counts.items(), key=lambda count: (-count[1], count[0]))
        )

    def new_pairs(self, *, since: int | None = None) -> int:
        """Pairs that the next night can learn from: those of votes after the watermark `since`."""
        key = (vote_watermark(self._path), since)
        with self._lock:
            if self._counted is None or self._counted[0] != key:
                self._counted = (key, count_pairs(self._path, since=since))
            return self._counted[1]

    def pairs_missing(self, *, min_pairs: int, since: int | None = None) -> int:
        """How many more pairs the next night needs; 0 when it can run."""
        return max(0, min_pairs - self.new_pairs(since=since))


def _version_result(
    *, version: str, opponent: str, wins: int, decided: int, ties: int
) -> VersionResult:
    return VersionResult(
        version=version,
        opponent=opponent or None,
        wins=wins,
        losses=decided - wins,
        ties=ties,
        win_rate=win_rate(wins=wins, losses=decided - wins, ties=ties),
    )
