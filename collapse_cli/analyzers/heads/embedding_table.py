"""Which rows of an embedding were never learned, and whether the table became a cone."""

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING

from collapse_cli import kernels
from collapse_cli.analyzer import Example, Limit, Measurement, Metric, Reference, Role, Skip, block_analyzer, on, skip

if TYPE_CHECKING:
    from torch import Tensor

    from collapse_cli.kernels.views import Block, Weight

#: Rows below which a table has too few to judge lengths by a median (token types, small label sets).
MIN_ROWS = 64
#: Share of the mean energy below which a coordinate counts as unused.
WASTED = 0.01

ZERO_ROW_SHARE = Metric(
    "zero_row_share",
    "1",
    "Share of rows that are exactly zero, the padding row left out.",
    better="lower",
    null="Gaussian rows: 0",
    warn=Limit("above", 0.1, "zoo: beyond every healthy model (0); reserved rows are a few per cent of a vocabulary"),
    error=Limit("above", 0.5, "definition: most of the table is empty"),
    message="{zero} of {rows} rows are exactly zero ({value:.3g}, limit {bound}), first row {first}",
)
DUPLICATE_ROW_SHARE = Metric(
    "duplicate_row_share",
    "1",
    "Share of rows that are equal, to the byte, to another row that is not zero.",
    better="lower",
    null="Gaussian rows: 0",
    warn=Limit("above", 0.1, "zoo: beyond every healthy model (0); reserved rows with one value are a few per cent"),
    error=Limit("above", 0.5, "definition: most rows cannot be told from another"),
    message="{duplicates} of {rows} rows are byte-equal to another row ({value:.3g}, limit {bound}), first row {first}",
)
UNDERTRAINED_ROW_SHARE = Metric(
    "undertrained_row_share",
    "1",
    "Share of rows whose length lies more than six robust standard deviations below the median, on a log scale.",
    better="lower",
    null="Gaussian rows: 0",
    warn=Limit("above", 0.1, "zoo: 0 in sound tables, 0.2 where a fifth of the ids never occurs"),
    error=Limit("above", 0.25, "zoo: 0.33 in collapsed tables, 0.2 in mild ones; a quarter was hardly trained"),
    message="{undertrained} of {rows} rows are far shorter than the rest ({value:.3g}, limit {bound}), "
    "first row {first}",
)
ANISOTROPY = Metric(
    "anisotropy",
    "1",
    "Mean cosine between two different rows; 0 without a common direction, 1 when all rows are one direction.",
    better="lower",
    null="uniform directions: 0, with a spread of √(2/(dV(V−1)))",
    warn=Limit("above", 0.8, "zoo: beyond every healthy model (0.01); trained language models lie between 0.1 and 0.5"),
    message="the rows form a narrow cone: mean cosine {value:.3g} (limit {bound}, chance 0)",
)
TABLE_EFFECTIVE_RANK = Metric(
    "table_effective_rank",
    "1",
    "Exponential of the entropy of the covariance eigenvalues of the rows: how many dimensions the table uses.",
    better="higher",
    null="Gaussian rows: m·exp(−m/(2n)), m and n the smaller and larger of rows and dimensions",
    warn=Limit("below", 0.1, "zoo: beyond every healthy model (0.65 of chance and more)", of="null"),
    message="the table uses {value:.3g} of {features} dimensions (chance {null:.3g}, limit {bound} of it)",
)
WASTED_DIMENSION_SHARE = Metric(
    "wasted_dimension_share",
    "1",
    "Share of coordinates with less than a hundredth of the mean energy of a coordinate.",
    better="lower",
    null="Gaussian rows: 0",
)
NORM_COUNT_CORRELATION = Metric(
    "norm_count_correlation",
    "1",
    "Spearman's rank correlation between the length of a row and how often its token occurs.",
    null="independent ranks: 0, with a spread of 1/√V",
)


def healthy() -> Example:
    """A Gaussian table of 512 rows in 64 dimensions."""
    import torch

    generator = torch.Generator().manual_seed(0)
    return Example({"model.embed_tokens.weight": torch.randn(512, 64, generator=generator)}, {"model_type": "llama"})


def collapsed() -> Example:
    """Two fifths of the rows a thousandth as long, and all of them nearly along one direction."""
    import torch

    generator = torch.Generator().manual_seed(0)
    rows = 10.0 + torch.randn(512, 64, generator=generator)
    rows[:205] *= 1e-3
    return Example({"model.embed_tokens.weight": rows}, {"model_type": "llama"})


@block_analyzer(
    name="embedding-table",
    family="heads",
    title="Embedding table",
    metrics=(
        ZERO_ROW_SHARE,
        DUPLICATE_ROW_SHARE,
        UNDERTRAINED_ROW_SHARE,
        ANISOTROPY,
        TABLE_EFFECTIVE_RANK,
        WASTED_DIMENSION_SHARE,
        NORM_COUNT_CORRELATION,
    ),
    accepts=on.block(("embedding", "head"), says="embeddings and language-model heads with at least 64 rows"),
    remedy="Re-initialise or drop rows that were never trained, or give rare ids more data or sub-word regularisation; "
    "remove the mean or add decorrelation against a cone; use a smaller dimension if the table does not fill it.",
    references=(
        Reference(
            "Land & Bartolo. Fishing for Magikarp: Automatically Detecting Under-trained Tokens in Large Language "
            "Models. 2024",
            "https://arxiv.org/abs/2405.05417",
        ),
        Reference(
            "Lyu et al. OptEmbed: Learning Optimal Embedding Table for Click-through Rate Prediction. 2022",
            "https://arxiv.org/abs/2208.04482",
        ),
        Reference(
            "Gao et al. Representation Degeneration Problem in Training Natural Language Generation Models. 2019",
            "https://arxiv.org/abs/1907.12009",
        ),
    ),
    examples={"healthy": healthy, "collapsed": collapsed},
    unmoved_by=("scaled", "rows_permuted"),
)
def embedding_table(block: "Block") -> Iterator[Measurement | Skip]:
    """Which rows of an embedding were never learned, and has the table become a cone?

    ## Why it matters
    A row that training never reached is noise or zero, and the first input that uses it produces nonsense. A table
    whose rows all point the same way, or fill only a few dimensions, spends its parameters on one shared offset and
    leaves little room to tell one token from another.

    ## How to read it
    `zero_row_share`, `duplicate_row_share` and `undertrained_row_share` count rows that carry nothing of their own; a
    few per cent are usual, because vocabularies keep reserved ids. `anisotropy` is the mean cosine between rows: 0.1
    to 0.5 is common in trained language models, 0.9 is a cone. `table_effective_rank` against its null tells how many
    of the dimensions are used, `wasted_dimension_share` how many coordinates are nearly empty.

    ## Limits
    Rows of an untied output head that were never seen are not short: they are pushed alike, and only look equal after
    the mean row is removed. Rows of a tied table are pushed too, and are not short. Short rows are found against the
    others: where a third of the rows or more is short, the spread swells and they are missed. Vocabularies are often
    padded to a multiple of 64, and reserved rows are counted unless the configuration names them. A token id is not a
    frequency. Tables that share rows by hashing look duplicated by design. Proof that a row was never trained needs the
    optimizer state or an earlier checkpoint.
    """
    tables = tuple(kernels.frames.without_padding(table, block) for table in block.all(Role.EMBEDDING))
    if block.site.role.kind == "head":
        head = block.get(kernels.frames.class_vectors)
        if head is None:
            yield skip(block.site.name, "several head weights that do not follow one another")
            return
        rows, columns = head.matrix.shape
        if not block.facts.get("is_language_model") and rows <= columns:
            yield skip(block.site.name, "not a language-model head")
            return
        tables = (head,)
    for table in tables:
        if table.matrix.shape[0] < MIN_ROWS or table.matrix.shape[1] == 0:
            yield skip(table.site.name, f"{table.matrix.shape[0]} rows < {MIN_ROWS}")
        else:
            yield from _table(table, block)


def _table(table: "Weight", block: "Block") -> Iterator[Measurement | Skip]:
    site = table.site.name
    rows, features = table.matrix.shape
    padding = block.facts.get("pad_token_id")
    left_out = padding if isinstance(padding, int) and 0 <= padding < rows else None
    norms = table.get(kernels.spectrum.row_norms)
    kept = norms >= 0.0
    if left_out is not None:
        kept[left_out] = False
    count = int(kept.sum())
    zero = kept & (norms == 0.0)
    duplicate = kernels.embedding_rows.duplicate_rows(table.matrix, norms) & kept
    short = kernels.embedding_rows.undertrained_rows(norms.masked_fill(~kept, 0.0), features)
    yield ZERO_ROW_SHARE.at(site, int(zero.sum()) / count, 0.0, zero=int(zero.sum()), rows=count, first=_first(zero))
    repeated = int(duplicate.sum())
    yield DUPLICATE_ROW_SHARE.at(site, repeated / count, 0.0, duplicates=repeated, rows=count, first=_first(duplicate))
    yield UNDERTRAINED_ROW_SHARE.at(
        site,
        int(short.sum()) / count,
        0.0,
        undertrained=int(short.sum()),
        rows=count,
        first=_first(short),
        median_length=float(norms[kept].median()),
        padding_row=left_out,
    )
    yield from _spread(table, kept, left_out)
    counts = block.one(Role.CLASS_COUNTS)
    if counts is None or counts.tensor.numel() != rows:
        yield skip(site, "norm_count_correlation: token counts missing")
        return
    sizes = counts.tensor.double().reshape(-1).cpu()
    correlation = kernels.rank_correlation.spearman(norms[kept], sizes[kept])
    if correlation is None:
        yield skip(site, "norm_count_correlation: all lengths or all token counts are equal")
        return
    yield NORM_COUNT_CORRELATION.at(site, correlation, 0.0, spread=1.0 / math.sqrt(count), rows=count)


def _first(chosen: "Tensor") -> int | None:
    found = chosen.nonzero()
    return int(found[0]) if found.numel() else None


def _spread(table: "Weight", kept: "Tensor", left_out: int | None) -> Iterator[Measurement | Skip]:
    """How the rows spread over directions, dimensions and coordinates."""
    site, features = table.site.name, table.matrix.shape[1]
    norms = table.get(kernels.spectrum.row_norms)
    live = int((kept & (norms > 0.0)).sum())
    if live < 2:
        yield skip(site, f"anisotropy, table_effective_rank, wasted_dimension_share: {live} non-zero rows < 2")
        return
    cosine = kernels.frames.mean_cosine(kernels.frames.direction_sum(table, kept), live)
    yield ANISOTROPY.at(site, cosine, 0.0, spread=math.sqrt(2.0 / (features * live * (live - 1))), rows=live)
    energy = table.get(kernels.spectrum.column_norms).square()
    if left_out is not None:
        energy = (energy - table.matrix[left_out].double().cpu().square()).clamp_min(0.0)
    wasted = int((energy < WASTED * energy.mean()).sum())
    yield WASTED_DIMENSION_SHARE.at(site, wasted / features, 0.0, wasted=wasted, features=features)
    smaller, larger = sorted((int(kept.sum()), features))
    if smaller > kernels.spectrum.MAX_EXACT_SIDE:
        yield skip(site, f"table_effective_rank: min side {smaller} > {kernels.spectrum.MAX_EXACT_SIDE}")
        return
    energies = kernels.embedding_rows.table_energies(table, left_out)
    yield TABLE_EFFECTIVE_RANK.at(
        site,
        kernels.spectrum.entropy_rank(energies),
        smaller * math.exp(-smaller / (2.0 * larger)),
        rows=int(kept.sum()),
        features=features,
    )
