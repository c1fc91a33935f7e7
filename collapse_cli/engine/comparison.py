"""One pass over several checkpoints together: each site is read from all of them, shown, and dropped before the next.

Sites are paired by name and shape. Memory holds the members of one site, never two models.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, final

import torch
from torch import Tensor

from collapse_cli.analyzer import Analyzer, ViewKind
from collapse_cli.core.metric import Measurement
from collapse_cli.core.report import Coverage, Failure, Skip
from collapse_cli.core.site import Role, Site
from collapse_cli.engine.job import Results, Setting, failure
from collapse_cli.engine.options import Analysis, Options, Progress, acceptance, deadline, wanted_names
from collapse_cli.errors import CollapseError, InputError, TimedOut
from collapse_cli.kernels.comparisons import Comparison, Model
from collapse_cli.kernels.views import Weight, is_finite
from collapse_cli.sources.base import Checkpoint
from collapse_cli.sources.effective import WeightRecipe, plan
from collapse_cli.sources.paired import PAIRING

__all__ = ["MODEL_SITE", "Lineup", "analyse_together"]

#: Site of what is said of all sites of a comparison together.
MODEL_SITE = "#model"
#: Members of one site that are held together: more than any pair of a model of a billion parameters.
_SITE_BYTES = 2 << 30


@final
@dataclass(frozen=True, slots=True)
class Lineup:
    """Checkpoints to be compared, in order, and what they are to each other.

    `labels` name them in reports; `has_base`: the first is what the others descend from.
    """

    kind: Literal["pair", "pool", "series"]
    members: tuple[Checkpoint, ...]
    labels: tuple[str, ...]
    steps: tuple[float, ...] = ()
    has_base: bool = True


def analyse_together(
    lineup: Lineup,
    analyzers: Sequence[Analyzer],
    options: Options = Options(),  # noqa: B008 - frozen
    *,
    progress: Callable[[Progress], None] = lambda _progress: None,
) -> Analysis:
    """Everything the analyzers say of several checkpoints. A site that is not in all of them is a skip that says so.

    Raises:
        InputError: no site is in all of them.
    """
    shown = [analyzer for analyzer in analyzers if lineup.kind in (analyzer.view, *analyzer.also)]
    plans = [plan(member, roles=options.roles) for member in lineup.members]
    recipes = [{one.site.name: one for one in planned.weights} for planned in plans]
    is_wanted = wanted_names(options)
    paired, skips = _paired(recipes, lineup.labels, is_wanted)
    if not paired and any(map(is_wanted, recipes[0])):
        raise _nothing_in_common(lineup, recipes)
    skips += [skip for planned in plans for skip in planned.skips if skip.site is None or is_wanted(skip.site)]
    skips += [skip for member in lineup.members for skip in member.unreadable if is_wanted(skip.site or "")]
    skips = list(dict.fromkeys(skips))
    ranks = {analyzer.name: rank for rank, analyzer in enumerate(analyzers)}
    setting = Setting(lineup.members[0].read, ranks, options.seed, deadline(options))
    found, stopped = Results(), ""
    accepted = {name: _accepting(shown, recipes[0][name].site, lineup.kind) for name in paired}
    wanted = [name for name in paired if accepted[name]]
    parts: list[Comparison] = []
    try:
        reader = _Reader(lineup, recipes, wanted, options)
        for rank, name in enumerate(wanted):
            setting.check()
            view = reader.comparison(name, rank, found)
            if view is not None:
                parts.append(view)
                _show(view, accepted[name], rank, setting, found)
                view.release()
                found.read.add(name)
            progress(Progress(rank + 1, len(wanted), reader.done, reader.all_bytes, name))
        whole = Model(Site(MODEL_SITE, (), "", None, Role.OTHER), tuple(parts), labels=lineup.labels)
        for analyzer in shown:
            if analyzer.sums_up and parts:
                found.show(whole, analyzer, (len(wanted), 0), setting)
    except TimedOut as error:
        stopped = str(error)
    sites = [recipes[0][name].site for name in wanted]
    unpaired = sum(1 for skip in skips if skip.analyzer == PAIRING)
    total = len(paired) + unpaired
    said = f"{unpaired:,} of {total:,} tensors are not compared: they are not in every member, or have another shape"
    notices = (said,) if unpaired else ()
    return _analysis(sites, shown, found, skips=skips, stopped=stopped, total=len(paired), notices=notices)


def _paired(
    recipes: Sequence[Mapping[str, WeightRecipe]], labels: Sequence[str], is_wanted: Callable[[str], bool]
) -> tuple[list[str], list[Skip]]:
    """Names of the sites that all members have in one shape, and a skip for every other."""
    names = dict.fromkeys(name for held in recipes for name in held)
    paired, skips = [], []
    for name in names:
        if not is_wanted(name):
            continue
        having = [label for label, held in zip(labels, recipes, strict=True) if name in held]
        shapes = [held[name].site.shape for held in recipes if name in held]
        if len(having) < len(recipes):
            which = having[0] if len(having) == 1 else f"{len(having)} of {len(recipes)}"
            skips.append(Skip(PAIRING, name, f"only in {which}"))
        elif len(set(shapes)) > 1:
            other = next(shape for shape in shapes if shape != shapes[0])
            skips.append(Skip(PAIRING, name, f"shape {_sides(shapes[0])} → {_sides(other)}"))
        else:
            paired.append(name)
    return paired, skips


def _sides(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape)) or "scalar"


def _nothing_in_common(lineup: Lineup, recipes: Sequence[Mapping[str, WeightRecipe]]) -> InputError:
    first, last = next(iter(recipes[0]), "nothing"), next(iter(recipes[-1]), "nothing")
    return InputError(
        f"{lineup.labels[0]} and {lineup.labels[-1]}",
        expected="should be checkpoints of one model",
        got=f'no tensor of one name and shape is in all of them ("{first}" against "{last}")',
        hint="`collapse inspect` lists the tensors of each",
    )


def _accepting(analyzers: Sequence[Analyzer], site: Site, kind: ViewKind) -> tuple[Analyzer, ...]:
    return tuple(
        one
        for one in analyzers
        if kind in (one.view, *one.also) and acceptance(one, is_of_dumps=False).is_accepted(site)
    )


@final
class _Reader:
    """Reads the members of one site after the other; a stored tensor that several sites are made of is read once."""

    def __init__(
        self,
        lineup: Lineup,
        recipes: Sequence[Mapping[str, WeightRecipe]],
        wanted: Sequence[str],
        options: Options,
    ) -> None:
        self._lineup, self._recipes, self._options = lineup, recipes, options
        self._uses = [Counter(read for name in wanted for read in held[name].reads) for held in recipes]
        self._held: list[dict[str, Tensor]] = [{} for _ in recipes]
        self._sizes = [_sizes(member) for member in lineup.members]
        self.all_bytes = sum(
            sizes.get(read, 0) for uses, sizes in zip(self._uses, self._sizes, strict=True) for read in uses
        )
        self.done = 0

    def comparison(self, name: str, rank: int, found: Results) -> Comparison | None:
        """The site in all members; None where it cannot be had, which is then a result of its own."""
        budget = self._options.max_memory or _SITE_BYTES
        needed = sum(
            sizes.get(read, 0)
            for held, sizes in zip(self._recipes, self._sizes, strict=True)
            for read in held[name].reads
        )
        place = (rank, -1, 0, 0)
        if len(self._lineup.members) > 2 and needed > budget:
            reason = f"{len(self._lineup.members)} members take {needed:,} bytes at once, more than {budget:,}"
            found.results.append((place, Skip(None, name, f"{reason}: --max-memory {-(-needed // 2**30)}GiB")))
            self._release(name)
            return None
        weights = []
        for member in range(len(self._lineup.members)):
            weight = self._weight(member, name, place, found)
            if weight is None:
                self._release(name)
                return None
            weights.append(weight)
        self._release(name)
        return Comparison(
            self._recipes[0][name].site,
            tuple(weights),
            labels=self._lineup.labels,
            steps=self._lineup.steps,
            has_base=self._lineup.has_base,
            kind=self._lineup.kind,
            seed=self._options.seed,
        )

    def _weight(self, member: int, name: str, place: tuple[int, int, int, int], found: Results) -> Weight | None:
        recipe, held = self._recipes[member][name], self._held[member]
        try:
            for read in recipe.reads:
                if read not in held:
                    held[read] = self._lineup.members[member].read(read).to(torch.device(self._options.device))
                    self.done += self._sizes[member].get(read, 0)
            weight = recipe.build({read: held[read] for read in recipe.reads})
        except CollapseError as error:
            found.results.append((place, Skip(None, name, f"{self._lineup.labels[member]}: {error}")))
            return None
        except Exception as error:  # noqa: BLE001 - one bad tensor never stops the rest
            found.results.append((place, failure(error, None, name)))
            return None
        weight.seed = self._options.seed
        return weight

    def _release(self, name: str) -> None:
        """One use less of what the site is made of."""
        for uses, held, recipes in zip(self._uses, self._held, self._recipes, strict=True):
            for read in recipes[name].reads:
                uses[read] -= 1
                if uses[read] <= 0:
                    held.pop(read, None)


def _sizes(checkpoint: Checkpoint) -> dict[str, int]:
    origins = {site.name: checkpoint.origin(site.name) for site in checkpoint.sites()}
    return {name: origin.end - origin.begin for name, origin in origins.items()}


def _show(view: Comparison, analyzers: Sequence[Analyzer], rank: int, setting: Setting, found: Results) -> None:
    are_finite = all(weight.get(is_finite) for weight in view.members)
    for analyzer in analyzers:
        if are_finite or analyzer.reads_non_finite:
            found.show(view, analyzer, (rank, 0), setting)
        else:
            place = (rank, 0, setting.ranks[analyzer.name], 0)
            found.results.append((place, Skip(analyzer.name, view.site.name, "not finite")))


def _analysis(
    sites: Sequence[Site],
    analyzers: Sequence[Analyzer],
    found: Results,
    *,
    skips: Sequence[Skip],
    stopped: str,
    total: int,
    notices: tuple[str, ...],
) -> Analysis:
    found.results.sort(key=lambda pair: pair[0])
    results = [result for _order, result in found.results]
    said = [*skips, *(result for result in results if isinstance(result, Skip))]
    lost = {skip.site for skip in said if skip.analyzer is None}
    if stopped:
        said += [Skip(None, site.name, stopped) for site in sites if site.name not in found.read | lost]
    named = {result.analyzer for result in results}
    said += [
        Skip(one.name, None, f"nothing to accept: takes {acceptance(one, is_of_dumps=False).says}")
        for one in analyzers
        if one.name not in named
    ]
    whole = [Site(MODEL_SITE, (), "", None, Role.OTHER)] if any(r.site == MODEL_SITE for r in results) else []
    known = {site.name for site in (*sites, *whole)}
    derived = [site for name, site in found.derived.items() if name not in known]
    return Analysis(
        (*sites, *derived, *whole),
        tuple(result for result in results if isinstance(result, Measurement)),
        tuple(said),
        tuple(result for result in results if isinstance(result, Failure)),
        Coverage(total, len(sites), len(found.read)),
        notices,
        dict(found.seconds),
    )
