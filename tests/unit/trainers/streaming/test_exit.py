"""A stream that is still open when the interpreter exits."""

import subprocess
import sys
from pathlib import Path

LEFT_OPEN = """
import sys
sys.path.insert(0, sys.argv[2])
from pathlib import Path
from digits import samples, stream_of, write_corpus, write_index

folder = Path(sys.argv[1])
corpus = write_corpus(folder / "corpus", samples(200))
index = write_index(folder / "index.parquet", corpus)
batches = iter(stream_of(index, corpus, batch_size=2, epochs=1000))
next(batches)
"""


def test_a_stream_left_open_ends_quietly_with_the_interpreter(tmp_path: Path) -> None:
    # Without a stop at exit, about half of such processes are aborted in a thread.
    for number in range(3):
        folder = tmp_path / str(number)
        command = [sys.executable, "-c", LEFT_OPEN, str(folder), str(Path(__file__).parents[3])]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
        assert (done.returncode, done.stderr) == (0, "")
