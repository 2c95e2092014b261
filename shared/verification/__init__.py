"""What anybody can check with keys alone: numbered steps over bundles, completeness, draws and releases. Pure."""
