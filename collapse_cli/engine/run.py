"""A run as its reports tell it, shown to the analyzers of runs: no model is read."""

from collections.abc import Mapping, Sequence

from torch import Tensor

from collapse_cli.analyzer import Analyzer
from collapse_cli.core.manual import Manual
from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Coverage, Failure, Skip, Subject
from collapse_cli.core.site import Role, Site
from collapse_cli.engine.job import Results, Setting
from collapse_cli.engine.options import Analysis, Options
from collapse_cli.kernels.comparisons import Run

__all__ = ["RUN_SITE", "analyse_run"]

#: Site of what is said of a run as a whole.
RUN_SITE = "#run"


def analyse_run(
    members: Sequence[Subject],
    manuals: Sequence[Manual],
    analyzers: Sequence[Analyzer],
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    steps: tuple[float, ...],
    metadata: tuple[Mapping[str, str], ...] = (),
) -> Analysis:
    """Everything the analyzers of runs say of measured subjects in order; `manuals` are those of their measurements."""
    shown = [analyzer for analyzer in analyzers if "run" in (analyzer.view, *analyzer.also)]
    rules = {f"{manual.name}/{metric.name}": metric for manual in manuals for metric in manual.metrics}
    whole = Site(RUN_SITE, (), "", None, Role.OTHER)
    view = Run(
        whole,
        tuple(members),
        labels=tuple(member.id for member in members),
        steps=steps,
        metrics=rules,
        metadata=metadata,
    )
    found = Results()
    setting = Setting(_nothing_to_read, {analyzer.name: rank for rank, analyzer in enumerate(analyzers)}, options.seed)
    for analyzer in shown:
        found.show(view, analyzer, (0, 0), setting)
    results = [result for _order, result in found.results]
    known = {site.name: site for member in members for site in member.sites} | {RUN_SITE: whole}
    named = dict.fromkeys(result.site for result in results if result.site)
    sites = [known.get(name.partition("#rule=")[0], found.derived.get(name, whole)) for name in named]
    return Analysis(
        tuple(dict.fromkeys(sites)),
        tuple(result for result in results if isinstance(result, Measurement)),
        tuple(result for result in results if isinstance(result, Skip)),
        tuple(result for result in results if isinstance(result, Failure)),
        Coverage(len(members), len(members), len(members)),
        (),
        dict(found.seconds),
    )


def _nothing_to_read(name: str) -> Tensor:
    raise KeyError(name)
