"""Tables of a client's archive."""

from collections.abc import Mapping
from typing import Final

VERSION = 12

SCHEMA = """
CREATE TABLE transcripts (
    id INTEGER PRIMARY KEY,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    node TEXT NOT NULL,
    bundle BLOB NOT NULL REFERENCES bundles (entry),
    created INTEGER NOT NULL,
    secret BLOB NOT NULL,
    envelope BLOB NOT NULL,
    order_statement BLOB NOT NULL,
    order_entry BLOB NOT NULL UNIQUE,
    tags TEXT,
    state TEXT NOT NULL DEFAULT 'ordered',
    problem TEXT,
    node_nonce BLOB,
    accepted_signature BLOB,
    final_record BLOB,
    final_signature BLOB,
    receipt BLOB,
    receipt_entry BLOB UNIQUE,
    finished INTEGER,
    proof TEXT,
    log_index INTEGER,
    handed_in INTEGER,
    refusal BLOB,
    refusal_entry BLOB,
    rejected TEXT,
    UNIQUE (number, attempt)
) STRICT;
CREATE TABLE frames (
    transcript INTEGER NOT NULL REFERENCES transcripts (id),
    position INTEGER NOT NULL,
    ciphertext BLOB NOT NULL,
    signature BLOB NOT NULL,
    PRIMARY KEY (transcript, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE bundles (
    entry BLOB PRIMARY KEY,
    statement BLOB NOT NULL,
    proof TEXT NOT NULL,
    not_after INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;
CREATE TABLE checkpoints (
    origin TEXT NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note TEXT NOT NULL,
    PRIMARY KEY (origin, size)
) STRICT, WITHOUT ROWID;
CREATE TABLE suspects (
    origin TEXT NOT NULL,
    size INTEGER NOT NULL,
    root BLOB NOT NULL,
    note TEXT NOT NULL,
    reason TEXT NOT NULL,
    seen INTEGER NOT NULL,
    beside INTEGER,
    nodes TEXT,
    PRIMARY KEY (origin, size, root)
) STRICT, WITHOUT ROWID;
CREATE TABLE revocations (
    bundle BLOB NOT NULL,
    operator TEXT NOT NULL,
    at INTEGER NOT NULL,
    statement BLOB NOT NULL,
    proof TEXT NOT NULL,
    PRIMARY KEY (bundle, operator)
) STRICT, WITHOUT ROWID;
CREATE TABLE free_numbers (
    number INTEGER PRIMARY KEY
) STRICT;
CREATE INDEX transcripts_not_accepted ON transcripts (number) WHERE state IN ('ordered', 'refused');
CREATE TABLE standings (
    node TEXT PRIMARY KEY,
    standing TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE contradictions (
    transcript INTEGER NOT NULL REFERENCES transcripts (id),
    position INTEGER NOT NULL,
    value BLOB NOT NULL,
    signature BLOB NOT NULL,
    seen INTEGER NOT NULL,
    PRIMARY KEY (transcript, position, value)
) STRICT, WITHOUT ROWID;
CREATE INDEX transcripts_refusal ON transcripts (refusal_entry) WHERE refusal IS NOT NULL;
CREATE TABLE audits (
    transcript INTEGER PRIMARY KEY REFERENCES transcripts (id),
    statement BLOB,
    entry BLOB,
    log_index INTEGER,
    rejected TEXT
) STRICT;
CREATE TABLE own_keys (
    key BLOB PRIMARY KEY
) STRICT, WITHOUT ROWID;
CREATE TABLE canaries (
    transcript INTEGER PRIMARY KEY REFERENCES transcripts (id)
) STRICT;
CREATE TABLE parts (
    transcript INTEGER NOT NULL REFERENCES transcripts (id),
    place INTEGER NOT NULL,
    node TEXT NOT NULL,
    bundle BLOB NOT NULL REFERENCES bundles (entry),
    order_statement BLOB NOT NULL,
    order_entry BLOB NOT NULL UNIQUE,
    receipt BLOB,
    receipt_entry BLOB UNIQUE,
    proof TEXT,
    log_index INTEGER,
    handed_in INTEGER,
    audit BLOB,
    audit_entry BLOB,
    audit_index INTEGER,
    audit_rejected TEXT,
    PRIMARY KEY (transcript, place)
) STRICT, WITHOUT ROWID
"""
"""`checkpoints` belong to one history; `suspects` contradict it, and are kept as evidence. `free_numbers` were used in
orders of which no attempt was accepted, and the last one not refused with a signature; the next requests take them.
`tags` is a JSON object of texts. A suspect's `beside` is the size of the accepted checkpoint that it contradicts,
`nodes` the subtrees that prove it, as JSON. `standings` is what the audit server last said of each node.
`contradictions` are what a node signed in a place of a stream where it had signed something else: a frame, or at
position 0 its nonce. `proof`, `log_index` and `handed_in` are those of the receipt, or else of the refusal;
`rejected` is why the log does not take the refusal. `audits` are the attempts that their tenant wants audited, once
they are answered with a receipt: `statement` is the audit request, kept before it is sent, and `rejected` why the log
does not take it. `own_keys` are the public keys with which orders were signed. `canaries` are the attempts that were
sent to test their nodes; nothing else says which they are. `parts` are what the stages of chains were ordered to do, by their
places from 1, and their receipts, once the whole answer has passed the checks; their `audit…` are what `audits` has of an
answer, and are wanted where that is."""

_IN_12 = (
    "    audit BLOB,\n    audit_entry BLOB,\n    audit_index INTEGER,\n    audit_rejected TEXT,\n"
)
_IN_5 = "    beside INTEGER,\n    nodes TEXT,\n"
_SUSPECTS, _FREE, _STANDINGS, _CONTRADICTIONS, _REFUSAL, _AUDITS, _OWN_KEYS, _CANARIES, _PARTS = (
    SCHEMA.index(f"CREATE {name}")
    for name in (
        "TABLE suspects",
        "TABLE free_numbers",
        "TABLE standings",
        "TABLE contradictions",
        "INDEX transcripts_refusal",
        "TABLE audits",
        "TABLE own_keys",
        "TABLE canaries",
        "TABLE parts",
    )
)
_SINCE_2 = SCHEMA[_SUSPECTS:_FREE].replace(_IN_5, "")
_SINCE_3 = SCHEMA[_FREE:_STANDINGS].rstrip().rstrip(";")

UPGRADES: Final[Mapping[int, str]] = {
    1: f"ALTER TABLE transcripts ADD COLUMN final_signature BLOB; {_SINCE_2.rstrip().rstrip(';')}",
    2: _SINCE_3.rstrip().rstrip(";"),
    3: "ALTER TABLE transcripts RENAME COLUMN cost_centre TO tags;"
    "UPDATE transcripts SET tags = json_object('cost_centre', tags) WHERE tags IS NOT NULL",
    4: "ALTER TABLE suspects ADD COLUMN beside INTEGER; ALTER TABLE suspects ADD COLUMN nodes TEXT;"
    "ALTER TABLE bundles ADD COLUMN not_after INTEGER NOT NULL DEFAULT 0;"
    + SCHEMA[_STANDINGS:_CONTRADICTIONS].rstrip().rstrip(";"),
    5: SCHEMA[_CONTRADICTIONS:_REFUSAL].rstrip().rstrip(";"),
    6: "ALTER TABLE transcripts ADD COLUMN refusal BLOB; ALTER TABLE transcripts ADD COLUMN refusal_entry BLOB;"
    "ALTER TABLE transcripts ADD COLUMN rejected TEXT;"
    + SCHEMA[_REFUSAL:_AUDITS].rstrip().rstrip(";"),
    7: SCHEMA[_AUDITS:_OWN_KEYS].rstrip().rstrip(";"),
    8: SCHEMA[_OWN_KEYS:_CANARIES].rstrip().rstrip(";"),
    9: SCHEMA[_CANARIES:_PARTS].rstrip().rstrip(";"),
    10: SCHEMA[_PARTS:].replace(_IN_12, ""),
    11: "ALTER TABLE parts ADD COLUMN audit BLOB; ALTER TABLE parts ADD COLUMN audit_entry BLOB;"
    "ALTER TABLE parts ADD COLUMN audit_index INTEGER; ALTER TABLE parts ADD COLUMN audit_rejected TEXT",
}
"""What an older archive lacks: it holds what nobody else has, so every later version must open it."""
