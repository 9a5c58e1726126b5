"""Credentials in a configuration are found wherever they are; what resembles one is allowed."""

from typing import Any

import pytest

from pipeline.config import credentials

KEY = "AKIA" + "ABCDEFGHIJKLMNOP"
FOUND: list[tuple[Any, str]] = [
    ({"cluster": {"arguments": {"job_script_prologue": ["export HF_TOKEN=abc"]}}}, "job_script_"),
    ({"a": ["module load x", "export AWS_SECRET_ACCESS_KEY='abc'"]}, "a: holds"),
    ({"a": ["--password secret"]}, "a: holds"),
    ({"env": [{"name": "HF_TOKEN", "value": "abc"}]}, "env: the value of HF_TOKEN"),
    ({"env": [{"name": "DB_PASSWORD", "value": 1234}]}, "env: the value of DB_PASSWORD"),
    ({"a": "DefaultEndpointsProtocol=https;AccountName=x;AccountKey=abcdef=="}, "a: holds"),
    ({"a": "Server=x;Password=abcdef;"}, "a: holds"),
    ({"password": 12345}, "password: looks like"),
    ({"a": {"password": ["x"]}}, r"a\.password: looks like"),
    ({"credentials": {"user": "x"}}, "credentials: looks like"),
    ({"secretAccessKey": "x"}, "secretAccessKey: looks like"),
    ({"a": f"-----BEGIN RSA PRIVATE {'KEY'}-----\nMIIE"}, "a: holds"),
    ({"a": KEY}, "a: holds"),
    ({"a": {"b": [f"x {KEY} y"]}}, r"a\.b: holds"),
    ({"a": "hf_" + "a" * 34}, "a: holds"),
    ({"a": "ghp_" + "a" * 36}, "a: holds"),
    ({"a": "https://host/x?key=abc"}, "a: the URL"),
    ({"a": "https://host/x?b=1&X-Amz-Signature=abc"}, "a: the URL"),
    ({"a": "s3://key:secret@bucket/x"}, "a: the URL"),
    ({"a": "https://token@host/x"}, "a: the URL"),
    ({"a": "abfs://user:password@account.dfs.core.windows.net/x"}, "a: the URL"),
    ({"a": "postgresql://user:password@host/db"}, "a: the URL"),
]
ALLOWED: list[Any] = [
    {"corpus": {"shards": ["abfs://container@account.dfs.core.windows.net/x"]}},
    {"a": "abfss://container@account/x", "b": "wasbs://container@account/x"},
    {"a": "sftp://user@host/x"},
    {"job_script_prologue": ["export HF_TOKEN=$HF_TOKEN", 'export X_SECRET="${SECRET}"']},
    {"env": [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hf"}}}]},
    {"env": [{"name": "MODE", "value": "abc"}]},
    {"password": None, "token": True, "api_key": ""},
    {"token": "$TOKEN"},
    {"chat_template_kwargs": {"bos_token": "<s>", "eos_token": "</s>"}, "image_token": "<image>"},
    {"max_token": 5, "num_tokens": 3, "max_tokens": 5, "tokenizer": "folder", "key": "loss"},
    {"where": "num_units > 5 and source = 'password'"},
    {"a": "https://host/x?version=3"},
    {"key_file": "/etc/ssl/key.pem"},
]


@pytest.mark.parametrize(("values", "message"), FOUND)
def test_a_credential_is_found_and_not_repeated(values: Any, message: str) -> None:
    lines = list(credentials.problems(values))
    assert len(lines) == 1
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(lines[0])
    for secret in ("abc", "12345", KEY, "secret@", "MIIE", "password@"):
        assert secret not in lines[0]


@pytest.mark.parametrize("values", ALLOWED)
def test_what_resembles_a_credential_is_allowed(values: Any) -> None:
    assert list(credentials.problems(values)) == []
