"""The regime `crawl_images` of benchmarks/learning.py: its corpus, its annotations, its arms."""

import sys
from pathlib import Path

import polars as pl
import pytest

from catalogs import AnnotationStore
from pipeline.config import run_config
from pipeline.demo import data as demo_data

ROOT = Path(__file__).parents[2]
sys.path.append(str(ROOT / "benchmarks"))

from learning import settings_of  # noqa: E402
from learning_arms.crawl.images import crawl_images  # noqa: E402
from learning_arms.regime import Data, Regime  # noqa: E402
from learning_arms.regimes import regimes  # noqa: E402

ONE, SEVEN = 1, 7


def target(_: Path) -> pl.DataFrame:
    """Only ones and sevens are wanted."""
    _, test = (pl.DataFrame(rows) for rows in demo_data.digits(seed=0))
    return test.filter(pl.col("label").is_in([ONE, SEVEN])).select("image")


@pytest.fixture(scope="module")
def regime() -> Regime:
    return crawl_images(regimes(gpu=False)["digits"], target=target)


@pytest.fixture(scope="module")
def data(regime: Regime, tmp_path_factory: pytest.TempPathFactory) -> Data:
    folder = tmp_path_factory.mktemp("images")
    return regime.data(folder, folder / "data")


def test_images_like_those_of_the_target_have_larger_log_odds(data: Data) -> None:
    store = AnnotationStore(data.sections["corpus"]["path"])
    values = store.scan(store.read("wanted")).frame().sort("row").collect()
    is_wanted = pl.read_parquet(data.train)["label"].is_in([ONE, SEVEN])
    top = values["value"].arg_sort(descending=True)[: int(is_wanted.sum())]
    assert is_wanted[top].mean() > 2 * is_wanted.mean()


def test_everything_is_counted(data: Data) -> None:
    assert set(data.costs) == {"near_duplicates", "wanted", "is_wanted"}
    # With the model that it was measured by.
    assert data.costs["wanted"] > data.costs["is_wanted"]


def test_every_arm_is_a_configuration(regime: Regime, data: Data, tmp_path: Path) -> None:
    for name, arm in regime.arms().items():
        settings = settings_of(regime, data, arm, run=tmp_path / "run", seed=0)
        assert run_config.parse(settings).seed == 0, name
