"""The protocol messages' sources; ``compile`` makes ``messages.binpb`` of them."""
