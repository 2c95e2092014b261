"""A year of honest and dishonest parties under the policy that `shared/verification/incentives.py` computes, and under a
tenth of it (docs/benchmarks-incentives.md): what each strategy earns, when it is found, and what it costs others.
"""
