"""Storage at any URL: read, read ranges, list, publish, delete.

The only package that imports fsspec and obstore. Local paths are absolute strings; everything else
is `scheme://…`. Credentials come from the environment (`AWS_*`, `GOOGLE_*`, `AZURE_*`), the
endpoint of other S3 servers from `AWS_ENDPOINT_URL`.
"""

from catalogs.storage.access import (
    conditional,
    count_read,
    delete,
    info,
    list_objects,
    publish,
    read,
    read_ranges,
    reader_options,
)
from catalogs.storage.node_cache import NodeCache
from catalogs.storage.objects import ConditionalStorage, ObjectInfo, Range, Storage, Version
from catalogs.storage.read_policy import (
    ReadCost,
    ReadMeter,
    ReadPolicy,
    read_cost,
    request_bytes,
    use_read_policy,
)
from catalogs.storage.retry import is_transient
from catalogs.storage.transfers import (
    delete_all,
    delete_folder,
    download_files,
    download_folder,
    expand,
    leftovers,
    local_copy,
    upload_folder,
)
from catalogs.storage.urls import is_local, normalise

__all__ = [
    "ConditionalStorage",
    "NodeCache",
    "ObjectInfo",
    "Range",
    "ReadCost",
    "ReadMeter",
    "ReadPolicy",
    "Storage",
    "Version",
    "conditional",
    "count_read",
    "delete",
    "delete_all",
    "delete_folder",
    "download_files",
    "download_folder",
    "expand",
    "info",
    "is_local",
    "is_transient",
    "leftovers",
    "list_objects",
    "local_copy",
    "normalise",
    "publish",
    "read",
    "read_cost",
    "read_ranges",
    "reader_options",
    "request_bytes",
    "upload_folder",
    "use_read_policy",
]
