"""Check tokens and counted tokens of chats and texts against trl and the tokenizers of Mistral.

    python benchmarks/peers/text_parity.py

trl needs packages that this project does not; they are installed into a temporary folder, beside
this environment, whose packages are not changed. Compared are
    markers   trl's training templates: ids and counted tokens, as its SFTTrainer has them
    located   the same templates without markers: the turns that this project locates
    plain     the templates of the models themselves: ids, and that no chat is refused
    mistral   prompts and responses with the SentencePiece tokenizers of mistral-common
Prints one JSON object per comparison. The exit code is 1 if `markers`, `plain` or `mistral` differ;
`located` may: trl also counts parts of the generation prompt of some templates.
"""

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PACKAGES = ("trl==1.16.0", "mistral-common==1.9.1", "sentencepiece", "protobuf")
# What trl imports and this project does not need.
REQUIREMENTS = (
    "datasets==5.2.0",
    "dill==0.4.1",
    "multiprocess==0.70.19",
    "pandas==3.1.1",
    "xxhash",
)

Messages = list[dict[str, Any]]


def chat(*turns: tuple[str, str]) -> Messages:
    return [{"role": role, "content": content} for role, content in turns]


CALL = {"type": "function", "function": {"name": "get", "arguments": {"city": "Rome"}}}
TOOL = {
    "type": "function",
    "function": {
        "name": "get",
        "description": "Weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string", "description": "Name"}},
        },
    },
}
TWO = chat(("user", "hello"), ("assistant", "fine"), ("user", "how are you"), ("assistant", "fine"))
CHATS = {
    "one turn": TWO[:2],
    "system": [*chat(("system", "Be brief.")), *TWO[:2]],
    "two turns": TWO,
    "three turns": [*TWO, *chat(("user", "why"), ("assistant", "a reason\n\nor two"))],
    "thinking": chat(
        ("user", "hi"),
        ("assistant", "<think>\nhm\n</think>\n\nyes"),
        ("user", "so"),
        ("assistant", "<think>\nha\n</think>\n\nno"),
    ),
    "reasoning": [
        {**message, **({"reasoning_content": "hm"} if message["role"] == "assistant" else {})}
        for message in TWO
    ],
    "tools": [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "name": "get", "content": "sunny"},
        {"role": "assistant", "content": "It is sunny."},
    ],
}
TEXTS = (
    "What is 7 + 8?\nAnswer: 15",
    "  two  spaces ",
    "👩‍👩‍👧 שלום\r\nfour",
    "a\x00b",
    "1\n Four",
)


def templates(folder: Path) -> Iterator[tuple[str, str]]:
    for path in sorted(folder.glob("*.jinja")):
        yield path.stem, path.read_text(encoding="utf-8")


def without_markers(template: str) -> str:
    template = re.sub(r"\{%(-?)\s*generation\s*(-?)%\}", r"{%\1 if true \2%}", template)
    return re.sub(r"\{%(-?)\s*endgeneration\s*(-?)%\}", r"{%\1 endif \2%}", template)


def compare_chats(tokenizer_folder: str, folder: Path) -> dict[str, Any]:
    """Return the number of equal and of different chats per comparison."""
    from attent_select.errors import SampleError
    from trainers.hf import load_tokenizer
    from trainers.scoring.token_loss import IGNORED
    from trainers.tasks.causal_lm import CausalLm

    tokenizer: Any = load_tokenizer(tokenizer_folder)
    counts: dict[str, list[str]] = {}

    def note(kind: str, case: str, *, is_equal: bool) -> None:
        equal = counts.setdefault(f"{kind}: equal", [])
        (equal if is_equal else counts.setdefault(f"{kind}: different", [])).append(case)

    for name, template in templates(folder):
        is_training = name.endswith("_training")
        for chat_name, messages in CHATS.items():
            case, tools = f"{name}, {chat_name}", [TOOL] if chat_name == "tools" else None
            try:
                theirs = tokenizer.apply_chat_template(
                    messages,
                    tools=tools,
                    chat_template=template,
                    return_dict=True,
                    return_assistant_tokens_mask=is_training,
                )
            except Exception as error:  # noqa: BLE001  # whatever a template raises
                counts.setdefault("rejected by the template", []).append(f"{case}: {error}")
                continue
            kinds = {"markers": template, "located": without_markers(template)}
            for kind, source in kinds.items() if is_training else [("plain", template)]:
                task = CausalLm(
                    tokenizer=tokenizer_folder,
                    messages="m",
                    tools="t",
                    chat_template=source,
                    max_length=100_000,
                )
                try:
                    item = task.prepare({"m": messages, "t": tools}, generator=None)
                except SampleError:
                    note(kind, case, is_equal=False)
                    continue
                is_equal = item["input_ids"] == theirs["input_ids"]
                if is_training:
                    counted = [int(label != IGNORED) for label in item["labels"]]
                    is_equal = is_equal and counted == theirs["assistant_masks"]
                note(kind, case, is_equal=is_equal)
    return {kind: len(cases) for kind, cases in sorted(counts.items())} | {
        "differences": [
            case for kind, cases in counts.items() if "different" in kind for case in cases
        ]
    }


def compare_texts(model_file: Path, folder: Path) -> dict[str, Any]:
    """Return how many splits of a text into prompt and response have the tokens of the whole."""
    from transformers import LlamaTokenizer

    from trainers.hf import load_tokenizer
    from trainers.tasks.causal_lm import CausalLm

    folder.mkdir()
    (folder / "tokenizer.model").write_bytes(model_file.read_bytes())
    LlamaTokenizer.from_pretrained(folder).save_pretrained(folder)
    tokenizer: Any = load_tokenizer(str(folder))
    task = CausalLm(tokenizer=str(folder), prompt="p", response="r", template="{prompt}")
    equal = different = 0
    for text in TEXTS:
        expected = tokenizer(text, add_special_tokens=False)["input_ids"]
        for cut in range(len(text.rstrip())):
            item = task.prepare({"p": text[:cut], "r": text[cut:]}, generator=None)
            is_equal = item["input_ids"][1:-1] == expected
            equal, different = equal + is_equal, different + (not is_equal)
    return {"equal": equal, "different": different, "tokens": len(tokenizer)}


def main() -> int:
    with tempfile.TemporaryDirectory() as temporary:
        packages = Path(temporary) / "packages"
        command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target"]
        subprocess.run([*command, str(packages), *PACKAGES, *REQUIREMENTS], check=True)
        sys.path.append(str(packages))  # after this environment's own packages
        from trainers.inputs.tokenizer import train_tokenizer

        tokenizer = Path(temporary) / "tokenizer"
        train_tokenizer(["hello fine how are you"], tokenizer, vocab_size=400)
        chats = compare_chats(str(tokenizer), packages / "trl" / "chat_templates")
        print(json.dumps({"chats": chats}, indent=1))
        data = packages / "mistral_common" / "data"
        texts = {
            path.name: compare_texts(path, Path(temporary) / path.name)
            for path in sorted(data.glob("*.model.v*"))
        }
        print(json.dumps({"mistral": texts}, indent=1))
    wrong = [kind for kind in chats if kind in ("markers: different", "plain: different")]
    return int(bool(wrong) or any(splits["different"] for splits in texts.values()))


if __name__ == "__main__":
    sys.exit(main())
