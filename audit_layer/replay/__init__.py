"""Selection, re-execution and verdicts: epochs, the beacon's draw, the work list, the judge."""
