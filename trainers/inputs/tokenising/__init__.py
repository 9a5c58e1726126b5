"""Which tokens of a text count, from where in the text their characters are."""
