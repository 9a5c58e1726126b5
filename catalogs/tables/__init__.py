"""Tables as Parquet files: reading, writing and scanning them."""
