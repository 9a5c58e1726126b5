"""Liger kernels: which model they are applied to. A package stands in for them: they need a GPU."""

import subprocess
import sys
from pathlib import Path

from commands import ENVIRONMENT

STAND_IN = """
def _apply_liger_kernel_to_instance(model, **config):
    print(type(model).__name__, config)
"""
PROGRAM = """
import copy, sys
sys.path.insert(0, sys.argv[1])
from peft import LoraConfig, get_peft_model
from task_cases import LLAMA
from trainers.hf import HuggingFaceModels
from trainers.hf.training_arguments import check_training_arguments, training_arguments, use_kernels
from trainers.settings import TrainingSettings

model = HuggingFaceModels("AutoModelForCausalLM", LLAMA).build(0)
chosen = {"use_liger_kernel": True, "liger_kernel_config": {"swiglu": False}}
settings = TrainingSettings(arguments=chosen)
check_training_arguments(settings)
assert not training_arguments(settings, use_cpu=True).use_liger_kernel
use_kernels(model, settings)
use_kernels(get_peft_model(model, LoraConfig(target_modules="all-linear")), settings)
use_kernels(model, TrainingSettings())
"""


def test_kernels_replace_layers_of_the_model_itself_also_below_an_adapter(tmp_path: Path) -> None:
    package = tmp_path / "liger_kernel"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "transformers.py").write_text(STAND_IN)
    (tmp_path / "liger_kernel-0.8.5.dist-info").mkdir()
    metadata = "Metadata-Version: 2.1\nName: liger-kernel\nVersion: 0.8.5\n"
    (tmp_path / "liger_kernel-0.8.5.dist-info/METADATA").write_text(metadata)
    tests = str(Path(__file__).parents[3])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)],
        env=ENVIRONMENT | {"PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{tests}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["LlamaForCausalLM {'swiglu': False}"] * 2, done.stderr
