"""Endpoints in the environment are URLs of servers, or named with the variable."""

import pytest

from attent_select.errors import InputError
from catalogs import storage
from catalogs.storage.endpoints import check_endpoints


@pytest.mark.parametrize(
    "value",
    ["localhost:9000", "http://", "s3.example.com", "http://host:port", "http:///x", "http://a b"],
)
@pytest.mark.parametrize(
    "name", ["AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3", "AZURE_STORAGE_ENDPOINT"]
)
def test_an_endpoint_that_is_not_a_url_is_named(name: str, value: str) -> None:
    with pytest.raises(InputError, match=f"{name} is "):
        check_endpoints({name: value})


def test_a_credential_in_an_endpoint_is_not_repeated() -> None:
    with pytest.raises(InputError) as error:
        check_endpoints({"AWS_ENDPOINT_URL": "user:secret@host"})
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    "value", ["http://localhost:9000", "https://s3.example.com/", "", "http://[::1]:80"]
)
def test_addresses_of_servers_are_accepted(value: str) -> None:
    check_endpoints({"AWS_ENDPOINT_URL": value, "ENDPOINT": "x"})


def test_every_access_checks_the_endpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost:9000")
    with pytest.raises(InputError, match="AWS_ENDPOINT_URL"):
        storage.info("s3://bucket/key")
