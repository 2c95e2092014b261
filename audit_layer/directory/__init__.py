"""The directory: which key bundles clients may seal to."""
