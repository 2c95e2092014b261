"""What the proof machinery costs: the bare engine against the whole path of a sealed request.

    python -m benchmarks.stack [--model shipped|wide|both] [--rounds N] [--json FILE] [--quick]

Two sides answer the same prompts in one run, in turn (engine, stack, engine, stack, …):

- *engine*: `execution_layer.engine` in this process. No network, no encryption, no receipt.
- *stack*: the client orders and seals → gRPC over TLS → a node process → engine → activation commitments,
  encrypted and signed frames → receipt → spool → audit server with embedded Postgres → log. The clock runs
  from the call of `generate` until the client has checked the receipt, sealing and the client's archive included.

Why the comparison is fair:

- One engine. The bare side builds the same `LocalEngine` (scheduler, batch size, chunked prefill, cache,
  sampler, activation hashing) from the node's own `node.toml`: same checkpoint, threads, `max_batch`, queue.
- Same work. Every prompt has a fixed seed, so both sides must produce the same tokens in the same number of
  steps; the run compares them and fails where they differ.
- Same moment. The sides alternate within a run, so a machine that becomes slower slows both; ratios and differences
  are formed within one round (for single requests: within one pair, whose order changes every time), then
  the median over rounds is reported with its lowest and highest.
- Same load. Both are driven by the same loop with the same number of requests under way. While one side
  works, the other is idle: the next engine pass begins when the last receipt is in the log.
- What differs is counted against the stack: prompts are tokenised beforehand for the bare engine and within the
  time for the stack, and client, node, audit server and database share the machine's cores with the model.

Workers, beat and custodian are not started: replay is a separate figure. The audit server, its witness and
Postgres run as in `counterfoil up`. Receipts per second are measured separately, with requests of one token each,
from the first call until the log has the last receipt, since otherwise the model would be measured.
"""
