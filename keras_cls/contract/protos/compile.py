"""Compile the .proto files beside this module to ``messages.binpb`` (``make protos``).

The result is a serialized ``FileDescriptorSet`` rather than generated Python: generated modules
register themselves in protobuf's process-wide pool, where TensorFlow's own messages of the same
names would clash with them. Needs grpcio-tools; using the compiled messages does not.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

PROTOS = Path(__file__).parent
COMPILED = PROTOS / "messages.binpb"


def compiled_messages() -> bytes:
    """The ``FileDescriptorSet`` of the .proto files as they are now, dependencies first.

    The well-known types of ``google.protobuf`` are left out: every protobuf runtime has them.

    Raises:
        RuntimeError: a file does not compile; the compiler's words are on stderr.
    """
    root = PROTOS.parents[2]
    sources = sorted(path.relative_to(root).as_posix() for path in PROTOS.glob("*.proto"))
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / "messages.binpb"
        # In a process of its own: grpcio-tools beside TensorFlow in one crashes both.
        compiler = [sys.executable, "-m", "grpc_tools.protoc"]
        arguments = [f"-I{root}", f"--descriptor_set_out={output}", *sources]
        if subprocess.run([*compiler, *arguments], check=False).returncode != 0:
            raise RuntimeError("the .proto files do not compile")
        return output.read_bytes()


def main() -> None:
    """Write ``messages.binpb`` anew."""
    COMPILED.write_bytes(compiled_messages())
    sys.stdout.write(f"wrote {COMPILED}\n")


if __name__ == "__main__":
    main()
