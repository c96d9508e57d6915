"""A SavedModel's signature without a server: ``python -m benchmarks.serving_raw VERSION PHOTO...``.

It runs ``serving_default`` in a v1 Session on batches of the photos, and does so anew for each job,
a line of JSON: ``{"batch": 32, "seconds": 4.0}``.
"""

import itertools
import json
import sys
import time
from pathlib import Path

import numpy as np


def main(version: str, photos: list[bytes]) -> None:
    import tensorflow as tf

    with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
        meta = tf.compat.v1.saved_model.loader.load(session, ["serve"], version)
        signature = meta.signature_def["serving_default"]
        call = session.make_callable(
            [output.name for output in signature.outputs.values()],
            [signature.inputs["image_bytes"].name],
        )
        for line in sys.stdin:
            job = json.loads(line)
            taken = itertools.islice(itertools.cycle(photos), job["batch"])
            images = np.array(list(taken), dtype=object)
            call(images)
            cpu, start, done = time.process_time(), time.perf_counter(), 0
            while (seconds := time.perf_counter() - start) < job["seconds"] or not done:
                call(images)
                done += job["batch"]
            cpu = time.process_time() - cpu
            print(json.dumps({"answers": done, "seconds": seconds, "cpu": cpu}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], [Path(photo).read_bytes() for photo in sys.argv[2:]])
