"""Names of the columns that a selection adds to the rows while it runs."""

from typing import Final

# Prefix of all of them: columns of the catalog that a strategy reads must not begin with it.
PREFIX: Final = "__"

# bool: whether the row may be selected.
ELIGIBLE: Final = "__eligible"
# Any value: no row lacks an id. Only where that is known.
HAS_IDS: Final = "__has_ids"
# u64: what the row uses of the budget, 1 or its units.
COST: Final = "__cost"
# String: value of the column `by`; u32: its code.
LABEL: Final = "__label"
STRATUM: Final = "__stratum"
# float32 or float64, never null or NaN: the strategy's key.
KEY: Final = "__key"
# bool: whether the row is within the budget of its stratum.
INCLUDED: Final = "__included"
# bool: whether the row is among those that are drawn uniformly from the rest.
EXPLORED: Final = "__explored"
# float64: largest key of the stratum that is beyond the budget, null if there is none.
FIRST_EXCLUDED: Final = "__first_excluded"
