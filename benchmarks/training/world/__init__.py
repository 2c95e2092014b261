"""The grammar's vocabulary and templates, one file per language."""
