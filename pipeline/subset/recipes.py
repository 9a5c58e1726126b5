"""How others read an export: entries for LLaMA-Factory and axolotl, a line of Python. Pure."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_CHATS = ("messages", "conversations", "conversation")
_TEXTS = ("text", "content")
_PROMPTS = ("prompt", "instruction", "question", "input")
# Names in chats as OpenAI writes them; LLaMA-Factory expects those of ShareGPT by default.
_OPENAI_TAGS = {
    "role_tag": "role",
    "content_tag": "content",
    "user_tag": "user",
    "assistant_tag": "assistant",
    "system_tag": "system",
}
_RESPONSES = ("response", "completion", "output", "answer")


@dataclass(frozen=True)
class Recipes:
    """Texts for other trainers; None where a trainer cannot read the format or the columns."""

    load: str
    llama_factory: str | None = None
    axolotl: str | None = None


@dataclass(frozen=True)
class _Roles:
    """Which columns hold a text, a chat, or a prompt and its response."""

    text: str | None = None
    chat: str | None = None
    prompt: str | None = None
    response: str | None = None


def recipes_of(
    out: str, *, format_name: str, columns: Sequence[str], task: Mapping[str, Any]
) -> Recipes:
    """Return the recipes of an export at `out`.

    `task` is the section of the run's configuration, whose columns count before names that are
    usual for a text, a chat, a prompt or a response.
    """
    load = _load_line(out, format_name)
    roles = _roles(columns, task)
    if format_name not in ("parquet", "jsonl", "hf") or roles == _Roles():
        return Recipes(load)
    return Recipes(load, _llama_factory(out, format_name, roles), _axolotl(out, format_name, roles))


def _load_line(out: str, format_name: str) -> str:
    if format_name == "hf":
        return f'datasets.load_dataset("{out}", split="train")'
    if format_name == "mds":
        place = f'local="{out}"' if "://" not in out else f'remote="{out}", local="/tmp/subset"'
        return f"streaming.StreamingDataset({place}, batch_size=1)"
    name, suffix = {
        "parquet": ("parquet", "parquet"),
        "jsonl": ("json", "jsonl"),
        "webdataset": ("webdataset", "tar"),
    }[format_name]
    files = f'{{"train": "{out}/*.{suffix}"}}'
    return f'datasets.load_dataset("{name}", data_files={files}, split="train")'


def _roles(columns: Sequence[str], task: Mapping[str, Any]) -> _Roles:
    def first(key: str, names: Sequence[str]) -> str | None:
        ordered = [task[key]] if task.get(key) in columns else [n for n in names if n in columns]
        return ordered[0] if ordered else None

    chat = first("messages", _CHATS)
    prompt, response = first("prompt", _PROMPTS), first("response", _RESPONSES)
    if task.get("text") in columns or (not chat and not (prompt and response)):
        return _Roles(text=first("text", _TEXTS))
    if chat and task.get("response") not in columns:
        return _Roles(chat=chat)
    return _Roles(prompt=prompt, response=response) if prompt and response else _Roles()


def _llama_factory(out: str, format_name: str, roles: _Roles) -> str:
    """Return the entry of dataset_info.json."""
    folder = f"{out}/data" if format_name == "hf" else out
    entry: dict[str, Any] = {("cloud_file_name" if "://" in out else "file_name"): folder}
    if roles.chat:
        entry |= {"formatting": "sharegpt", "columns": {"messages": roles.chat}}
        if roles.chat == "messages":
            entry["tags"] = _OPENAI_TAGS
    elif roles.text:
        entry |= {"columns": {"prompt": roles.text}}
    else:
        entry |= {"columns": {"prompt": roles.prompt, "response": roles.response}}
    return json.dumps({_name(out): entry}, indent=2)


def _axolotl(out: str, format_name: str, roles: _Roles) -> str:
    """Return the section `datasets` of a configuration."""
    suffix = "jsonl" if format_name == "jsonl" else "parquet"
    pattern = f"{out}/data/*.{suffix}" if format_name == "hf" else f"{out}/*.{suffix}"
    lines = [
        "datasets:",
        f"  - path: {'json' if suffix == 'jsonl' else 'parquet'}",
        f"    data_files: {pattern}",
        "    split: train",
    ]
    if roles.chat:
        lines += ["    type: chat_template", f"    field_messages: {roles.chat}"]
        if roles.chat != "messages":
            lines += ["    message_property_mappings:", "      role: from", "      content: value"]
    elif roles.text:
        lines += ["    type: completion", f"    field: {roles.text}"]
    else:
        lines += [
            "    type:",
            f"      field_instruction: {roles.prompt}",
            f"      field_output: {roles.response}",
            '      format: "{instruction}"',
            '      no_input_format: "{instruction}"',
        ]
    return "\n".join(lines)


def _name(out: str) -> str:
    base = out.rstrip("/").rpartition("/")[2]
    return "".join(c if c.isalnum() else "_" for c in base) or "subset"
