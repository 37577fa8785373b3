"""A million photos on many cores or machines: Ray Data, with Parquet for results (the extra `ray`).

    job = ManyImages(["photos", "s3://bucket/faces/*.parquet"], "results.parquet")
    for part in job.run(workers=2):
        print(part.sources, part.faces, part.errors)

`plan` says what is to do, `stores` reads folders and object stores, `schema` is the record's, `worker` is what runs in
each process, `job` is the whole.
"""

from __future__ import annotations

from facexp.many.job import ManyImages
from facexp.many.schema import record_schema
from facexp.many.stores import ManyError
from facexp.many.worker import Part, Settings

__all__ = ["ManyError", "ManyImages", "Part", "Settings", "record_schema"]
