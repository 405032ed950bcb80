"""The command line. Only the standard library and Typer at the top: `--help` loads no torch and no Hydra."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from recsysml import exits

app = typer.Typer(
    name="recsysml",
    help="Language models and recommenders trained, judged and compared the same way.",
    epilog="Examples:  recsysml train model=gpt2_modern  ·  recsysml train -m trainer.lr=1e-3,3e-3  ·  recsysml list",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help: importing rich would double its time
)
# dashes in overrides are answered by us, with the right spelling
LOOSE = {"ignore_unknown_options": True}


def _complete(ctx: typer.Context, incomplete: str) -> list[str]:
    from recsysml.catalogue import complete

    config_dir = ctx.params.get("config_dir")
    return complete(list(ctx.params.get("overrides") or []), incomplete, Path(config_dir) if config_dir else None)


def _complete_list(incomplete: str) -> list[str]:
    from recsysml.catalogue import LISTS

    return [name for name in LISTS if name.startswith(incomplete)]


Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...",
        help="Choices (model=gpt2) and values (trainer.lr=1e-3); see `recsysml list` and `recsysml config`.",
        autocompletion=_complete,
        show_default=False,
    ),
]
ConfigDir = Annotated[
    Path | None, typer.Option("--config-dir", metavar="DIR", help="Your own YAML, looked at first.", show_default=False)
]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show tracebacks.")]


@app.command(context_settings=LOOSE)
def train(
    overrides: Overrides = None,
    multirun: Annotated[
        bool, typer.Option("--multirun", "-m", help="A sweep: every combination of comma-separated values.")
    ] = False,
    resume: Annotated[
        str | None, typer.Option("--resume", metavar="RUN", help="Go on with this run, in place.", show_default=False)
    ] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="With -m: do finished jobs anew.")] = False,
    config_dir: ConfigDir = None,
    verbose: Verbose = False,
) -> int:
    """Train MODEL on DATA, then evaluate it; or with -m a sweep."""
    from recsysml import launch
    from recsysml.errors import ConfigError

    command = _command(overrides, config_dir, verbose)
    if rerun and not multirun:
        raise ConfigError("--rerun: it belongs to a sweep (-m); a single run is always a new one.")
    if resume is not None and multirun:
        raise ConfigError("--resume: a sweep goes on when the same command is given again.")
    if resume is not None:
        return launch.resume(resume, command)
    if multirun:
        from recsysml import multirun as sweeps

        return sweeps.sweep(command, rerun=rerun)
    return launch.train(command)


@app.command("eval", context_settings=LOOSE)
def evaluate(
    overrides: Overrides = None,
    multirun: Annotated[
        bool, typer.Option("--multirun", "-m", help="Several: every combination of comma-separated values, one table.")
    ] = False,
    rerun: Annotated[bool, typer.Option("--rerun", help="With -m: do finished jobs anew.")] = False,
    trust: Annotated[bool, typer.Option("--trust", help="Let task files of your own run code.")] = False,
    config_dir: ConfigDir = None,
    verbose: Verbose = False,
) -> int:
    """Judge a checkpoint (checkpoint=last, a run directory or a path) or model=hf, by its own metrics or tasks=..."""
    from recsysml import judging

    command = _command(overrides, config_dir, verbose)
    return judging.run(command, multirun=multirun, rerun=rerun, trust=trust)


@app.command(context_settings=LOOSE)
def config(
    overrides: Overrides = None,
    run: Annotated[
        str | None, typer.Option("--from", metavar="RUN", help="The config of a run instead.", show_default=False)
    ] = None,
    config_dir: ConfigDir = None,
    verbose: Verbose = False,
) -> int:
    """Print the composed, validated config; run nothing."""
    from recsysml import reuse

    sys.stdout.write(reuse.show_config(list(overrides or []), config_dir, run))
    return 0


@app.command("list")
def list_(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[models|data|trainers|evals|trackers|experiments|tasks|runs]",
            help="Nothing: all but tasks and runs.",
            autocompletion=_complete_list,
            show_default=False,
        ),
    ] = None,
    config_dir: ConfigDir = None,
    verbose: Verbose = False,
) -> int:
    """What there is to choose, one line each."""
    from recsysml import catalogue

    if what == "runs":
        from rich.console import Console

        from recsysml import runs
        from recsysml.files import outputs_dir

        console = Console()
        if not console.is_terminal:
            console.width = 200  # a file has no edge to fold at
        console.print(runs.table(runs.iter_runs(outputs_dir())))
        return 0
    for line in catalogue.lines(what, config_dir):
        print(line)
    return 0


@app.command()
def generate(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="last, a run directory or a checkpoint folder.")
    ],
    prompt: Annotated[str, typer.Argument(help="What the text begins with.")] = "",
    max_new_tokens: Annotated[int, typer.Option("--max-new-tokens", "-n", min=1, help="How many tokens.")] = 200,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 takes the likeliest token each time.")] = 0.8,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from the k likeliest tokens; 0 from all.")] = 200,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Draw from the likeliest that make up p.")] = 1.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Same seed, same text.")] = 1,
    verbose: Verbose = False,
) -> int:
    """Sample text from a language model."""
    path = _checkpoint(checkpoint)  # a wrong name is said before torch is imported

    from recsysml import serving

    model, tokenizer, _ = serving.open_language_model(path)
    pieces = serving.generate_text(
        model, tokenizer, prompt, max_new_tokens, temperature=temperature, top_k=top_k, top_p=top_p, seed=seed
    )
    print(prompt, end="")
    for text in pieces:
        print(text, end="", flush=True)
    print()
    return 0


@app.command()
def export(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="last, a run directory or a checkpoint folder.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where to; it must not hold anything yet.")],
    index: Annotated[
        str, typer.Option(metavar="[auto|flat|ivf|hnsw|ivf_pq]", help="A retriever's index; auto goes by its size.")
    ] = "auto",
    verbose: Verbose = False,
) -> int:
    """Write a language model as a Hugging Face folder, a retriever as vectors, index and id map."""
    path = _checkpoint(checkpoint, family=None)

    from recsysml.runs import read_json

    if "ids" in read_json(path / "checkpoint.json"):
        from recsysml import recommending

        print(recommending.export(path, folder, index))
        return 0

    from recsysml import serving

    architecture = serving.export_folder(path, folder)
    print(f"wrote {folder} for transformers ({architecture})")
    return 0


@app.command()
def recommend(
    checkpoint: Annotated[
        str, typer.Argument(metavar="CHECKPOINT", help="last, a run directory or a checkpoint folder.")
    ],
    user: Annotated[str | None, typer.Option(metavar="ID", help="A user of the data.", show_default=False)] = None,
    history: Annotated[
        str | None,
        typer.Option(metavar="ITEM,ITEM", help="A new user: what they turned to, oldest first.", show_default=False),
    ] = None,
    k: Annotated[int, typer.Option("-k", min=1, help="How many items.")] = 10,
    verbose: Verbose = False,
) -> int:
    """The best items for a user, with scores and titles."""
    path = _checkpoint(checkpoint, family="interactions")

    from recsysml import recommending

    for line in recommending.lines(path, user, history, k):
        print(line)
    return 0


@app.command()
def data(
    action: Annotated[str, typer.Argument(metavar="[list|prepare|check]", help="What to do.")] = "list",
    name: Annotated[str | None, typer.Argument(help="Which data set.", show_default=False)] = None,
    config_dir: ConfigDir = None,
    verbose: Verbose = False,
) -> int:
    """What a data set needs: list them, prepare one, check one."""
    from recsysml import datasets

    for line in datasets.lines(action, name, config_dir):
        print(line, flush=True)
    return 0


@app.command()
def doctor(verbose: Verbose = False) -> int:
    """What works here, and how to mend what does not."""
    from recsysml import doctor as examination

    return examination.main()


@app.command()
def diff(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, sweep or results file (lm_eval's too): before.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The same: after.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
    fail_on_regression: Annotated[
        bool, typer.Option("--fail-on-regression", help="Exit with 3 if something got worse beyond noise.")
    ] = False,
    verbose: Verbose = False,
) -> int:
    """Two runs, metric by metric: better, worse, or within noise."""
    from recsysml import diff as differences

    return differences.main(a, b, as_json=as_json, fail_on_regression=fail_on_regression)


@app.command()
def report(
    runs: Annotated[
        list[str], typer.Argument(metavar="RUN...", help="Run directories, ids, or folders: every run below them.")
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="FILE",
            help="Where to; else report.html in the folder that was named, or in the outputs folder.",
            show_default=False,
        ),
    ] = None,
    verbose: Verbose = False,
) -> int:
    """One HTML file to look at: curves, bars, tables, samples."""
    from recsysml.report import write_report

    path, count = write_report(runs, output)
    print(f"wrote {path} ({count} run{'' if count == 1 else 's'}, {path.stat().st_size / 1e6:.1f} MB)")
    return 0


@app.callback(invoke_without_command=True)
def _root(
    ctx: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True)] = False,
) -> int | None:
    if version:
        from recsysml import __version__

        print(__version__)
        raise typer.Exit
    if ctx.invoked_subcommand is None:
        print(ctx.get_help())
        raise typer.Exit(2)
    return None


def _command(overrides: list[str] | None, config_dir: Path | None, verbose: bool) -> Any:
    from recsysml.launch import Command

    return Command(list(overrides or []), ["recsysml", *_argv], config_dir, verbose)


def _checkpoint(name: str, family: str | None = "text") -> Path:
    from recsysml.files import outputs_dir
    from recsysml.runs import describe_checkpoint, resolve_checkpoint

    path = resolve_checkpoint(name, outputs_dir(), family=family)
    print(f"checkpoint: {describe_checkpoint(path)}", file=sys.stderr)
    return path


_argv: list[str] = []


def main(argv: list[str] | None = None) -> int:
    """Run one command. Returns its exit code; an error is one line on standard error (a traceback with -v)."""
    _argv[:] = sys.argv[1:] if argv is None else argv
    # only the switch before the command's own words; a prompt may well be "-v"
    verbose = any(word in ("-v", "--verbose") for word in _argv)
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="replace")  # a terminal without a sampled text's characters shows the others
    try:
        code = exits.guard(lambda: exits.run_app(app, _argv), verbose)
        if sys.stdout is not None:  # closed by `>&-`
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # `recsysml list tasks | head`
        exits.drop_output()
        return 0
    except OSError as error:  # a full disk behind `>`
        exits.drop_output()
        print(f"error: the output cannot be written: {error.strerror or error}", file=sys.stderr)
        return 1
