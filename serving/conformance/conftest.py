"""The suite's options, the server that is asked, and the list of differences at the end."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from serving.conformance.asking import SECONDS, Server, configuration, reload_request
from serving.conformance.models import TEMPLATES

_ENVIRONMENT = {
    "--grpc": "CONFORMANCE_GRPC",
    "--rest": "CONFORMANCE_REST",
    "--server": "CONFORMANCE_SERVER",
    "--base-path": "CONFORMANCE_BASE_PATH",
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("the server that is held to TensorFlow Serving's behaviour")
    add, given = group.addoption, {key: os.environ.get(name) for key, name in _ENVIRONMENT.items()}
    add("--grpc", default=given["--grpc"] or "localhost:8500", help="HOST:PORT of gRPC")
    add("--rest", default=given["--rest"] or "localhost:8501", help="HOST:PORT of REST")
    add(
        "--server",
        choices=["embedded", "original"],
        default=given["--server"] or "original",
        help="which server it is: some things the embedded one does otherwise on purpose",
    )
    add(
        "--base-path",
        type=Path,
        default=given["--base-path"] and Path(given["--base-path"]),
        help="the folder that serving.conformance.models wrote, under the same name here and at "
        "the server; without it, cases that change models are skipped",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("embedded_only") and config.getoption("server") == "original":
            item.add_marker(pytest.mark.skip(reason="only the embedded server has this"))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.when == "call" and (why := dict(report.user_properties).get("differs")):
        _SEEN.setdefault(str(why), []).append(report.outcome)


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    kind = config.getoption("server")
    terminalreporter.section("differences on purpose")
    for why, outcomes in sorted(_SEEN.items()):
        held = "as described" if set(outcomes) == {"passed"} else "NOT as described"
        terminalreporter.write_line(f"{kind} server {held}: {why}")


_SEEN: dict[str, list[str]] = {}


@pytest.fixture(autouse=True)
def _note_difference(request: pytest.FixtureRequest) -> None:
    marker = request.node.get_closest_marker("differs")
    if marker is not None:
        request.node.user_properties.append(("differs", marker.args[0]))


@pytest.fixture(scope="session")
def server(pytestconfig: pytest.Config) -> Server:
    option = pytestconfig.getoption
    return Server(option("server"), option("grpc"), option("rest"), option("base_path"))


@pytest.fixture(scope="session")
def folder(server: Server) -> Path:
    """The models' folder."""
    if server.folder is None:
        pytest.skip("needs --base-path, to change models or the configuration")
    return server.folder


@pytest.fixture
def reload(server: Server, folder: Path) -> Iterator[Callable]:
    """Serve another configuration until the test ends."""

    def serve(config, *metrics):
        return server.model.HandleReloadConfigRequest(
            reload_request(config, *metrics), timeout=SECONDS
        )

    yield serve
    serve(configuration(folder))


@pytest.fixture
def scratch(folder: Path) -> Iterator[Path]:
    """A new model's folder; :func:`put_version` puts versions into it."""
    path = folder / "scratch"
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def put_version(folder: Path) -> Callable[[str, Path], None]:
    """Publish a template as a version, at once."""

    def put(template: str, version: Path) -> None:
        beside = version.with_name(f"{version.name}.tmp")
        shutil.copytree(folder / TEMPLATES / template, beside)
        beside.rename(version)

    return put
