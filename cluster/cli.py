"""The command line: ``embedfleet`` and its commands."""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Sequence
from importlib.metadata import version

from cluster.arguments import (
    DEFAULT_CONFIG,
    DEFAULT_URL,
    add_encode_arguments,
    add_score_arguments,
    default_config,
    port,
    positive,
    service_url,
    threads,
)
from cluster.parser import Parser
from cluster.plan.arguments import add_plan_arguments

_BROKEN_PIPE = 141  # as a process that SIGPIPE ends


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    args = _parser().parse_args(argv)
    try:
        status: int = args.run(args)
        sys.stdout.flush()
    except BrokenPipeError:  # who reads the output has ended, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for the flush at exit
        return _BROKEN_PIPE
    return status


def _parser() -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = Parser(
        prog="embedfleet", description="One embedding service on Ray"
    )
    parser.add_argument("--version", action="version", version=version("embedfleet"))
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    _add_serve(commands)
    _add_env(commands)
    _add_encode(commands)
    _add_score(commands)
    _add_batch(commands)
    _add_models(commands)
    _add_check(commands)
    _add_verify(commands)
    _add_bench(commands)
    _add_plan(commands)
    return parser


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    serve = commands.add_parser(
        "serve",
        help="start the service, and stop it again on Ctrl-C",
        description="Starts the service, on the Ray of RAY_ADDRESS or `ray start` if there is one, "
        "else on one of its own, and stops it again on Ctrl-C. Where Ray Serve runs already, "
        "`serve deploy CONFIG` replaces what it serves.",
    )
    what = serve.add_mutually_exclusive_group()
    what.add_argument(
        "config",
        nargs="?",
        default=default_config(),
        help=f"a Ray Serve config file (default: {DEFAULT_CONFIG} of this folder, else the bundled "
        "model)",
    )
    what.add_argument(
        "--model",
        action="append",
        metavar="NAME",
        help="in place of a config: a model of the catalog, a hub id, or a folder in "
        "sentence-transformers format; may be repeated",
    )
    serve.add_argument(
        "--path",
        choices=("auto", "haproxy", "python"),
        default="auto",
        help="the way into the service: HAProxy where it is to be had, or Serve's own proxy",
    )
    _add_model_options(serve)
    _add_listening(serve)
    serve.set_defaults(run=_serve)


def _add_model_options(serve: argparse.ArgumentParser) -> None:
    group = serve.add_argument_group("with --model (a config has fields of these names)")
    group.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float16"))
    group.add_argument(
        "--threads", type=threads, metavar="N", help="threads of each model on a CPU, or auto"
    )
    group.add_argument(
        "--truncate",
        action="store_true",
        help="cut texts over a model's limit, unless a request says otherwise",
    )


def _add_listening(serve: argparse.ArgumentParser) -> None:
    where = serve.add_argument_group("where to listen")
    where.add_argument("--host", help="default: the config's, else 127.0.0.1")
    where.add_argument("--port", type=port, metavar="N", help="default: the config's, else 8000")
    where.add_argument(
        "--allow-anyone",
        action="store_true",
        help="listen where other machines can call, even without API keys (EMBEDFLEET_API_KEYS)",
    )


def _add_env(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    env = commands.add_parser(
        "env",
        help='what to set where Ray starts: eval "$(embedfleet env)"',
        description="Prints what to set in the shell that starts Ray, on each machine, and in those "
        'that call `serve` or `embedfleet encode`: eval "$(embedfleet env)".',
    )
    env.add_argument(
        "--max-requests",
        type=positive,
        metavar="N",
        help="limits.max_requests of the config that will run there, if it sets one",
    )
    env.add_argument(
        "--request-timeout-s",
        type=float,
        metavar="SECONDS",
        help="limits.request_timeout_s of that config, if it sets one",
    )
    env.set_defaults(run=_env)


def _add_encode(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    encode = commands.add_parser(
        "encode",
        help="encode a corpus through a running service",
        description="Encodes the texts of files through a running service, behind its live traffic, and "
        "writes their vectors. A job that was stopped continues when its command is run again.",
    )
    add_encode_arguments(encode)
    encode.set_defaults(run=_corpus_job, scores=False)


def _add_score(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    score = commands.add_parser(
        "score",
        help="score pairs of queries and documents with a reranker of a running service",
        description="Scores the pairs of texts in files with a reranker of a running service, behind its "
        "live traffic. A job that was stopped continues when its command is run again.",
    )
    add_score_arguments(score)
    score.set_defaults(run=_corpus_job, scores=True)


def _add_batch(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    batch = commands.add_parser(
        "batch",
        help="have a running service answer a file of requests, and fetch the results",
        description="Sends a file of requests as OpenAI's Batch API takes them, shows the progress, and "
        "fetches the results. The service goes on if the command is stopped; --id continues to watch.",
    )
    what = batch.add_mutually_exclusive_group(required=True)
    what.add_argument("file", nargs="?", metavar="FILE.jsonl", help="a request for each line")
    what.add_argument("--id", metavar="BATCH", help="a batch that was sent before")
    batch.add_argument(
        "--output",
        metavar="FILE",
        help="where the results go (default: FILE.output.jsonl or BATCH.output.jsonl); lines with an "
        "error go to a file beside it that ends in .errors.jsonl",
    )
    _add_connection(batch)
    batch.set_defaults(run=_batch)


def _add_models(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    models = commands.add_parser(
        "models",
        help="show the models of a running service",
        description="Shows the models of a running service, and the spaces that some of them share.",
    )
    models.add_argument(
        "--catalog",
        action="store_true",
        help="show the models known by name instead, without a service",
    )
    _add_connection(models)
    models.set_defaults(run=_models)


def _add_check(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = commands.add_parser(
        "check",
        help="say what would be served of a model, or whether a config is valid; needs no service",
        description="Says whether a model is supported and what it would read, from its tokenizer and "
        "configuration files; or validates a config as `embedfleet serve` does.",
    )
    check.add_argument(
        "what",
        metavar="MODEL_OR_CONFIG",
        help="a name of the catalog, a hub id, a folder in sentence-transformers format, or a config",
    )
    check.add_argument("--revision", metavar="COMMIT", help="default: the catalog's, or the newest")
    check.add_argument(
        "--weights",
        action="store_true",
        help="load the model, too, and compare its vectors with sentence-transformers",
    )
    check.set_defaults(run=_check)


def _add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    verify = commands.add_parser(
        "verify",
        help="run the model cards' published examples against a running service",
        description="Encodes the examples of model cards with a running service, and compares the scores "
        "with the published ones. The exit status is 1 if they differ.",
    )
    verify.add_argument("model", nargs="?", help="one model (default: all that are ready)")
    _add_connection(verify)
    verify.set_defaults(run=_verify)


def _add_bench(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    bench = commands.add_parser(
        "bench",
        help="measure how fast this machine encodes with a model; needs no service",
        description="Measures the tokens per second of a model on this machine, for texts of several "
        "lengths, and compares its vectors with sentence-transformers. Stop a service that runs here.",
    )
    bench.add_argument(
        "model",
        nargs="?",
        default="all-minilm-l6-v2",
        help="a name of the catalog, a hub id, or a folder (default: the bundled %(default)s)",
    )
    bench.add_argument("--revision", metavar="COMMIT", help="default: the catalog's, or the newest")
    bench.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    bench.add_argument(
        "--dtype", choices=("auto", "float32", "bfloat16", "float16"), default="auto"
    )
    bench.add_argument(
        "--threads", type=positive, metavar="N", help="of a CPU (default: all cores)"
    )
    bench.add_argument(
        "--seconds", type=float, default=3.0, metavar="S", help="for each length (default: 3)"
    )
    bench.add_argument("--json", action="store_true", help="print the report as JSON")
    bench.set_defaults(run=_bench)


def _add_plan(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = commands.add_parser(
        "plan",
        help="say what a corpus or recorded traffic needs; needs no service",
        description="Says how many replicas a corpus needs for a deadline or a budget, and what that "
        "takes and costs; or simulates recorded traffic with the service's autoscaling.",
    )
    add_plan_arguments(plan)
    plan.set_defaults(run=_plan)


def _add_connection(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--url",
        type=service_url,
        default=os.environ.get("EMBEDFLEET_URL", DEFAULT_URL),
        help=f"the service, such as 127.0.0.1:8000 (default: EMBEDFLEET_URL, or {DEFAULT_URL})",
    )
    parser.add_argument(
        "--api-key",
        default=os.environ.get("EMBEDFLEET_API_KEY"),
        help="better set EMBEDFLEET_API_KEY: arguments are seen by other users of the machine",
    )


def _serve(args: argparse.Namespace) -> int:
    from cluster.service.serve import serve

    if not args.model:
        if option := _option_of_model(args):
            return _fail(ValueError(f"{option} goes with --model; set it in {args.config}"), 2)
        return serve(args.config, args.path, args.host, args.port, allow_anyone=args.allow_anyone)
    from cluster.service.config_file import written
    from cluster.service.quick_config import Options, as_yaml, this_machine

    options = Options(args.dtype, args.threads, args.truncate)
    try:
        config = as_yaml(args.model, this_machine, options)
    except ValueError as error:
        return _fail(error, 2)
    print(f"embedfleet: --model stands for this config:\n\n{config}", flush=True)
    with written(config) as file:
        return serve(str(file), args.path, args.host, args.port, allow_anyone=args.allow_anyone)


def _option_of_model(args: argparse.Namespace) -> str | None:
    given = {"--dtype": args.dtype, "--threads": args.threads, "--truncate": args.truncate}
    return next((name for name, value in given.items() if value), None)


def _env(args: argparse.Namespace) -> int:
    from cluster.service.config_file import ConfigError, Ingress
    from cluster.service.environment import shell_environment

    limits = {"max_requests": args.max_requests, "request_timeout_s": args.request_timeout_s}
    given = {name: value for name, value in limits.items() if value is not None}
    try:
        environment = shell_environment(Ingress(host=None, port=8000, **given))
    except ConfigError as error:
        return _fail(error)
    for name, value in environment.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _corpus_job(args: argparse.Namespace) -> int:
    # both have to be set before Ray is imported: what its core writes to the terminal is for its
    # operators, and a thread of Ray Data that outlives our connection would start a cluster
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    os.environ.setdefault("RAY_ENABLE_AUTO_CONNECT", "0")
    from deployments.core.engine.cpu.priority import give_way

    if not args.start:  # else once the service runs, which would come last, too
        give_way()
    from cluster.corpus.command import run

    return run(args)


def _batch(args: argparse.Namespace) -> int:
    from cluster.service.batch import run
    from cluster.service.http import Service, ServiceError

    try:
        return run(Service(args.url, args.api_key), args.file, args.id, args.output)
    except (ServiceError, OSError) as error:
        return _fail(error)


def _models(args: argparse.Namespace) -> int:
    if args.catalog:
        from cluster.service.tables import catalog_table

        print(catalog_table())
        return 0
    from cluster.service.http import Service, ServiceError
    from cluster.service.tables import models_table, spaces_table

    try:
        service = Service(args.url, args.api_key)
        print(models_table(service.models()))
        if spaces := service.spaces():
            print(f"\n{spaces_table(spaces)}")
    except ServiceError as error:
        return _fail(error)
    return 0


def _check(args: argparse.Namespace) -> int:
    from cluster.check import check

    return check(args.what, args.revision, args.weights)


def _bench(args: argparse.Namespace) -> int:
    from cluster.bench import Options, bench

    options = Options(args.device, args.dtype, args.threads, args.seconds)
    return bench(args.model, args.revision, options, args.json)


def _plan(args: argparse.Namespace) -> int:
    from cluster.plan.command import run

    return run(args)


def _verify(args: argparse.Namespace) -> int:
    from cluster.service.http import Service, ServiceError
    from cluster.service.verify import verify

    try:
        return verify(Service(args.url, args.api_key), args.model)
    except ServiceError as error:
        return _fail(error)


def _fail(error: Exception, status: int = 1) -> int:
    print(f"embedfleet: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
