"""The schema, as ordered steps.

Every database remembers the names of the steps it has been through: never rename, reorder or
edit one that was released, add a new one instead.
"""

import secrets

from sqlite_utils import Database, Migrations

from core.errors import DataFolderError

schema = Migrations("feedback")


def migrate(db: Database) -> None:
    """Bring `db` to the newest schema, wholly or not at all.

    The write lock is held throughout, so that of several processes starting together one applies
    the steps and the others find them done.

    Raises:
        DataFolderError: a newer version of the app made this database.
    """
    db.execute("BEGIN IMMEDIATE")
    try:
        _refuse_newer(db)
        schema.apply(db)
        db.commit()
    except BaseException:
        db.rollback()
        raise


def _refuse_newer(db: Database) -> None:
    known = {step.name for step in schema.pending(Database(memory=True))}
    unknown = {step.name for step in schema.applied(db)} - known
    if unknown:
        raise DataFolderError(
            f"The votes were stored by a newer Sightloop (step {max(unknown)} is not known here). "
            "Update this copy, or start it with another --data-dir."
        )


@schema(name="001_voters")
def _voters(db: Database) -> None:
    # The salt turns a browser's token into the voter's id. It stays in this file: exports carry
    # the id only, from which neither the token nor a name used as one can be had back.
    db.executescript(
        """
        CREATE TABLE salts (name TEXT PRIMARY KEY, salt BLOB NOT NULL CHECK (length(salt) = 32))
          STRICT;
        CREATE TABLE voters (
          id TEXT PRIMARY KEY CHECK (length(id) = 32),
          first_seen_ms INTEGER NOT NULL,
          kind TEXT NOT NULL DEFAULT 'visitor' CHECK (kind IN ('visitor', 'annotator', 'program'))
        ) STRICT;
        CREATE TABLE consents (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          voter_id TEXT NOT NULL REFERENCES voters (id),
          version TEXT NOT NULL,
          is_given INTEGER NOT NULL CHECK (is_given IN (0, 1)),
          created_ms INTEGER NOT NULL
        ) STRICT;
        CREATE INDEX consents_by_voter ON consents (voter_id, id);
        """
    )
    db.execute("INSERT INTO salts VALUES ('voters', ?)", [secrets.token_bytes(32)])


@schema(name="002_battles")
def _battles(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE generations (
          id TEXT PRIMARY KEY,
          created_ms INTEGER NOT NULL,
          task TEXT NOT NULL CHECK (task IN ('answer', 'illustration')),
          content TEXT NOT NULL,
          prompt TEXT NOT NULL CHECK (json_valid(prompt)),
          picture_id TEXT,
          model_id TEXT NOT NULL,
          revision TEXT NOT NULL,
          adapter TEXT,
          seed INTEGER NOT NULL,
          parameters TEXT NOT NULL CHECK (json_valid(parameters)),
          n_tokens INTEGER NOT NULL CHECK (n_tokens >= 0),
          finish_reason TEXT NOT NULL CHECK (finish_reason IN ('stop', 'length', 'cancelled')),
          latency_ms INTEGER NOT NULL CHECK (latency_ms >= 0)
        ) STRICT;
        CREATE TABLE battles (
          id TEXT PRIMARY KEY,
          created_ms INTEGER NOT NULL,
          expires_ms INTEGER NOT NULL,
          task TEXT NOT NULL CHECK (task IN ('answer', 'illustration')),
          question TEXT NOT NULL,
          picture_id TEXT,
          left_id TEXT NOT NULL REFERENCES generations (id),
          right_id TEXT NOT NULL REFERENCES generations (id) CHECK (right_id <> left_id),
          strategy TEXT NOT NULL CHECK (strategy IN ('two_seeds', 'two_versions')),
          evidence TEXT NOT NULL CHECK (json_valid(evidence)),
          is_blind INTEGER NOT NULL CHECK (is_blind IN (0, 1)),
          leaks TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(leaks)),
          voter_id TEXT NOT NULL REFERENCES voters (id),
          consent_version TEXT NOT NULL
        ) STRICT;
        """
    )


@schema(name="003_votes")
def _votes(db: Database) -> None:
    # `sequence` is the night's watermark: rowids of other keys may be renumbered by VACUUM.
    # A vote that replaces an earlier one (undo) names it in `supersedes`; each vote can be
    # replaced once, and each battle has one vote that replaces nothing.
    db.executescript(
        """
        CREATE TABLE votes (
          sequence INTEGER PRIMARY KEY AUTOINCREMENT,
          id TEXT NOT NULL UNIQUE,
          created_ms INTEGER NOT NULL,
          battle_id TEXT NOT NULL REFERENCES battles (id),
          voter_id TEXT NOT NULL REFERENCES voters (id),
          ticket_hash TEXT UNIQUE,
          outcome TEXT NOT NULL
            CHECK (outcome IN ('left', 'right', 'tie', 'both_bad', 'skip')),
          reasons TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(reasons)),
          comment TEXT NOT NULL DEFAULT '',
          dwell_ms INTEGER CHECK (dwell_ms >= 0),
          input_device TEXT NOT NULL CHECK (input_device IN ('key', 'mouse', 'touch', 'api')),
          status TEXT NOT NULL CHECK (status IN ('clean', 'flagged')),
          status_reasons TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(status_reasons)),
          supersedes TEXT UNIQUE REFERENCES votes (id),
          CHECK (supersedes IS NOT NULL OR ticket_hash IS NOT NULL)
        ) STRICT;
        CREATE UNIQUE INDEX one_first_vote_per_battle ON votes (battle_id)
          WHERE supersedes IS NULL;
        CREATE INDEX votes_by_voter ON votes (voter_id, created_ms);
        CREATE TRIGGER votes_are_never_changed BEFORE UPDATE ON votes
          BEGIN SELECT RAISE (ABORT, 'votes are append-only'); END;
        CREATE TRIGGER votes_are_never_deleted BEFORE DELETE ON votes
          BEGIN SELECT RAISE (ABORT, 'votes are append-only'); END;
        CREATE TABLE vote_notes (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          vote_id TEXT NOT NULL REFERENCES votes (id),
          created_ms INTEGER NOT NULL,
          reasons TEXT NOT NULL CHECK (json_valid(reasons)),
          comment TEXT NOT NULL
        ) STRICT;
        CREATE INDEX vote_notes_by_vote ON vote_notes (vote_id);
        """
    )


@schema(name="004_behaviour")
def _behaviour(db: Database) -> None:
    db.executescript(
        """
        CREATE TABLE behaviour (
          id INTEGER PRIMARY KEY AUTOINCREMENT,
          created_ms INTEGER NOT NULL,
          voter_id TEXT NOT NULL REFERENCES voters (id),
          kind TEXT NOT NULL CHECK (kind IN (
            'impression', 'click', 'thumb_up', 'thumb_down', 'ask_about', 'find_similar',
            'illustrate')),
          search_id TEXT,
          query TEXT,
          picture_id TEXT,
          position INTEGER CHECK (position >= 0),
          shown TEXT NOT NULL DEFAULT '[]' CHECK (json_valid(shown)),
          consent_version TEXT NOT NULL
        ) STRICT;
        CREATE INDEX behaviour_by_search ON behaviour (search_id);
        """
    )


@schema(name="005_voted_battles")
def _voted_battles(db: Database) -> None:
    # One row per vote with everything that training, ratings, plots and exports need.
    # `counts`: the last word on its battle, from an attentive voter who could not know the sides.
    db.executescript(
        """
        CREATE VIEW voted_battles AS
        SELECT
          votes.sequence, votes.id AS vote_id, votes.created_ms AS voted_ms, votes.voter_id,
          votes.outcome, votes.reasons, votes.comment, votes.dwell_ms, votes.input_device,
          votes.status, votes.status_reasons, votes.supersedes,
          later.id IS NULL AS is_latest,
          later.id IS NULL AND votes.status = 'clean' AND battles.is_blind
            AND battles.leaks = '[]' AS counts,
          battles.id AS battle_id, battles.created_ms AS shown_ms, battles.task,
          battles.question, battles.picture_id, battles.strategy, battles.is_blind,
          battles.leaks, battles.consent_version,
          l.prompt, l.model_id,
          l.content AS left_content, l.revision AS left_revision, l.adapter AS left_adapter,
          l.seed AS left_seed, l.parameters AS left_parameters, l.n_tokens AS left_n_tokens,
          l.finish_reason AS left_finish_reason, l.latency_ms AS left_latency_ms,
          r.content AS right_content, r.revision AS right_revision, r.adapter AS right_adapter,
          r.seed AS right_seed, r.parameters AS right_parameters, r.n_tokens AS right_n_tokens,
          r.finish_reason AS right_finish_reason, r.latency_ms AS right_latency_ms
        FROM votes
        LEFT JOIN votes AS later ON later.supersedes = votes.id
        JOIN battles ON battles.id = votes.battle_id
        JOIN generations AS l ON l.id = battles.left_id
        JOIN generations AS r ON r.id = battles.right_id;
        """
    )
