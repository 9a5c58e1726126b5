"""Groups of parameters by name: q, k, v, mlp, adapters or other."""

import re
from typing import Final

# In the order in which they are shown. `qkv` is one matrix for all three, in models that have it.
GROUPS: Final = ("q", "k", "v", "qkv", "mlp", "adapters", "other")

_ADAPTER: Final = re.compile(r"(^|\.)(lora_|modules_to_save\.)")
_PARTS: Final = {
    "q": re.compile(r"q|q_proj|q_lin|query|query_proj|W_Q"),
    "k": re.compile(r"k|k_proj|k_lin|key|key_proj|W_K"),
    "v": re.compile(r"v|v_proj|v_lin|value|value_proj|W_V"),
    "qkv": re.compile(
        r"qkv|qkv_proj|c_attn|query_key_value|queries_keys_values|Wqkv|in_proj_(weight|bias)"
    ),
    "mlp": re.compile(
        r"mlp|ffn|feed_forward|feedforward|intermediate|fc[12]|lin[12]|linear[12]"
        r"|(up|gate|down|gate_up)_proj|c_fc|wi|wo|dense_(h_to_4h|4h_to_h)"
    ),
}


def group_of(name: str) -> str:
    """Return the group of a parameter by its dotted name.

    The feed-forward layer counts as `mlp` with both of its matrices, also where (as in ViT and
    BERT) the second is only called `output.dense`.
    """
    if _ADAPTER.search(name):
        return "adapters"
    parts = name.split(".")
    for group, pattern in _PARTS.items():
        if any(pattern.fullmatch(part) for part in parts):
            return group
    is_second = parts[-3:-1] == ["output", "dense"] and "attention" not in parts[-4:-3]
    return "mlp" if is_second else "other"
