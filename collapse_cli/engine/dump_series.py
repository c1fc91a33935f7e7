"""An ordered run of dumps: each is read once, its hook points accumulated and shown together with the others'."""

from collections.abc import Callable, Sequence

from collapse_cli.analyzer import Analyzer
from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Coverage, Failure, Skip
from collapse_cli.core.site import Site
from collapse_cli.engine.dump import accumulated
from collapse_cli.engine.job import Results, Setting
from collapse_cli.engine.options import Analysis, Options, Progress, acceptance, deadline
from collapse_cli.errors import TimedOut
from collapse_cli.kernels.comparisons import ActivationSeries
from collapse_cli.kernels.views import Activations
from collapse_cli.sources.dump import Dump
from collapse_cli.sources.paired import PAIRING

__all__ = ["analyse_dump_series"]


def analyse_dump_series(
    dumps: Sequence[Dump],
    analyzers: Sequence[Analyzer],
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    labels: tuple[str, ...],
    steps: tuple[float, ...],
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> Analysis:
    """Everything the analyzers say of a run of dumps. A site that some member lacks is a skip that says so."""
    shown = [analyzer for analyzer in analyzers if "activation_series" in (analyzer.view, *analyzer.also)]
    ranks = {analyzer.name: rank for rank, analyzer in enumerate(analyzers)}
    setting = Setting(lambda name: dumps[0].read(*name.rsplit("/", 1)), ranks, options.seed, deadline(options))
    found, stopped = Results(), ""
    held: dict[str, list[Activations]] = {}
    wanting: dict[str, tuple[Analyzer, ...]] = {}
    all_bytes = sum(dump.nbytes for dump in dumps)
    done = 0
    try:
        for place, dump in enumerate(dumps):
            for accepting, view in accumulated(dump, shown, options, setting, found):
                held.setdefault(view.site.name, []).append(view)
                wanting.setdefault(view.site.name, accepting)
            done += dump.nbytes
            progress(Progress(place + 1, len(dumps), done, all_bytes, labels[place]))
        for rank, (name, members) in enumerate(held.items()):
            if len(members) < len(dumps):
                skip = Skip(PAIRING, name, f"only in {len(members)} of {len(dumps)} members")
                found.results.append(((rank, 0, -1, 0), skip))
                continue
            series = ActivationSeries(members[0].site, tuple(members), labels=labels, steps=steps, seed=options.seed)
            for analyzer in wanting[name]:
                found.show(series, analyzer, (rank, 0), setting)
    except TimedOut as error:
        stopped = str(error)
    return _analysis(shown, held, found, stopped)


def _analysis(
    analyzers: Sequence[Analyzer], held: dict[str, list[Activations]], found: Results, stopped: str
) -> Analysis:
    found.results.sort(key=lambda pair: pair[0])
    results = [result for _order, result in found.results]
    said = [result for result in results if isinstance(result, Skip)]
    if stopped:
        said += [Skip(None, name, stopped) for name in held if name not in {result.site for result in results}]
    named = {result.analyzer for result in results}
    said += [
        Skip(one.name, None, f"nothing to accept: takes {acceptance(one, is_of_dumps=True).says}")
        for one in analyzers
        if one.name not in named
    ]
    sites: list[Site] = [members[0].site for members in held.values()]
    known = {site.name for site in sites}
    derived = [site for name, site in found.derived.items() if name not in known]
    return Analysis(
        (*sites, *derived),
        tuple(result for result in results if isinstance(result, Measurement)),
        tuple(dict.fromkeys(said)),
        tuple(result for result in results if isinstance(result, Failure)),
        Coverage(len(held), len(held), len(found.read)),
        (),
        dict(found.seconds),
    )
