"""Shards that URLs name: files, folders and globs, and the training split of a dataset on the hub.

Runs and catalogs of corpora among the files are left out, although they are Parquet files.

A dataset `hf://datasets/ORG/NAME` is read as `load_dataset(…, split="train")` of `datasets` reads
it: its README has the configurations, and splits are named there or in the paths of files.
"""

import fnmatch
import functools
import logging
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

from attent_select.errors import InputError, MissingError
from catalogs import storage
from catalogs.layout import join
from catalogs.storage.objects import ObjectInfo

_log = logging.getLogger("attent.catalogs.shard_search")

_REVISION: Final = r"@(?P<revision>refs/[^/]+/[^/]+|[^/]+)"
_DATASET: Final = re.compile(rf"hf://datasets/[^/@]+/[^/@]+({_REVISION})?")
# Where the hub keeps its own conversion, as `configuration/split/0000.parquet`.
_CONVERTED: Final = "@refs/convert/parquet"
_SHARD: Final = re.compile(r"\.(parquet|lance|tar|tar\.gz|tgz|tar\.zst)$", re.IGNORECASE)
_TRAIN: Final = "train"
# Files about a dataset, which `datasets` does not read as samples.
_DESCRIPTIONS: Final = frozenset(
    {"config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
)
# The words for splits that `datasets` finds in paths, between other characters than letters.
_SPLITS: Final = {
    _TRAIN: ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_Shards = dict[str, ObjectInfo]
# What is written into the folder of a corpus, and of a run before its configuration.
_MANIFEST: Final = "manifest.parquet"
_OF_CORPUS: Final = (_MANIFEST, "members/", "annotations/")
_JUDGING: Final = "target/judging.parquet"


def is_shard(url: str) -> bool:
    """Whether a file is a shard, by its name."""
    return _SHARD.search(url) is not None


def find_shards(
    patterns: Sequence[str], *, is_wanted: Callable[[str], bool] = is_shard
) -> list[ObjectInfo]:
    """List the shards that URLs, folders, globs and datasets on the hub name, sorted by URL.

    Other files in folders are left out, if there are shards; `is_wanted` says what a shard is. So
    are runs in folders, and what a corpus has beside its shards.

    Raises:
        InputError: a URL matches nothing, or a dataset has several configurations, no training
            split, or no shards.
    """
    objects: _Shards = {}
    others = [url for url in patterns if not is_dataset(url)]
    for url in patterns:
        if is_dataset(url):
            objects |= _shards_of_dataset(storage.normalise(url), is_wanted)
    if others or not patterns:
        listed = _without_own(storage.expand(others), others)
        objects |= {stored.url: stored for stored in _without_others(listed, others, is_wanted)}
    return sorted(objects.values(), key=lambda stored: stored.url)


def _without_own(listed: list[ObjectInfo], patterns: Sequence[str]) -> list[ObjectInfo]:
    """Return the files that are not of a run or of a corpus, or are named one by one."""
    named = set(map(storage.normalise, patterns))
    urls = [stored.url for stored in listed if stored.url not in named]
    corpora = {url.removesuffix(_MANIFEST) for url in urls if url.endswith(f"/{_MANIFEST}")}
    runs = {url.removesuffix("run.yaml") for url in urls if url.endswith("/run.yaml")}
    runs -= {url.rstrip("/") + "/" for url in named}
    # A run that is being set up has no configuration yet.
    judging = (corpus.removesuffix("corpus/") + _JUDGING for corpus in corpora)
    own = (*runs, *(corpus + name for corpus in corpora for name in _OF_CORPUS), *judging)
    left_out = [url for url in urls if url.startswith(own)]
    if not left_out:
        return listed
    if len(left_out) == len(listed):
        raise InputError(
            f"{patterns[0]} has only files that attent has written, such as {left_out[0]}: name the"
            " shards, or use the corpus there (`corpus.path`)"
        )
    _warn_of_own(len(left_out), left_out[0])
    return [stored for stored in listed if stored.url in named or not stored.url.startswith(own)]


@functools.cache
def _warn_of_own(count: int, first: str) -> None:
    _log.warning("left out %d files that attent has written (%s)", count, first)


def _without_others(
    listed: list[ObjectInfo], patterns: Sequence[str], is_wanted: Callable[[str], bool]
) -> list[ObjectInfo]:
    """Return files that are shards, or that are named by more than a folder."""
    others = [stored for stored in listed if not is_wanted(stored.url)]
    if not others or len(others) == len(listed):
        return listed
    folders = tuple(
        folder.rstrip("/") + "/"
        for folder in map(storage.normalise, patterns)
        if not any(sign in folder for sign in "*?[{")
    )
    left_out = [stored for stored in others if stored.url.startswith(folders)]
    if left_out:
        _warn_of_others(tuple(stored.url for stored in left_out))
    left_out_urls = {stored.url for stored in left_out}
    return [stored for stored in listed if stored.url not in left_out_urls]


@functools.cache
def _warn_of_others(urls: tuple[str, ...]) -> None:
    """Warn once: shards are looked for several times."""
    endings = Counter(url.rpartition("/")[2].rpartition(".")[2] for url in urls)
    listed = ", ".join(f"{count} × .{ending}" for ending, count in endings.most_common(5))
    _log.warning("left out files that are not shards: %s (%s)", listed, urls[0])


def is_dataset(url: str) -> bool:
    """Whether a URL is that of a whole dataset on the hub."""
    return _DATASET.fullmatch(url.rstrip("/")) is not None


def split_of(path: str) -> str | None:
    """Return the split that a path names (train, validation or test), as `datasets` does."""
    words = re.split(r"[^a-z]+", path.lower())
    for split, names in _SPLITS.items():
        if not set(names).isdisjoint(words):
            return split
    return None


def _shards_of_dataset(root: str, is_wanted: Callable[[str], bool]) -> _Shards:
    stored = storage.list_objects(root)
    shards = _shards_among(stored, root, is_wanted)
    readme = join(root, "README.md")
    if shards and any(each.url == readme for each in stored):
        return _training_split(_configuration(shards, _configurations(readme), root), root)
    if shards:
        return _training_split(_infer_splits(shards), root)
    if "@" not in root and (converted := _converted_shards(root + _CONVERTED)):
        _log.info("%s has no shards: the Parquet conversion of the hub is read", root)
        return converted
    endings = Counter(each.url.rpartition("/")[2].rpartition(".")[2] for each in stored)
    listed = ", ".join(f"{count} .{ending}" for ending, count in endings.most_common(5))
    raise InputError(
        f"{root}: no Parquet, tar or Lance files{f', only {listed}' if listed else ''}. Check the"
        " spelling; files of other formats are converted by `attent ingest --convert`"
    )


def _converted_shards(root: str) -> _Shards:
    try:
        shards = _shards_among(storage.list_objects(root), root, is_shard)
    except MissingError:
        return {}
    configurations: dict[str, dict[str, _Shards]] = {}
    for path, stored in shards.items():
        name, split, *_ = [*path.split("/"), ""]
        # The hub converts the beginning of a large dataset only, to `partial-train`.
        splits = configurations.setdefault(name, {})
        splits.setdefault(split.removeprefix("partial-"), {})[path] = stored
    if not configurations:
        return {}
    name = _only(configurations, root, default="default")
    return _training_split(configurations[name], root)


def _shards_among(
    objects: Sequence[ObjectInfo], root: str, is_wanted: Callable[[str], bool]
) -> _Shards:
    """Return the shards by their path below `root`, without hidden files and descriptions."""
    paths = {stored.url.removeprefix(root).strip("/"): stored for stored in objects}
    return {
        path: stored
        for path, stored in paths.items()
        if is_wanted(path)
        and path.rpartition("/")[2] not in _DESCRIPTIONS
        and not any(part.startswith((".", "_")) for part in path.split("/"))
    }


def _configurations(readme: str) -> list[Mapping[str, Any]]:
    """Return the configurations in the front matter of a README."""
    import yaml

    text = storage.read(readme).decode("utf-8", "replace")
    match = re.match(r"\s*---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    try:
        matter = yaml.safe_load(match.group(1)) if match else None
    except yaml.YAMLError as error:
        raise InputError(f"{readme}: its front matter is not YAML: {error}") from error
    configurations = matter.get("configs") if isinstance(matter, dict) else None
    return [each for each in configurations or () if isinstance(each, dict)]


def _configuration(
    shards: _Shards, configurations: Sequence[Mapping[str, Any]], root: str
) -> dict[str, _Shards]:
    """Return the splits of the only configuration, or of the default one."""
    named = {str(each.get("config_name", "default")): each for each in configurations}
    if not named:
        return _infer_splits(shards)
    defaults = [name for name, each in named.items() if each.get("default") is True]
    configuration = named[_only(named, root, default=defaults[0] if defaults else "default")]
    files = configuration.get("data_files")
    if files is None:
        folder = str(configuration.get("data_dir") or "").strip("/")
        inside = {
            path: s for path, s in shards.items() if not folder or path.startswith(f"{folder}/")
        }
        return _infer_splits(inside)
    entries = list(_data_files(files))
    if any(split is not None for split, _ in entries):
        splits: dict[str, _Shards] = {}
        for split, pattern in entries:
            splits.setdefault(split or _TRAIN, {}).update(_matching(shards, pattern, root))
        return splits
    matching: _Shards = {}
    for _, pattern in entries:
        matching |= _matching(shards, pattern, root)
    return _infer_splits(matching)


def _data_files(files: Any) -> Iterator[tuple[str | None, str]]:
    """Yield (split or None, pattern) of `data_files`: text, a list, or lists by split."""
    for entry in files if isinstance(files, list) else [files]:
        if isinstance(entry, dict):
            paths = entry.get("path", ())
            for pattern in paths if isinstance(paths, list) else [paths]:
                yield str(entry.get("split", _TRAIN)), str(pattern)
        else:
            yield None, str(entry)


def _matching(shards: _Shards, pattern: str, root: str) -> _Shards:
    expression = re.compile(_regex(pattern.strip("/")))
    matching = {path: stored for path, stored in shards.items() if expression.fullmatch(path)}
    if not matching:
        raise InputError(
            f"{root}: its README names {pattern}, which matches no Parquet, tar or Lance file. Name"
            " the files themselves"
        )
    return matching


def _regex(pattern: str) -> str:
    """Return the regular expression of a glob in which `**` matches any folders."""
    parts = re.split(r"(\*\*/|\*\*|\*)", pattern)
    regexes = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*"}
    return "".join(regexes.get(part, fnmatch.translate(part)[4:-3]) for part in parts)


def _infer_splits(shards: _Shards) -> dict[str, _Shards]:
    """Return the shards by the split in their paths; without any, all are for training."""
    splits: dict[str, _Shards] = {}
    for path, stored in shards.items():
        splits.setdefault(split_of(path) or "", {})[path] = stored
    return {_TRAIN: shards} if set(splits) == {""} else splits


def _only(configurations: Mapping[str, Any], root: str, *, default: str) -> str:
    if len(configurations) == 1:
        return next(iter(configurations))
    if default in configurations:
        return default
    names = ", ".join(sorted(configurations)[:8])
    raise InputError(
        f"{root} has {len(configurations)} configurations ({names}) and none is the default: name"
        f" the files of one, such as {root}/data/*.parquet"
    )


def _training_split(splits: Mapping[str, _Shards], root: str) -> _Shards:
    """Return the shards of the training split by URL; say what is left out."""
    if _TRAIN not in splits:
        names = ", ".join(sorted(name or "files without a split" for name in splits))
        raise InputError(
            f"{root} has no training split, only {names}: name the files, such as"
            f" {root}/data/*.parquet"
        )
    others = {name or "no": len(shards) for name, shards in splits.items() if name != _TRAIN}
    if others:
        counts = ", ".join(f"{count} of {name} split" for name, count in sorted(others.items()))
        _log.warning("%s: left out shards that are not for training: %s", root, counts)
    return {stored.url: stored for stored in splits[_TRAIN].values()}
