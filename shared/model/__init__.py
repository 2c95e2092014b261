"""The arithmetic that both layers must agree on to the bit. The only torch in `shared`.

One decoder serves requests and replays them: a batch is a list of rows (token, position, sequence), and a row's result does
not depend on what else is in the batch. A `Backend` computes it; `arithmetic` says how the CPU's keeps that promise.
"""
