"""Tables of a node's database."""

from collections.abc import Mapping
from typing import Final

VERSION = 6

SCHEMA = """
CREATE TABLE requests (
    id INTEGER PRIMARY KEY,
    order_entry BLOB NOT NULL,
    ctx BLOB NOT NULL,
    tenant TEXT NOT NULL,
    number INTEGER NOT NULL,
    attempt INTEGER NOT NULL,
    order_statement BLOB NOT NULL,
    request_id BLOB NOT NULL,
    envelope BLOB,
    secret BLOB,
    node_nonce BLOB NOT NULL,
    model_root BLOB NOT NULL,
    numeric_profile BLOB NOT NULL,
    settings BLOB NOT NULL,
    input BLOB NOT NULL,
    prompt_tokens INTEGER NOT NULL,
    started INTEGER NOT NULL,
    final_record BLOB,
    final_signature BLOB,
    tenant_key BLOB,
    cancel BLOB,
    cached INTEGER,
    interruptions INTEGER NOT NULL DEFAULT 0,
    stage_orders BLOB,
    UNIQUE (tenant, number, attempt)
) STRICT;
CREATE INDEX requests_order ON requests (order_entry);
CREATE TABLE seen (
    hash BLOB PRIMARY KEY,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX seen_until ON seen (until);
CREATE TABLE frames (
    request INTEGER NOT NULL REFERENCES requests (id),
    position INTEGER NOT NULL,
    ciphertext BLOB NOT NULL,
    PRIMARY KEY (request, position)
) STRICT, WITHOUT ROWID;
CREATE TABLE receipts (
    sequence INTEGER PRIMARY KEY,
    request INTEGER NOT NULL UNIQUE REFERENCES requests (id),
    entry BLOB NOT NULL UNIQUE,
    statement BLOB NOT NULL,
    log_index INTEGER,
    delivered_at INTEGER,
    rejected TEXT
) STRICT;
CREATE INDEX receipts_pending ON receipts (sequence) WHERE log_index IS NULL AND rejected IS NULL;
CREATE TABLE meter (
    tenant TEXT NOT NULL,
    model_root BLOB NOT NULL,
    day TEXT NOT NULL,
    rate_card BLOB NOT NULL,
    input INTEGER NOT NULL,
    cached INTEGER NOT NULL,
    output INTEGER NOT NULL,
    requests INTEGER NOT NULL,
    PRIMARY KEY (day, tenant, model_root, rate_card)
) STRICT, WITHOUT ROWID;
CREATE TABLE rate_cards (
    entry BLOB PRIMARY KEY,
    statement BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE TABLE refusals (
    order_entry BLOB PRIMARY KEY,
    tenant TEXT NOT NULL,
    statement BLOB NOT NULL,
    until INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX refusals_tenant ON refusals (tenant);
CREATE INDEX refusals_until ON refusals (until);
CREATE TABLE parts (
    request INTEGER PRIMARY KEY REFERENCES requests (id),
    head TEXT NOT NULL
) STRICT
"""
"""`envelope`, `secret`, `final_record` and the frames are the evidence, and are removed after the retention period.
`seen` holds the order's entry and the `ctx` of an accepted request until both have expired, so that they cannot be
accepted again; it holds the entry of a refused order likewise, and `refusals` what was signed about it. Rows of `requests`
stay, so a tenant's number and attempt are never used twice. `tenant_key` signed the order,
`cancel` is its signature that ends the answer, `cached` is known with the first token, and `interruptions` counts the
restarts after which the answer went on. `parts` says which requests are a stage's parts of answers, and who may have them
computed: they have no envelope, and a `secret` until an hour after their order has expired.
`stage_orders` are the orders for the stages of an answer's own chain, as a CBOR array.
"""

_SINCE_5 = SCHEMA[SCHEMA.index("CREATE TABLE parts") :]
_SINCE_4 = SCHEMA[SCHEMA.index("CREATE TABLE refusals") : SCHEMA.index("CREATE TABLE parts")]

UPGRADES: Final[Mapping[int, str]] = {
    3: "ALTER TABLE requests ADD COLUMN tenant_key BLOB;"
    "ALTER TABLE requests ADD COLUMN cancel BLOB;"
    "ALTER TABLE requests ADD COLUMN cached INTEGER;"
    "ALTER TABLE requests ADD COLUMN interruptions INTEGER NOT NULL DEFAULT 0;"
    "CREATE INDEX requests_order ON requests (order_entry)",
    4: _SINCE_4,
    5: _SINCE_5 + ";ALTER TABLE requests ADD COLUMN stage_orders BLOB",
}
"""What an older database lacks: it holds receipts that are still to be delivered, and evidence."""
