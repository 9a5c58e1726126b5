"""Paths of a run and of a corpus: the only place that builds them. Pure."""

from dataclasses import dataclass


def join(base: str, *names: str) -> str:
    """Return `base/name/name…`, for URLs and local paths alike."""
    # The slashes of `memory://` belong to its scheme.
    start = base if base.endswith("://") else base.rstrip("/") + "/"
    return start + "/".join(names)


@dataclass(frozen=True)
class CorpusLayout:
    """Paths of a corpus: a folder with `manifest.parquet`, its member indexes and annotations."""

    folder: str

    @property
    def manifest(self) -> str:
        return join(self.folder, "manifest.parquet")

    @property
    def converted_shards(self) -> str:
        """Shards written by `attent ingest --convert`."""
        return join(self.folder, "shards")

    def members(self, shard_id: int) -> str:
        return join(self.folder, "members", f"{shard_id:08d}.parquet")

    @property
    def annotations(self) -> str:
        return join(self.folder, "annotations")

    def annotation(self, name: str) -> "AnnotationLayout":
        return AnnotationLayout(join(self.annotations, name))


@dataclass(frozen=True)
class AnnotationLayout:
    """Paths of one annotation of a corpus."""

    folder: str

    @property
    def record(self) -> str:
        """Published last: an annotation without it does not exist."""
        return join(self.folder, "annotation.json")

    @property
    def versions(self) -> str:
        """Records for earlier versions of the corpus."""
        return join(self.folder, "versions")

    def version(self, corpus_id: str) -> str:
        return join(self.versions, f"{corpus_id}.json")

    @property
    def model(self) -> str:
        """Arrays that fitting the annotation produced."""
        return join(self.folder, "model.safetensors")

    @property
    def predictor(self) -> str:
        """Regression that extends the values from a sample."""
        return join(self.folder, "predictor.safetensors")

    @property
    def fitted(self) -> str:
        """Fitted models, each in a subfolder named by the digest of what it was fitted to."""
        return join(self.folder, "fitted")

    @property
    def parts(self) -> str:
        return join(self.folder, "parts")

    def part(self, digest: str) -> str:
        return join(self.parts, f"{digest}.parquet")

    @property
    def spans(self) -> str:
        """Span files: written by workers, compacted into parts, then deleted."""
        return join(self.folder, "spans")

    def span(self, digest: str) -> str:
        return join(self.spans, f"{digest}.parquet")

    @property
    def journals(self) -> str:
        return join(self.folder, "journals")

    def journal(self, digest: str) -> str:
        """Rows of a span that are being measured; exists until the span is finished."""
        return join(self.journals, f"{digest}.json")


@dataclass(frozen=True)
class Layout:
    """Paths under one run, which is an fsspec URL or a local folder."""

    run: str

    @property
    def config(self) -> str:
        return join(self.run, "run.yaml")

    @property
    def corpus(self) -> CorpusLayout:
        """The run's own corpus; of a shared corpus, only its manifest."""
        return CorpusLayout(join(self.run, "corpus"))

    @property
    def accepted_annotations(self) -> str:
        """Digests of annotations that differ from those of earlier rounds, and were accepted."""
        return join(self.run, "accepted_annotations.json")

    @property
    def target(self) -> str:
        """The target, laid out like a separate corpus."""
        return join(self.run, "target")

    @property
    def judging(self) -> str:
        """Examples that judge the rounds, and random samples of the corpus; written last."""
        return join(self.target, "judging.parquet")

    @property
    def held_out(self) -> str:
        """The held-out corpus, laid out like the corpus of a run."""
        return join(self.run, "evaluation")

    @property
    def spans(self) -> str:
        """Span files: written by scoring workers, compacted into parts, then deleted."""
        return join(self.run, "losses", "spans")

    def span(self, digest: str) -> str:
        return join(self.spans, f"{digest}.parquet")

    @property
    def plans(self) -> str:
        return join(self.run, "losses", "plans")

    def plan(self, round_number: int) -> str:
        """Scoring plan of a round, written before the first span is measured."""
        return join(self.plans, f"{round_number:05d}.parquet")

    @property
    def journals(self) -> str:
        return join(self.run, "losses", "journals")

    def journal(self, digest: str) -> str:
        """Rows of a span that are being measured; exists until the span is finished."""
        return join(self.journals, f"{digest}.json")

    @property
    def parts(self) -> str:
        return join(self.run, "losses", "parts")

    def part(self, digest: str) -> str:
        return join(self.parts, f"{digest}.parquet")

    @property
    def all_rescored(self) -> str:
        return join(self.run, "losses", "rescored")

    def rescored(self, round_number: int) -> str:
        """Rows that a partial round measures again: an index file, written before it starts."""
        return join(self.all_rescored, f"{round_number:05d}.parquet")

    @property
    def all_candidates(self) -> str:
        return join(self.run, "losses", "candidates")

    def candidates(self, round_number: int) -> str:
        """Rows that a round draws from a corpus larger than its budget: an index file."""
        return join(self.all_candidates, f"{round_number:05d}.parquet")

    @property
    def pools(self) -> str:
        return join(self.run, "losses", "pools")

    def pool(self, round_number: int) -> str:
        """Losses of a round's candidates, published last."""
        return join(self.pools, f"{round_number:05d}.parquet")

    def eligible(self, digest: str) -> str:
        """One bit per row of the corpus: whether it may be drawn, by a condition's digest."""
        return join(self.run, "losses", "eligible", f"{digest}.parquet")

    @property
    def all_observed(self) -> str:
        return join(self.run, "losses", "observed")

    def observed(self, round_number: int) -> str:
        return join(self.all_observed, f"{round_number:05d}")

    @property
    def snapshots(self) -> str:
        return join(self.run, "losses", "snapshots")

    def snapshot(self, round_number: int) -> str:
        return join(self.snapshots, f"{round_number:05d}.parquet")

    @property
    def decisions(self) -> str:
        return join(self.run, "decisions")

    def decision(self, round_number: int) -> str:
        """Decisions of an adaptive round and their reasons, written before the round starts."""
        return join(self.decisions, f"{round_number:05d}.json")

    @property
    def quotas(self) -> str:
        return join(self.run, "quotas")

    @property
    def first_quotas(self) -> str:
        """Shares of the strata before the first round that moves them."""
        return join(self.quotas, "start.json")

    def round_quotas(self, round_number: int) -> str:
        """Shares of the strata in a round, and why, written before its index."""
        return join(self.quotas, f"{round_number:05d}.json")

    @property
    def indexes(self) -> str:
        return join(self.run, "index")

    def index(self, round_number: int) -> str:
        return join(self.indexes, f"{round_number:05d}.parquet")

    @property
    def all_compact(self) -> str:
        return join(self.run, "compact")

    def compact(self, round_number: int, digest: str) -> str:
        """The selected rows of a round as compact shards, laid out like the corpus of a run."""
        return join(self.all_compact, f"{round_number:05d}-{digest}")

    @property
    def checkpoints(self) -> str:
        return join(self.run, "checkpoints")

    @property
    def initial_checkpoint(self) -> str:
        """Weights before the first step; the first round is scored with them."""
        return join(self.checkpoints, "initial")

    def checkpoint(self, round_number: int) -> str:
        return join(self.checkpoints, f"{round_number:05d}")

    @property
    def metrics(self) -> str:
        return join(self.run, "metrics")

    def round_metrics(self, round_number: int) -> str:
        return join(self.metrics, f"{round_number:05d}.parquet")

    @property
    def scoring(self) -> str:
        return join(self.metrics, "scoring")

    def scoring_metrics(self, round_number: int) -> str:
        """Metrics of scoring; unlike `round_metrics`, they do not mark a round as finished."""
        return join(self.scoring, f"{round_number:05d}.parquet")

    @property
    def selecting(self) -> str:
        return join(self.metrics, "selecting")

    def selection_metrics(self, round_number: int) -> str:
        """Metrics of selection, kept for a process that resumes the round."""
        return join(self.selecting, f"{round_number:05d}.parquet")

    @property
    def all_kernels(self) -> str:
        return join(self.run, "antk")

    def kernels(self, kind: str) -> str:
        """Comparable kernels; `kind` names the output f and how they were computed."""
        return join(self.all_kernels, kind)

    def kernel(self, kind: str, checkpoint: str) -> str:
        """The kernel of a checkpoint, by the checkpoint's name."""
        return join(self.kernels(kind), f"{checkpoint}.parquet")

    def kernel_figure(self, kind: str) -> str:
        return join(self.kernels(kind), "antk.png")

    def sent_rounds(self, tracker: str) -> str:
        """The rounds that a tracker was sent, written after each."""
        return join(self.run, "tracking", f"{tracker}.json")

    def event_file(self, round_number: int) -> str:
        """Event file of a round for TensorBoard, which looks for `tfevents` in the name."""
        return join(self.run, "tracking", "tensorboard", f"events.out.tfevents.{round_number:010d}")

    @property
    def lease(self) -> str:
        """The lease, where the store has conditional writes."""
        return join(self.run, "lease.json")

    @property
    def drivers(self) -> str:
        """Lease tickets of drivers, elsewhere."""
        return join(self.run, "drivers")

    @property
    def report(self) -> str:
        return join(self.run, "report.html")
