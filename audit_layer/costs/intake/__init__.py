"""Operators' invoices as they really come (JSON, CSV, XLSX, FOCUS), read into one form, or refused with what is wrong where."""
