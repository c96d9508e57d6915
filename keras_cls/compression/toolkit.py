"""tensorflow-model-optimization, loaded without a trace."""

import os

_SWITCH = "TF_USE_LEGACY_KERAS"

# Importing it turns tf.keras into tf_keras, in this process (where nobody uses tf.keras) and by the
# environment in all that are started from it (where somebody may).
_before = os.environ.get(_SWITCH)
try:
    import tensorflow_model_optimization as tfmot
finally:
    if _before is None:
        os.environ.pop(_SWITCH, None)
    else:
        os.environ[_SWITCH] = _before

__all__ = ["tfmot"]
