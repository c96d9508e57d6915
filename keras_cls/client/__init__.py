"""Ask prediction services, ours or TensorFlow Serving, about images. Needs no TensorFlow.

What is asked and what an answer means is written once, as generators that hand out calls and
pauses and know nothing of threads or event loops (:mod:`keras_cls.client.conversation`);
:class:`Client` and :class:`AsyncClient` only carry them out.
"""

from keras_cls.client.asynchronous import AsyncClient
from keras_cls.client.blocking import Client

__all__ = ["AsyncClient", "Client"]
