"""What a chain of stages serves over links with a round trip, against the same chain with one step under way.

    python -m benchmarks.pipeline [--kind KIND] [--json FILE] [--quick]

Three kinds of rows. *Computed*: the layers of `wide` (77 million parameters) in threads of this process, which share its
processors. *Modelled*: stages that sleep for what a step would take, so that a stage has a machine of its own; every other part
(schedule, embedding, head, sampling, hashing) is the real one. *Network*: modelled stages in processes of their own, which serve
over TLS behind links with a delay, plain and accountable by turns; and what is lost when one of them fails.
"""
