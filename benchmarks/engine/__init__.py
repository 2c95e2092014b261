"""How fast the engine is, compared with vLLM, transformers and itself without determinism, in one run.

    python -m benchmarks.engine [--model NAME]… [--side NAME]… [--workload NAME]… [--rounds N] [--threads N]
        [--vllm-python PATH] [--work DIR] [--json FILE] [--plot FILE.svg] [--quick] [--soak N]

Why the comparison is fair:

- Same work. All sides get the same prompts as token numbers, generate the same number of tokens greedily (no checkpoint has an
  end token) from the same bf16 weights, with the same number of threads and at most 64 sequences at once.
- Same moment. Each side is a process of its own that stays alive and is warmed up with every shape; in each round they
  work one after the other, a different one first each time. Ratios are formed within a round.
- No side has seen a prompt before: prompts are drawn anew for each round, so vLLM's prefix cache costs and gains nothing.
- The others at their best. docs/benchmarks-engine.md says what was tried for them. vLLM neither tokenises nor detokenises
  here and uses no HTTP; transformers gets batches of what has arrived and is charged only for tokens that were requested.
- Ours is what a node runs, without gRPC: it hashes every state and turns every token into text.
"""
