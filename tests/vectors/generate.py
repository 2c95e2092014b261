"""`python -m tests.vectors.generate` rewrites every vector that can be recomputed; frozen ones stay (see each generator)."""

from tests.vectors import generate_bundles, generate_protocol, generate_translog, sampler


def main() -> None:
    """Run all generators."""
    generate_protocol.main([])
    generate_translog.main([])
    generate_bundles.main()
    sampler.FILE.write_text(sampler.text(), encoding="utf-8")


if __name__ == "__main__":
    main()
