"""A gRPC server over HTTP/2 on asyncio, made for many small calls (RFC 9113, RFC 7541)."""

from keras_cls.server.http2.server import GrpcServer

__all__ = ["GrpcServer"]
