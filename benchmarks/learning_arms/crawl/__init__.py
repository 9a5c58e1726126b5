"""The regime `crawl`: a raw text pool, and targets that say what is wanted of it."""
