"""Growing corpora: new shards get the ids after those of a corpus, which becomes a new version."""

from collections.abc import Sequence
from dataclasses import replace
from time import monotonic

from attent_select.errors import CorpusMismatchError, ExistsError, InputError
from catalogs import Corpus
from catalogs.corpus import manifest_of
from catalogs.shard_search import find_shards
from catalogs.storage.objects import ObjectInfo
from pipeline.cluster import Client
from pipeline.corpus.ingest import IngestResult, inspect_corpus, result_of
from pipeline.corpus.part_names import annotate_names


def check_appendable(folder: str, *, name: str | None) -> Corpus:
    """Return the corpus in `folder`, a corpus or a run, to which shards may be appended.

    Raises:
        MissingError: there is none.
        InputError: a run has that of another folder, or `name` is not a part of the mixture.
    """
    corpus = Corpus.open(folder)
    if corpus.folder != manifest_of(folder)[0].folder:
        raise InputError(
            f"{folder} uses the corpus at {corpus.folder}: append the shards to that, and the run"
            " continues with the new version"
        )
    names = sorted(set(corpus.names))
    if corpus.names and name not in names:
        problem = "--name is missing" if name is None else f"--name {name}: there is no such part"
        raise InputError(
            f"{problem}. The corpus is a mixture of {', '.join(names)}: say which part the shards"
            " belong to"
        )
    if name is not None and not corpus.names:
        raise InputError(f"--name {name}: the corpus is not a mixture; leave out --name")
    return corpus


def append_shards(
    shards: Sequence[str],
    *,
    folder: str,
    client: Client,
    skip_damaged: bool = False,
    name: str | None = None,
) -> IngestResult:
    """Append shards (URLs, folders, globs) to the corpus in `folder`; publish its new version.

    The ids of the new shards follow their sorted URLs. `name` is the part of a mixture that they
    belong to. An interrupted call leaves the corpus as it was.

    Raises:
        InputError: a shard is in the corpus, is damaged or lacks a column, or what
            `check_appendable` raises.
        CorpusMismatchError: a shard of the corpus has changed.
        ExistsError: another process has appended shards meanwhile.
    """
    started = monotonic()
    layout, etag = manifest_of(folder)
    corpus = check_appendable(folder, name=name)
    objects = find_shards(shards)
    _check_new(objects, corpus)
    added = inspect_corpus(
        objects,
        folder=layout.folder,
        client=client,
        skip_damaged=skip_damaged,
        first_id=len(corpus.shards),
        columns=corpus.columns,
    )
    if name is not None:
        added = replace(added, names=(name,) * len(added.shards))
    grown = corpus.append(added)
    if manifest_of(folder)[1] != etag:
        raise ExistsError(
            f"{folder}: another process has appended shards meanwhile, and these were not. Run the"
            " command again"
        )
    grown.publish(layout.folder)
    if name is not None:
        annotate_names(folder)
    return result_of(grown, seconds=monotonic() - started)


def _check_new(objects: Sequence[ObjectInfo], corpus: Corpus) -> None:
    etags = {shard.uri: shard.etag for shard in corpus.shards}
    known = [stored for stored in objects if stored.url in etags]
    for stored in known:
        if stored.etag != etags[stored.url]:
            raise CorpusMismatchError(
                f"{stored.url} is in the corpus, and has changed since: its etag is {stored.etag},"
                f" expected {etags[stored.url]}. Put it back, and append new data as new files"
            )
    if known:
        raise InputError(
            f"{known[0].url} is in the corpus already ({len(known)} of {len(objects)} shards are):"
            " name new shards only"
        )
