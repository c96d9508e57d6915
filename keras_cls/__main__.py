"""``python -m keras_cls`` is the ``keras-cls`` command."""

import sys

from keras_cls.cli import main

sys.exit(main())
