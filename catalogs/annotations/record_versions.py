"""Records of an annotation for the versions of its corpus, the newest one in `annotation.json`."""

from attent_select.errors import CorpusMismatchError
from catalogs import storage
from catalogs.annotations.record import Annotation
from catalogs.corpus import Corpus
from catalogs.layout import AnnotationLayout


class IncompleteAnnotationError(CorpusMismatchError):
    """An annotation lacks the shards that were appended to its corpus since it was made."""

    def __init__(self, message: str, annotation: Annotation) -> None:
        super().__init__(message)
        self.annotation = annotation

    def __reduce__(self) -> tuple[type, tuple[str, Annotation]]:
        return type(self), (str(self), self.annotation)


def read_record(layout: AnnotationLayout, *, name: str, corpus: Corpus, url: str) -> Annotation:
    """Return the record of an annotation for this version of the corpus at `url`.

    Raises:
        MissingError: there is no such annotation.
        IncompleteAnnotationError: it was made for an earlier version.
        CorpusMismatchError: it was made for another corpus.
    """
    annotation = Annotation.from_json(storage.read(layout.record), url=layout.record)
    if annotation.corpus_id == corpus.corpus_id:
        return annotation
    if (num_shards := corpus.num_shards_of(annotation.corpus_id)) is not None:
        num_samples = corpus.num_samples - annotation.num_rows
        raise IncompleteAnnotationError(
            f"annotation {name} has no values for the {num_samples:,} samples of the"
            f" {len(corpus.shards) - num_shards} shards that were appended since: complete it with"
            f" `attent annotate {url} --name {name} --complete`",
            annotation,
        )
    version = layout.version(corpus.corpus_id)
    if storage.info(version) is not None:  # the corpus is the earlier version that a run has
        return Annotation.from_json(storage.read(version), url=version)
    raise CorpusMismatchError(
        f"annotation {name} was made for corpus {annotation.corpus_id}, but this is corpus"
        f" {corpus.corpus_id}: make it again with `attent annotate {url} --name {name} --overwrite"
        " …`"
    )


def versions_of(layout: AnnotationLayout) -> list[Annotation]:
    """Return the records of an annotation for earlier versions of its corpus."""
    urls = [stored.url for stored in storage.list_objects(layout.versions)]
    return [Annotation.from_json(storage.read(url), url=url) for url in urls]
