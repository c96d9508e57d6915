"""Cases that hold a server, at any address, to TensorFlow Serving's behaviour."""
