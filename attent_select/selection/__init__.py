"""Selection of the teaching subset.

select.py         `select()`: the entry point
blocks.py         `select_blocks()`: whole blocks; block_table.py: the catalog as blocks
composition.py    settings around a strategy
eligibility.py    which rows may be selected: columns, `where` conditions, guards
counting.py       the pass that counts eligible rows and builds the loss histogram
strata.py         strata of `by`; quotas.py: how the budget is divided among them
top_m.py          the exact top m: a guessed and verified bracket; radix.py: the fallback
inclusion.py      rows within the budget, exploration, probabilities
weights.py        rows of an index with their weights
chunks.py         rows processed a chunk at a time; columns.py: names of temporary columns
"""
