"""A strict checker of FOCUS files, whoever wrote them (FinOps Open Cost and Usage Specification 1.2 and 1.4).

`columns` and `rules` are the specification as data; `cells`, `rows` and `whole` judge a cell, a row and the file; `reading`
and `parquet` turn a file into rows in bounded memory; `checking` puts them together and `report` keeps what was found.
"""
