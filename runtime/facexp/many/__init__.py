"""Analyse millions of photos on many cores or machines with Ray Data; results in Parquet (the extra `ray`).

    job = ManyImages(["photos", "s3://bucket/faces/*.parquet"], "results.parquet")
    for part in job.run(workers=2):
        print(part.sources, part.faces, part.errors)

`plan` lists the sources and divides them into parts, `stores` reads folders and object stores, `content` gives workers
the sources' content, `schema` is the Arrow schema of the records, `parts` writes the files of parts, `attempts` counts
the attempts at each part, `worker` runs in each process, and `job` is the whole job.
"""

from __future__ import annotations

from facexp.many.job import ManyImages
from facexp.many.schema import record_schema
from facexp.many.stores import ManyError
from facexp.many.worker import Part, Settings

__all__ = ["ManyError", "ManyImages", "Part", "Settings", "record_schema"]
