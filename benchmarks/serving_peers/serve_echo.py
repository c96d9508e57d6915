"""The least that gRPC costs in Python: ``python serve_echo.py PORT`` answers at once."""

import asyncio
import sys

import grpc

METHOD = "/echo.Echo/Answer"
ANSWER_BYTES = 200  # as long as five classes and scores


async def answer(request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    return request[:ANSWER_BYTES]


async def main(port: int) -> None:
    server = grpc.aio.server()
    _, service, method = METHOD.split("/")
    handlers = {method: grpc.unary_unary_rpc_method_handler(answer)}
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(service, handlers)])
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
