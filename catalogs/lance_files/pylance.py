"""The library pylance: imported here only, when it is used; its errors become ours."""

import contextlib
import re
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa

from attent_select.errors import AttentError, InputError, StorageError, is_panic
from attent_select.extras import missing_extras_named
from catalogs import storage
from catalogs.storage.objects import explain_full_disk, missing_error

# Where in pylance's own source an error was raised.
_PLACE: Final = re.compile(r",? ?\(?/\S+\.rs:\d+:\d+\)?")
_OF_STORAGE: Final = re.compile(r"Generic (S3|GCS|MicrosoftAzure|HTTP) |HTTP error|error sending")
_MISSING: Final = re.compile(r"^Not found|NoSuchKey|No such file")
_OF_LANCE: Final = (OSError, ValueError, RuntimeError, NotImplementedError, pa.ArrowException)


def lance_file() -> Any:
    """Return the module `lance.file`.

    Raises:
        MissingExtraError: pylance is not installed. (The package named `lance` is another one.)
    """
    with missing_extras_named():
        import lance.file
    return lance.file


@contextlib.contextmanager
def lance_errors(url: str, *, hint: str) -> Iterator[None]:
    """Turn errors of pylance about `url` into ours, of one line; `hint` says what to do.

    Raises:
        InputError: pylance cannot read or write the data.
        MissingError: the file was deleted.
        StorageError: storage failed after the retries.
    """
    try:
        with explain_full_disk(url):
            yield
    except AttentError:
        raise
    except _OF_LANCE as error:
        raise _translate(url, error, hint) from error
    except BaseException as error:
        if not is_panic(error):
            raise
        raise _translate(url, error, hint) from error


def _translate(url: str, error: BaseException, hint: str) -> AttentError:
    text = " ".join(_PLACE.sub("", str(error)).split())
    if _MISSING.search(text):
        return missing_error(url)
    if _OF_STORAGE.search(text) and not storage.is_local(url):
        return StorageError(f"{url}: {text}")
    return InputError(f"{url}: {text}. {hint}")
