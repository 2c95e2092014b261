"""What an observer of the network learns from sizes and times of records (docs/traffic-analysis.md)."""
