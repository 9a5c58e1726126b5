"""Tar files as the webdataset library reads them: headers, samples, columns, compression."""
