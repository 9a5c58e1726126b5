"""Read the MDS shards of `attent export-subset` with the reader of mosaicml-streaming.

    .venv/bin/python benchmarks/peers/build.py FOLDER mosaicml
    .venv/bin/python benchmarks/peers/read_mds.py write DATA
    FOLDER/mosaicml/bin/python benchmarks/peers/read_mds.py read DATA

`write` needs this project: it exports a corpus with a column of every type in both orders. `read`
needs mosaicml-streaming: it compares every value, in order and by position.
"""

import sys
from pathlib import Path
from typing import Any

_SHARDS = 2
_SHARD_ROWS = 500
_PART_SAMPLES = 300
_BITS = (8, 16, 32, 64)


def main() -> None:
    """Write the shards, or read and compare them."""
    command, folder = sys.argv[1], Path(sys.argv[2])
    {"write": write, "read": read}[command](folder)


def row_of(number: int) -> dict[str, Any]:
    """Return the values of a sample."""
    return {
        **{f"int{bits}": number % 100 - 50 for bits in _BITS},
        **{f"uint{bits}": number % 100 for bits in _BITS},
        "big": (1 << 62) + number,
        "float": number / 8,
        "double": number / 7,
        "text": f"text {number} ü 😀",
        "empty": "",
        "data": bytes([number % 256]) * (number % 9),
        "flag": number % 2 == 0,
        "list": [number, number + 1],
        "struct": {"a": number, "b": [str(number)]},
        "sometimes": None if number % 2 else [number],
    }


def write(folder: Path) -> None:
    """Write `folder`/stored and `folder`/teaching."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from catalogs import Corpus, IndexFile, storage
    from catalogs.shards import inspect_shard
    from pipeline.subset.export_subset import SubsetOptions, export_subset

    folder.mkdir(parents=True)
    kinds = {f"{sign}int{bits}": f"{sign}int{bits}" for sign in ("", "u") for bits in _BITS}
    kinds |= {"float": "float", "double": "double"}
    urls = []
    for shard in range(_SHARDS):
        rows = [row_of(shard * _SHARD_ROWS + row) for row in range(_SHARD_ROWS)]
        columns = {name: pa.array([row[name] for row in rows], kinds.get(name)) for name in rows[0]}
        urls.append(str(folder / f"{shard}.parquet"))
        pq.write_table(pa.table(columns), urls[-1])
    corpus = Corpus.from_inspections(
        (stored, "parquet", inspect_shard(stored.url, "parquet")) for stored in storage.expand(urls)
    )
    corpus.publish(str(folder / "corpus"))
    index = str(folder / "index.parquet")
    rows = corpus.rows().with_columns(weight=1.5, probability=1.0)
    IndexFile.write(index, rows, provenance={"corpus_id": corpus.corpus_id})
    for order in ("stored", "teaching"):
        options = SubsetOptions("mds", order, part_samples=_PART_SAMPLES)
        export_subset(
            index, out=str(folder / order), options=options, corpus=str(folder / "corpus")
        )


def read(folder: Path) -> None:
    """Compare every sample, and print the versions and counts."""
    import others

    others.do_without_torchvision()
    import streaming
    from streaming import StreamingDataset

    total = _SHARDS * _SHARD_ROWS
    for order in ("stored", "teaching"):
        samples = StreamingDataset(local=str(folder / order), batch_size=1, shuffle=False)
        assert len(samples) == total, (len(samples), total)
        numbers = []
        for sample in (*samples, *(samples[position] for position in range(total))):
            number = int(sample["shard_id"]) * _SHARD_ROWS + int(sample["row"])
            numbers.append(number)
            for name, expected in row_of(number).items():
                assert sample[name] == expected, (order, number, name, sample[name], expected)
            assert float(sample["weight"]) == 1.5
            assert sample["loss"] != sample["loss"], "no loss was measured"
        assert numbers[:total] == numbers[total:]
        assert sorted(numbers[:total]) == list(range(total))
        assert (numbers[:total] == list(range(total))) == (order == "stored")
        num_shards = len(samples.shards)
        print(
            f"{order}: {total} samples of {num_shards} shards are equal, in order and by position"
        )
    print(f"mosaicml-streaming {streaming.__version__}")


if __name__ == "__main__":
    main()
