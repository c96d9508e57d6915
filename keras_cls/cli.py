"""The ``keras-cls`` command: one subcommand a verb.

Exit codes: 0 done, 1 a mistake in the input (one line says which), 2 what the option parser
refuses, 3 nothing that `compress` tried keeps to the budget (what comes nearest is there all the
same), 75 training was told to stop (SIGTERM) or lost a worker, and the same command goes on, 130
interrupted.
"""

import argparse
import json
import logging
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from rich.console import Console
from rich.markdown import Markdown
from rich.table import Table
from rich.text import Text

from keras_cls import __version__
from keras_cls.contract import TOP_K, Prediction
from keras_cls.errors import ConfigError, ImageError, TrainingStoppedError, UserError
from keras_cls.files import write_json
from keras_cls.images import IMAGE_SUFFIXES
from keras_cls.labels import printable
from keras_cls.processor import prefer_onednn
from keras_cls.server.flags import add_flags, serve_flags
from keras_cls.training.supervisor import is_supervised, supervise
from keras_cls.training.tf_config import read_cluster

# The rooms behind the verbs are imported inside the commands: --help and classify need no
# TensorFlow, and start at once.

_ADDRESS = "localhost:8500"
_FILES_AT_ONCE = 32
_MISSED = 3  # the exit code for a budget that cannot be met
_RETRIES = 3  # a person at a terminal would rather know at once
_SORT_KEYS = ["name", "year", "parameters", "size", "multiply-adds", "top-5"]
_IMAGES_HELP = "image files, or folders of them"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one subcommand; returns the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    for name, value in vars(options).items():
        # As an unset variable of a shell gives; the server's flags know it as "not given".
        if options.command is not _serve and (value == "" or value == [""]):
            parser.error(f"{name}: expected something, found an empty text")
    options.arguments = sys.argv[1:] if arguments is None else list(arguments)
    try:
        result: int | None = options.command(options)
        return result or 0
    except UserError as error:
        return _fail(str(error), error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("keras_cls"):
            raise
        return _fail(f"needs {error.name!r}, which is not installed: pip install 'keras-cls[all]'")
    except KeyboardInterrupt as error:
        return _fail(str(error) or "interrupted", code=130)
    except BrokenPipeError:
        # The reader of our output has gone, as in `keras-cls models | head`.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:  # a full disk, a file where a folder should be, no permission
        where = f"{error.filename}: " if error.filename else ""
        return _fail(f"{where}{(error.strerror or str(error)).lower()}")


def _fail(message: str, code: int = 1) -> int:
    sys.stderr.write(f"keras-cls: {message}\n")
    return code


# --- The commands ---------------------------------------------------------------------------


def _models(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.architectures import list_models, model_spec
        from keras_cls.architectures.card import best_top5, card, megabytes
    if options.plot:
        with _quiet_tensorflow():
            from keras_cls.architectures import build_model
            from keras_cls.architectures.drawing import draw
        _print(str(draw(build_model(options.pattern), f"{options.pattern}.svg")))
        return 0
    if options.pattern in list_models():
        Console().print(Markdown(card(model_spec(options.pattern))))
        return 0
    names = list_models(options.pattern)
    if not names:
        raise ConfigError(f"no network matches {options.pattern!r}; `keras-cls models` lists all")
    keys: dict[str, Callable[[Any], Any]] = {
        "name": lambda spec: spec.name,
        "year": lambda spec: (spec.paper.year, spec.name),
        "parameters": lambda spec: spec.params_trainable,
        "size": megabytes,
        "multiply-adds": lambda spec: spec.multiply_adds,
        "top-5": lambda spec: best_top5(spec) or float("inf"),
    }
    table = Table("network", "year", "input", "parameters", "MB", "M mult-adds", "top-5")
    table.box, table.padding = None, (0, 1, 0, 0)
    for column in table.columns:
        column.no_wrap = True
        column.justify = "left" if column is table.columns[0] else "right"
    for spec in sorted(map(model_spec, names), key=keys[options.sort]):
        top5 = best_top5(spec)
        table.add_row(
            spec.name,
            str(spec.paper.year),
            "x".join(map(str, spec.input_shape)),
            f"{spec.params_trainable:,}",
            f"{megabytes(spec):,.1f}",
            f"{spec.multiply_adds / 1e6:,.1f}",
            "" if top5 is None else f"{top5:.1f} %",
        )
    _print(table)
    return 0


def _train(options: argparse.Namespace) -> int:
    cluster = read_cluster(os.environ)
    if cluster is not None and cluster.count > 1 and not is_supervised():
        return _train_in_a_cluster(options)
    with _sigterm_heeded():
        return _train_here(options)


def _train_here(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.training import train
        from keras_cls.training.run_folder import default_run_folder
    # Chosen here, so that an interrupted run can be told how to go on.
    run_dir = options.run_dir or default_run_folder(Path(options.model).name)
    with _going_on(options, run_dir):
        run = train(
            options.model,
            options.data,
            validation=options.validation,
            epochs=options.epochs,
            batch_size=options.batch_size,
            input_shape=options.input_shape,
            weights=options.weights,
            recipe=options.recipe,
            precision=options.precision,
            run_dir=run_dir,
            seed=options.seed,
            strict=options.strict,
            multi_label=options.multi_label or None,
            imbalance=options.imbalance,
            checkpoint_minutes=options.checkpoint_minutes,
            data_service=options.data_service,
            quiet=options.quiet,
        )
    _print(f"classifier  {run.directory / 'classifier'}\nreport      {run.report}")
    return 0


@contextmanager
def _going_on(options: argparse.Namespace, run_dir: str | Path) -> Iterator[None]:
    """Say how what is stopped inside goes on, also where the folder was chosen for the user.

    Such a folder goes again where the run is refused before it begins.
    """
    from keras_cls.training.run_folder import gone_if_unused

    chosen = options.run_dir is None
    again = f"the same command{f' with --run-dir {run_dir}' if chosen else ''} goes on"
    try:
        with gone_if_unused(Path(run_dir), chosen=chosen):
            yield
    except TrainingStoppedError as error:
        if not chosen:
            raise
        raise TrainingStoppedError(f"{error}: add --run-dir {run_dir}", error.signal) from None
    except _Terminated:
        raise TrainingStoppedError(f"stopped by SIGTERM; {again}", signal.SIGTERM) from None
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; {again}") from None


class _Terminated(BaseException):
    """SIGTERM came while nothing was trained. No Exception: nobody on the way is to catch it."""


@contextmanager
def _sigterm_heeded() -> Iterator[None]:
    """Before and after the training loop, which saves first, SIGTERM ends a run as Ctrl-C does."""

    def leave(number: int, frame: FrameType | None) -> NoReturn:
        raise _Terminated

    if (
        threading.current_thread() is not threading.main_thread()
        or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL  # somebody else heeds it
    ):
        yield
        return
    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except _Terminated:
        raise TrainingStoppedError(
            "stopped by SIGTERM before anything was done; the same command begins again",
            signal.SIGTERM,
        ) from None
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _train_in_a_cluster(options: argparse.Namespace) -> int:
    """A worker that is lost ends the others; each comes back by itself."""
    if options.run_dir is None:
        raise ConfigError("several workers need a --run-dir, on a volume that they share")
    state = Path(options.run_dir).expanduser() / "state.json"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # at 2, it repeats itself when one is lost
    logging.basicConfig(format="keras-cls: %(message)s")
    return supervise(
        [sys.executable, "-m", "keras_cls", *options.arguments],
        progress=lambda: state.stat().st_mtime_ns if state.exists() else None,
    )


def _evaluate(options: argparse.Namespace) -> int:
    if options.json is not None:
        _require_file_to_write(Path(options.json))
    try:
        return _judge(options) if options.reproduce is None else _reproduce(options)
    except KeyboardInterrupt:
        again = "; the same command goes on" if options.to else ""
        return _fail(f"interrupted{again}", code=130)


def _require_file_to_write(path: Path) -> None:
    """Before hours of work, whose figures would be lost; and photos are not overwritten."""
    if not path.resolve().parent.is_dir():
        raise ConfigError(f"{path}: there is no such folder to write to")
    if path.suffix.lower() != ".json":
        raise ConfigError(f"{path}: expected the name of a file that ends in .json")
    if path.is_dir():
        raise ConfigError(f"{path}: is a folder; expected the name of a file")


def _judge(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.evaluation import evaluate
    if not options.classifier:
        raise ConfigError("evaluate: give a classifier's folder, or --reproduce NETWORK")
    if options.weights is not None:
        raise ConfigError("evaluate: --weights goes with --reproduce NETWORK")
    result = evaluate(
        options.classifier,
        options.data,
        crops=options.crops,
        scales=options.scales,
        ensemble=not options.separate,
        restrict=options.restrict,
        batch_size=options.batch_size,
        folder=options.to,
        strict=options.strict,
        quiet=options.quiet,
    )
    results = result if isinstance(result, list) else [result]
    if options.json is not None:
        found = [each.to_dict() for each in results]
        write_json(Path(options.json), found if options.separate else found[0])
    for error in results[0].unreadable:
        sys.stderr.write(f"left out: {printable(str(error))}\n")
    for folder, each in zip(options.classifier, results, strict=False):
        _print(f"{folder}\n{each.summary()}" if options.separate else each.summary())
    if options.to is not None:
        pages = "*/evaluation.html" if options.separate else "evaluation.html"
        for page in sorted(Path(options.to).expanduser().glob(pages)):
            _print(f"report: {page}")
    return 0


def _reproduce(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.evaluation.reproduction import reproduce
    if options.classifier:
        raise ConfigError(
            f"evaluate: --reproduce {options.reproduce} measures published weights, --weights "
            f"FILE; without it, {options.classifier[0]} is measured"
        )
    if options.crops != 1 or options.scales or options.restrict or options.separate:
        raise ConfigError(
            "evaluate: --reproduce takes the protocols from the network's card: leave out "
            "--crops, --scales, --restrict and --separate"
        )
    result = reproduce(
        options.reproduce,
        options.data,
        options.weights,
        batch_size=options.batch_size,
        folder=options.to,
        strict=options.strict,
        quiet=options.quiet,
    )
    if options.json is not None:
        write_json(Path(options.json), result.to_dict())
    Console().print(result.table())
    for note in result.notes():
        _print(note)
    return 0


def _pack(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.data.packing import pack
        from keras_cls.evaluation.progress import ImageProgress
    try:
        with ImageProgress("packing the images", quiet=options.quiet) as progress:
            packed = pack(
                options.data,
                options.to,
                validation=options.validation,
                shards=options.shards,
                size=options.size,
                quality=options.quality,
                seed=options.seed,
                strict=options.strict,
                progress=progress,
            )
    except KeyboardInterrupt:
        return _fail("interrupted; the same command goes on", code=130)
    for error in packed.unreadable:
        sys.stderr.write(f"left out: {printable(str(error))}\n")
    for part, count in packed.counts.items():
        _print(f"{part:<12}{count:,} images in {packed.shards[part]:,} shards")
    _print(f"data        {packed.directory}")
    return 0


def _compare(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.training.compare import compare
    _print(f"report: {compare(options.runs, options.to, console=Console())}")
    return 0


def _predict(options: argparse.Namespace) -> int:
    files = _image_files(options.images)
    with _quiet_tensorflow():
        from keras_cls.classifier import load
    classifier = load(options.classifier)
    return _answer_each(
        files,
        lambda batch: classifier.predict(batch, k=options.k, threshold=options.threshold),
        options,
    )


def _export(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.exporting import export
    with _warnings_in_a_line():
        version = export(
            options.classifier,
            options.to,
            format=options.format,
            precision=options.precision,
            calibration=options.calibration,
            calibration_method=options.calibration_method,
            verify=options.verify,
            fallback=options.fallback,
        )
    if options.fallback:
        _print(str(version.with_name(str(int(version.name) - 1))))
    _print(str(version))
    return 0


@contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Without the place in our code where they arise."""

    def show(message: Warning | str, *place: object, **more: object) -> None:
        sys.stderr.write(f"keras-cls: {message}\n")

    with warnings.catch_warnings():
        warnings.simplefilter("default", UserWarning)
        warnings.showwarning = show
        yield


def _compress(options: argparse.Namespace) -> int:
    with _sigterm_heeded():
        return _compress_here(options)


def _compress_here(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.compression.compressing import compress
        from keras_cls.training.run_folder import default_run_folder
    run_dir = options.run_dir or default_run_folder("compressed")
    with _going_on(options, run_dir):
        result = compress(
            options.classifier,
            options.data,
            validation=options.validation,
            precision=options.precision,
            sparsity=options.sparsity,
            clusters=options.clusters,
            epochs=options.epochs,
            batch_size=options.batch_size,
            max_accuracy_drop=options.max_accuracy_drop,
            max_size=options.max_size,
            max_compressed_size=options.max_compressed_size,
            max_latency=options.max_latency,
            run_dir=run_dir,
            seed=options.seed,
            strict=options.strict,
            quiet=options.quiet,
        )
    if options.quiet:
        _print(str(result.artifact))
    else:
        _print(f"version: {result.artifact}")
    return 0 if result.met else _MISSED


def _convert_weights(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.classifier import load
        from keras_cls.weights import create_model
        from keras_cls.weights.converting import convert, network_name
    if options.weights is None:
        model = load(options.classifier).model
    else:
        model = create_model(options.classifier, weights=options.weights)
    file = convert(model, options.to)
    classes, channels = model.output_shape[-1], model.input_shape[-1]
    _print(
        f"{file}\ntimm.create_model({network_name(model)!r}, num_classes={classes}, "
        f"in_chans={channels}, checkpoint_path={str(file)!r})"
    )
    return 0


def _serve(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        import keras_cls.server.lifecycle  # noqa: F401
    serve_flags(options)
    return 0


def _classify(options: argparse.Namespace) -> int:
    from keras_cls.client import Client
    from keras_cls.client.tls import read_credentials

    files = _image_files(options.images)
    if options.k > TOP_K:
        raise ConfigError(f"-k: a server answers with {TOP_K} classes at most, not {options.k}")
    with Client(
        ",".join(options.address or [_ADDRESS]),
        model=options.model,
        timeout=options.timeout,
        retries=_RETRIES,
        credentials=read_credentials(options.tls_ca, options.tls_cert, options.tls_key),
    ) as client:
        return _answer_each(
            files,
            lambda batch: [row[: options.k] for row in client.classify(batch)],
            options,
        )


def _demo(options: argparse.Namespace) -> int:
    with _quiet_tensorflow():
        from keras_cls.demo import run_demo
    run_demo(_console(), directory=options.dir)
    return 0


# --- Their options --------------------------------------------------------------------------


class _HelpFormatter(argparse.ArgumentDefaultsHelpFormatter):
    """Tells defaults, where there is something to tell."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in (None, False, ""):
            return action.help
        return super()._get_help_string(action)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="keras-cls",
        description="From labelled photos to a classification endpoint.",
        epilog="Start with `keras-cls demo`; `keras-cls COMMAND --help` tells more about each.",
    )
    parser.add_argument("--version", action="version", version=f"keras-cls {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], summary: str, example: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            help=summary,
            description=f"{summary[0].upper()}{summary[1:]}.",
            epilog=f"example: {example}",
            formatter_class=_HelpFormatter,
        )
        added.set_defaults(command=run)
        return added

    models = command(
        "models",
        _models,
        "list the networks of the registry, or tell about one",
        "keras-cls models 'resnet*' --sort parameters",
    )
    models.add_argument("pattern", nargs="?", default="*", help="a shell pattern, or one name")
    models.add_argument(
        "--plot", action="store_true", help="draw the network of that name as NAME.svg"
    )
    models.add_argument("--sort", choices=_SORT_KEYS, default="name", help="by what to sort")

    train = command(
        "train",
        _train,
        "train a network on labelled images; with --run-dir, it goes on after a kill",
        "keras-cls train resnet18 --data photos/ --epochs 30 --run-dir runs/pets",
    )
    train.add_argument("model", help="a network's name, or a classifier's or run's folder")
    train.add_argument(
        "--data",
        required=True,
        help="a folder of class folders, a .csv, .tsv or .jsonl manifest, a folder of TFRecord "
        "files, tfds:NAME or 'digits'",
    )
    train.add_argument(
        "--validation",
        type=_validation,
        help="the same, or the share of the data to hold out; else one fifth of each class",
    )
    train.add_argument("--epochs", type=_positive, default=30, help="how often to see each image")
    train.add_argument("--batch-size", type=_positive, help="images a step; else the recipe's")
    train.add_argument(
        "--input-shape", type=_shape, metavar="HxWxC", help="such as 64x64x3; else the published"
    )
    train.add_argument("--weights", help="a file of weights to start from, or a source: timm")
    train.add_argument(
        "--recipe",
        default="auto",
        help="auto; plain, small_gray, small_images, photos, modern, fine_tuning; or a paper's: "
        "lenet5, alexnet, nin, vgg, googlenet, bn_inception, inception_v3, inception_v4, resnet, "
        "resnet_cifar, resnext, senet, senet154, nasnet, nasnet_cifar, airbench94",
    )
    train.add_argument(
        "--precision",
        choices=["auto", "float32", "bfloat16"],
        default="auto",
        help="what layers compute in; auto: bfloat16 where the hardware has it. What is kept is "
        "float32",
    )
    train.add_argument("--run-dir", help="the run's folder; else a new one under runs/")
    train.add_argument("--seed", type=int, default=0, help="what everything random is drawn from")
    train.add_argument("--strict", action="store_true", help="stop at unreadable images")
    train.add_argument(
        "--multi-label", action="store_true", help="an image may have several classes, or none"
    )
    train.add_argument(
        "--imbalance",
        choices=["weights", "resample"],
        help="of uneven classes, let rare ones count as much in the loss, or show them as often",
    )
    train.add_argument(
        "--checkpoint-minutes",
        type=float,
        default=10.0,
        metavar="MINUTES",
        help="the longest time without a checkpoint; there is one after every epoch",
    )
    train.add_argument(
        "--data-service",
        metavar="ADDRESS",
        help="a tf.data service that prepares the batches, grpc://host:port",
    )
    train.add_argument("--quiet", action="store_true", help="show no progress and no result")

    data = command(
        "data", _pack, "work with labelled images", "keras-cls data pack photos/ --to packed/"
    )
    packing = data.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
        "pack",
        help="write images as TFRecord shards",
        description="Write labelled images as TFRecord shards; after a kill the same command goes "
        "on.",
        epilog="example: keras-cls data pack photos/ --to packed/ --size 400",
        formatter_class=_HelpFormatter,
    )
    packing.add_argument("data", help="as for train")
    packing.add_argument("--to", required=True, metavar="FOLDER", help="the folder to write")
    packing.add_argument(
        "--validation", type=_validation, help="as for train; else the data's own part, if any"
    )
    packing.add_argument(
        "--shards", type=_positive, help="files of training images; else about 128 MiB each"
    )
    packing.add_argument(
        "--size",
        type=_positive,
        metavar="PIXELS",
        help="resize larger images to this shorter side",
    )
    packing.add_argument(
        "--quality", type=_positive, default=95, help="of the JPEG files that resizing makes"
    )
    packing.add_argument(
        "--seed", type=int, default=0, help="what order and division are drawn from"
    )
    packing.add_argument("--strict", action="store_true", help="stop at unreadable images")
    packing.add_argument("--quiet", action="store_true", help="show no progress")

    compare = command(
        "compare",
        _compare,
        "compare training runs on one page, finished or not",
        "keras-cls compare runs/pets runs/pets-modern --to comparison.html",
    )
    compare.add_argument("runs", nargs="+", metavar="RUN", help="run folders")
    compare.add_argument("--to", default="comparison.html", help="the page to write")

    evaluate = command(
        "evaluate",
        _evaluate,
        "measure a classifier, or several together, on labelled images",
        "keras-cls evaluate runs/pets --data photos/val --crops 10 --to results/pets",
    )
    evaluate.add_argument(
        "classifier",
        nargs="*",
        help="the folder of a classifier or a run; of several, the probabilities are averaged",
    )
    evaluate.add_argument("--data", required=True, help="as for train, or ILSVRC's folder")
    evaluate.add_argument(
        "--reproduce",
        metavar="NETWORK",
        help="instead of a classifier: measure published weights of a network by the protocols of "
        "its card, beside the paper's figures",
    )
    evaluate.add_argument(
        "--weights",
        metavar="SOURCE_OR_FILE",
        help="for --reproduce: the weights; else those of the first source that publishes a file",
    )
    evaluate.add_argument(
        "--crops",
        type=_crops,
        default=1,
        metavar="1|10|144|dense",
        help="which views of an image are averaged: the centre; AlexNet's 10 crops; GoogLeNet's "
        "144; the network over the whole image, as VGG and ResNet were tested",
    )
    evaluate.add_argument(
        "--scales",
        type=_scales,
        metavar="SIDES",
        help="shorter sides in pixels to resize images to, such as 256,384,512; all are averaged",
    )
    evaluate.add_argument(
        "--restrict",
        action="store_true",
        help="the answer is one of the classes in the data: set the others aside",
    )
    evaluate.add_argument(
        "--separate", action="store_true", help="judge several classifiers each by itself"
    )
    evaluate.add_argument("--batch-size", type=_positive, default=32, help="views at once")
    evaluate.add_argument("--strict", action="store_true", help="stop at unreadable images")
    evaluate.add_argument(
        "--to",
        metavar="FOLDER",
        help="write a report, tables and predictions there; with it, the same command goes on "
        "after a kill",
    )
    evaluate.add_argument("--json", metavar="FILE", help="write all results there as well")
    evaluate.add_argument("--quiet", action="store_true", help="show no progress")

    predict = command(
        "predict", _predict, "classify image files here", "keras-cls predict runs/pets cat.jpg"
    )
    predict.add_argument("classifier", help="the folder of a classifier or a run")
    predict.add_argument(
        "-k",
        type=_positive,
        help="classes to show, best first; else 5, or all that reach --threshold",
    )
    predict.add_argument(
        "--threshold",
        type=float,
        metavar="SHARE",
        help="leave out classes of a lower probability; of a multi-label classifier, 0.5 keeps "
        "what is more likely there than not",
    )
    _add_image_options(predict)

    export = command(
        "export",
        _export,
        "publish a classifier as the next version of a model",
        "keras-cls export runs/pets --to models/pets",
    )
    export.add_argument("classifier", help="the folder of a classifier or a run")
    export.add_argument("--to", required=True, help="the model's folder, such as models/pets")
    export.add_argument(
        "--format",
        default="saved_model",
        choices=["saved_model", "litert"],
        help="for TensorFlow Serving, or one model.tflite for phones and small computers",
    )
    export.add_argument(
        "--precision",
        default="float32",
        choices=["float32", "bfloat16", "int8", "dynamic"],
        help="what the network computes in; bfloat16 halves the file, and is twice as fast where "
        "the processor has it; int8 quarters it and is three to four and a half times as fast as "
        "Keras' own, on x86; dynamic (LiteRT) has weights in bytes",
    )
    export.add_argument(
        "--calibration",
        metavar="DATA",
        help="images such as the model will see, for int8: as for train, or a folder of images "
        "(default: the sample kept with the classifier)",
    )
    export.add_argument(
        "--calibration-method",
        default="mse",
        choices=["max", "percentile", "mse", "entropy"],
        help="where the steps of a byte end",
    )
    export.add_argument(
        "--verify",
        default="strict",
        choices=["strict", "report"],
        help="refuse to publish an export that does not agree with the model, or only report it",
    )
    export.add_argument(
        "--fallback",
        action="store_true",
        help="publish float32 as well, one version before, for servers that cannot run int8",
    )

    compress = command(
        "compress",
        _compress,
        "find the smallest and fastest form of a classifier within a budget",
        "keras-cls compress runs/pets --data photos/ --run-dir runs/small --max-size 2MB",
    )
    compress.add_argument("classifier", help="the folder of a classifier or a run")
    compress.add_argument(
        "--data", required=True, help="as for train: to train on and to calibrate int8 with"
    )
    compress.add_argument(
        "--validation",
        type=_validation,
        help="the same, or the share of the data to hold out, to measure accuracy on; else one "
        "fifth of each class",
    )
    compress.add_argument(
        "--precision",
        nargs="+",
        default=["float32", "bfloat16", "int8"],
        choices=["float32", "bfloat16", "int8"],
        help="of the exports",
    )
    compress.add_argument(
        "--sparsity",
        nargs="*",
        type=float,
        default=[0.5, 0.8],
        metavar="SHARE",
        help="shares of zeros to prune to; none with nothing behind it",
    )
    compress.add_argument(
        "--clusters",
        nargs="*",
        type=int,
        default=[32],
        metavar="COUNT",
        help="numbers of values that a kernel may have; none with nothing behind it",
    )
    compress.add_argument(
        "--epochs", type=int, default=2, help="how long each technique trains; 0: only exports"
    )
    compress.add_argument("--batch-size", type=_positive, default=128, help="images a step")
    compress.add_argument(
        "--max-accuracy-drop",
        type=float,
        default=0.01,
        metavar="SHARE",
        help="what may be lost; 0.01 is one point",
    )
    compress.add_argument(
        "--max-size", type=_bytes, metavar="SIZE", help="of the SavedModel's files, such as 2MB"
    )
    compress.add_argument(
        "--max-compressed-size", type=_bytes, metavar="SIZE", help="of the same, packed as .tar.xz"
    )
    compress.add_argument(
        "--max-latency", type=float, metavar="MS", help="milliseconds for one image on this machine"
    )
    compress.add_argument(
        "--run-dir", help="where all goes, to go on after a kill; else a new folder under runs/"
    )
    compress.add_argument("--seed", type=int, default=0, help="what is random is drawn from it")
    compress.add_argument("--strict", action="store_true", help="stop at unreadable images")
    compress.add_argument("--quiet", action="store_true", help="print the chosen version only")

    weights = command(
        "weights",
        _convert_weights,
        "work with files of weights",
        "keras-cls weights convert runs/pets --to pets.safetensors",
    )
    convert = weights.add_subparsers(title="commands", metavar="COMMAND", required=True).add_parser(
        "convert",
        help="write a network's weights for timm",
        description="Write a network's weights as safetensors with timm's names.",
        epilog="example: keras-cls weights convert runs/pets --to pets.safetensors",
        formatter_class=_HelpFormatter,
    )
    convert.add_argument(
        "classifier",
        metavar="CLASSIFIER",
        help="the folder of a classifier or a run; with --weights, a network's name",
    )
    convert.add_argument("--weights", help="a file of that network's weights, or a source's name")
    convert.add_argument("--to", required=True, metavar="FILE", help="such as pets.safetensors")

    serve = command(
        "serve",
        _serve,
        "serve a model by gRPC, with TensorFlow Serving's API and flag names",
        "keras-cls serve --model_base_path models/pets --port 8500",
    )
    # Its flags need no TensorFlow, which is not to be loaded for the others' sake.
    add_flags(serve)

    classify = command(
        "classify",
        _classify,
        "ask a running server about image files",
        "keras-cls classify cat.jpg --model pets --address localhost:8500",
    )
    classify.add_argument("--model", required=True, help="the model's name on the server")
    classify.add_argument(
        "--address",
        action="append",
        help=f"host and port (default: {_ADDRESS}); several servers, with commas or an --address "
        "each, take turns",
    )
    classify.add_argument("--timeout", type=float, default=10.0, help="seconds a call")
    classify.add_argument(
        "--tls-ca",
        metavar="FILE",
        help="certificates (PEM) that vouch for the server; turns TLS on",
    )
    classify.add_argument(
        "--tls-cert", metavar="FILE", help="this client's certificate, for servers that ask for one"
    )
    classify.add_argument("--tls-key", metavar="FILE", help="its private key")
    classify.add_argument("-k", type=_positive, default=5, help="classes to show, best first")
    _add_image_options(classify)

    demo = command(
        "demo",
        _demo,
        "digits to LeNet-5 to SavedModel to gRPC answers, in one go",
        "keras-cls demo",
    )
    demo.add_argument("--dir", type=Path, help="where to write; else a new folder under runs/")
    return parser


def _add_image_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("images", nargs="+", help=_IMAGES_HELP)
    parser.add_argument("--json", action="store_true", help="one JSON object a line")


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number of 1 or more, not {text!r}")
    return int(text)


def _shape(text: str) -> tuple[int, ...]:
    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"must look like 64x64x3, not {text!r}")
    return tuple(map(int, parts))


def _crops(text: str) -> int | str:
    if text not in ("1", "10", "144", "dense"):
        raise argparse.ArgumentTypeError(f"must be 1, 10, 144 or dense, not {text!r}")
    return int(text) if text.isdecimal() else text


def _scales(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"must look like 256,384,512, not {text!r}")
    return tuple(map(int, parts))


_UNITS = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "KIB": 2**10, "MIB": 2**20, "GIB": 2**30}


def _bytes(text: str) -> float:
    number = text.upper().rstrip("BKMGI")
    try:
        return float(number) * _UNITS[text.upper()[len(number) :].strip() or "B"]
    except (KeyError, ValueError):
        raise argparse.ArgumentTypeError(f"must look like 500kB or 2MB, not {text!r}") from None


def _validation(text: str) -> str | float:
    try:
        return float(text)
    except ValueError:
        return text


# --- What they share ------------------------------------------------------------------------


def _image_files(paths: Iterable[str]) -> list[Path]:
    """The files named, and those within the folders named."""
    files: list[Path] = []
    for path in map(Path, paths):
        if not path.is_dir():
            files.append(path)
            continue
        inside = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in IMAGE_SUFFIXES
            and not file.name.startswith(".")
            and file.is_file()
        )
        if not inside:
            raise ConfigError(f"{path}: there is no image file in this folder")
        files.extend(inside)
    return files


def _answer_each(
    files: Sequence[Path],
    answer: Callable[[Sequence[Path]], list[list[Prediction]]],
    options: argparse.Namespace,
) -> int:
    """Print the answer for each file; a file that cannot be read is named, the others go on."""
    failures = 0
    for start in range(0, len(files), _FILES_AT_ONCE):
        batch = files[start : start + _FILES_AT_ONCE]
        try:
            rows: list[list[Prediction] | ImageError] = [*answer(batch)]
        except ImageError:
            rows = [_answer_or_error(file, answer) for file in batch]
        for file, row in zip(batch, rows, strict=True):
            if isinstance(row, ImageError):
                failures += 1
                sys.stderr.write(f"keras-cls: {printable(str(row))}\n")
            else:
                _print_answer(file, row, as_json=options.json)
    return 1 if failures else 0


def _answer_or_error(
    file: Path, answer: Callable[[Sequence[Path]], list[list[Prediction]]]
) -> list[Prediction] | ImageError:
    try:
        return answer([file])[0]
    except ImageError as error:
        return error


def _print_answer(file: Path, predictions: list[Prediction], as_json: bool) -> None:
    if as_json:
        rows = [{"label": p.label, "score": p.score} for p in predictions]
        sys.stdout.write(json.dumps({"file": str(file), "predictions": rows}) + "\n")
        return
    _print(Text(printable(str(file)), style="bold"))
    for prediction in predictions:
        _print(f"  {prediction.score:7.2%}  {prediction.label}")


def _console() -> Console:
    return Console(soft_wrap=True)


def _print(content: Any) -> None:
    _console().print(content, highlight=False, markup=False)


@contextmanager
def _quiet_tensorflow() -> Iterator[None]:
    """Keep TensorFlow's start-up notes off the terminal; where its import fails, show them.

    They are written by its native code, before any log level of its own applies. At 3 it keeps
    quiet of operations that oneDNN does not take as well, which it calls errors; what does go wrong
    is raised.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        raise ConfigError(
            f"KERAS_BACKEND is {os.environ['KERAS_BACKEND']!r}; keras_cls needs 'tensorflow'"
        )
    os.environ["KERAS_BACKEND"] = "tensorflow"
    prefer_onednn()
    import tempfile

    sys.stderr.flush()
    terminal = os.dup(2)
    with tempfile.TemporaryFile() as notes:
        os.dup2(notes.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices()  # looks for GPUs, and complains where there are none
            yield
        except BaseException:
            notes.seek(0)
            os.write(terminal, notes.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
