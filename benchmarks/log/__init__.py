"""The log: how fast it takes statements in, how fast it proves them, and whether that lasts as it grows.

    python -m benchmarks.log [--only WORKLOAD,…] [--rounds N] [--full] [--quick] [--json FILE] [--plot FILE.svg] [--profile FILE]

Why the figures mean something:

- Every commit is on disk. Postgres is the embedded one as production runs it; what decides that (`fsync`,
  `synchronous_commit`, `full_page_writes`) is read from the running server and printed.
- The server is the product's: `counterfoil audit serve` as a process, TLS, every signature verified, the trail's rows written
  in the log's transaction, a witness process that cosigns with both of its keys. It publishes four times a second, as in
  `counterfoil up`. None of it is replaced.
- Statements are valid and signed before the clock starts: receipts of a node under its key bundle, chained and numbered
  without gaps, each with its tenant's order. Two runs share none, so nothing is answered as a duplicate.
- Load comes from processes of its own. They share the machine's cores with server, witness and Postgres, and their part of the
  time is counted against the server.
- What the server hands out is checked afterwards: transparency receipts and witnessed proofs with the verifier's own functions.
- Sides alternate within a run and change their order every round; ratios are formed within a round. Every workload is a fixed
  amount of work.

Data put straight into the store (`bulk`, `growth`) goes through the same sequencer, publisher and proof service, in the
benchmark's process. A database is fresh and checkpointed before each measurement of `bulk`. In `growth`, entries alone are
hashes, and entries with the trail's rows are copies of one admitted receipt under other numbers: signing ten million would take
longer than storing them, and the sequencer looks at neither.
"""
