"""`dask ARGUMENTS`, as a program for `process_copies`."""

from dask.__main__ import main

if __name__ == "__main__":
    main()
