"""What tells one evaluation from another: the classifiers, the data, the protocol."""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_cls.data.datasets import LabelledDataset
from keras_cls.data.opening import fingerprint
from keras_cls.data.pipeline import ImageStream
from keras_cls.data.scanning import ScannedImages
from keras_cls.evaluation.judging import Question
from keras_cls.evaluation.scoring import Member, digest_of


def identity(
    stream: ImageStream, ensembles: Sequence[Sequence[Member]], question: Question
) -> tuple[dict[str, Any], bool]:
    """What is judged and how, and whether an evaluation of it can be gone on with.

    The first is of JSON's own types, by name: classifier, data, protocol.
    """
    jury = [member.scorer for each in ensembles for member in each]
    digests = [digest_of(scorer) for scorer in jury]
    key = {
        "classifier": [
            {
                "digest": digest,
                "labels": hashlib.sha256("\0".join(scorer.labels).encode()).hexdigest(),
                "preprocessing": scorer.preprocessing.to_dict(),
            }
            for scorer, digest in zip(jury, digests, strict=True)
        ],
        "data": content_digest(stream),
        "protocol": {
            **question.protocol.to_dict(),
            "scales": list(question.scales),
            "among": None if question.task.among is None else question.task.among.tolist(),
            "ensembles": [len(each) for each in ensembles],
        },
    }
    return key, None not in digests and not isinstance(stream, LabelledDataset)


def content_digest(stream: ImageStream) -> str:
    """What tells the data from others: names, classes, and sizes and times of files, or pixels."""
    digest = hashlib.sha256(fingerprint(stream).encode())
    if isinstance(stream, ScannedImages) and stream.images.paths is not None:
        for path in stream.images.paths:
            found = path.stat()
            digest.update(f"{found.st_size} {found.st_mtime_ns}\n".encode())
    elif isinstance(stream, ScannedImages) and stream.images.pixels is not None:
        pixels = np.ascontiguousarray(stream.images.pixels)
        digest.update(f"{pixels.shape}".encode())
        digest.update(pixels.data)
    return digest.hexdigest()
