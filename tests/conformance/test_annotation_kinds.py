"""Every kind of annotation passes the conformance suite, on a corpus with gaps."""

from pathlib import Path
from typing import Any

import pytest
from saved_models import save_language_model

from attent_select.plugins import load_plugin, plugin_names
from trainers.annotation import AnnotationKind, Samples
from trainers.inputs.tokenizer import train_tokenizer
from trainers.testing import AnnotationConformance

KINDS = "trainers.annotations"
TEXTS = ["A cat sat.", "a  CAT sat.", None, "", "def f(x): return x", "日本語", "A cat sat.", "x"]
SETTINGS: dict[str, dict[str, Any]] = {
    "column": {"column": "text"},
    "expression": {"expression": "LENGTH(text) - 5"},
}


@pytest.mark.parametrize("name", plugin_names(KINDS), scope="class")
class TestAnnotationKinds(AnnotationConformance):
    @pytest.fixture
    def kind(self, name: str, tmp_path: Path) -> AnnotationKind:
        settings = dict(SETTINGS.get(name, {}))
        if name == "length":
            train_tokenizer(["A cat sat."], tmp_path, vocab_size=300)
            settings["tokenizer"] = str(tmp_path)
        if name in ("loss", "similarity"):
            settings["model"] = str(save_language_model(tmp_path))
        kind: AnnotationKind = load_plugin(KINDS, name)(**settings)
        return kind

    @pytest.fixture
    def rel_tol(self, name: str) -> float:
        return 1e-5 if name in ("loss", "similarity") else 0.0

    @pytest.fixture
    def samples(self) -> Samples:
        return {"text": list(TEXTS)}
