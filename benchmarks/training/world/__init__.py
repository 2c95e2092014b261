"""The grammar's vocabulary and templates, one file for each language."""
