"""Monte-Carlo roll-outs as rows: those that a label stage had written, and those that it reads in place of
drawing.

Equal asks draw equal roll-outs (docs/design.md, 4), so a stage that finds them in an earlier one gives the
rows that it would give alone. Only what was written is committed: what a stage read stands already.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from pipeline.asks import Prefix, prefix_of
from pipeline.errors import RecipeError
from pipeline.recipe.shape import Stage
from pipeline.rows import Group, Trace
from pipeline.stages.inputs import ChunkReader
from pipeline.store.plan import ChunkPlan

if TYPE_CHECKING:
    from pipeline.engine.driver import Drawn
    from pipeline.engine.queues import RolloutKey


def rows_of(problem_id: str, drawn: Sequence[Drawn], traces: Iterable[Trace]) -> list[Trace]:
    """The roll-outs of one problem as Trace rows, prefix by prefix as they were asked for, in order of draw.

    `tokens_charged` are the tokens after the prefix, so a reader knows where that ends; `parent` is the first
    trace that begins with it. A prefix of no token begins every trace, and has no parent.
    """
    known = list(traces)
    parents: dict[str, str | None] = {"": None}
    rows = []
    for number, one in enumerate(drawn):
        whole, begun = one.prefix, one.begun
        if begun.text not in parents:
            parents[begun.text] = parent_of(begun, known)
        rows.append(
            Trace(
                problem_id=problem_id,
                id=f"{problem_id}/rollout{number}",
                prompt=whole.prompt,
                text=whole.text,
                token_ids=list(whole.token_ids),
                step_ends=list(whole.step_ends),
                steps=list(whole.steps),
                answer=whole.answer,
                logprobs=list(whole.logprobs),
                finish=whole.finish,
                temperature=one.ask.temperature,
                cut=one.ask.top_p < 1 or one.ask.top_k > 0,
                parent=parents[begun.text],
                tokens_charged=whole.num_tokens - begun.num_tokens,
                prompt_hash=whole.prompt_hash,
                model=whole.model,
            )
        )
    return rows


def parent_of(begun: Prefix, traces: Sequence[Trace]) -> str | None:
    """The first trace that begins with a prefix: by its tokens, or by its text where another tokenizer wrote
    it.
    """
    ids = list(begun.token_ids)
    same = (trace.id for trace in traces if trace.token_ids[: len(ids)] == ids)
    alike = (trace.id for trace in traces if trace.text.startswith(begun.text))
    return next(same, None) or next(alike, None)


def brought(group: Group, settings: Any) -> dict[RolloutKey, list[Prefix]]:
    """The roll-outs of the stages that `reuse` names, as the driver looks for them. Rows of one prefix stand
    in the order of their draws.
    """
    from pipeline.engine.queues import rollout_key

    found: dict[RolloutKey, list[Prefix]] = {}
    draws = {(draw.by, draw.temperature): draw for draw in settings.draws_by}
    for row in group.rollouts if settings.reused else ():
        draw = draws.get((row.model, row.temperature))
        if row.stage not in settings.reused or draw is None or row.tokens_charged < 0:
            continue
        whole = prefix_of(row)
        start = Prefix(row.prompt, whole.token_ids[: whole.num_tokens - row.tokens_charged])
        key = rollout_key(draw.by, start, draw.temperature, draw.top_p, draw.top_k)
        found.setdefault(key, []).append(whole)
    return found


def require_equal_weights(
    stage: Stage, reader: ChunkReader, chunks: Iterable[ChunkPlan], models: dict[str, str]
) -> None:
    """Roll-outs are reused only under the weights that wrote them.

    Raises:
        RecipeError: a stage that `reuse` names acted with other weights.
    """
    for path in dict.fromkeys(path for chunk in chunks for path in chunk.reads):
        plan = reader.source(path).plan
        if plan.stage not in stage.settings.reused:
            continue
        for name in dict.fromkeys(draw.by for draw in stage.settings.draws_by):
            if name in plan.models and plan.models[name] != models[name]:
                raise RecipeError(
                    f"{stage.section}.{stage.name}: reuse: {plan.stage} wrote its roll-outs with other "
                    f"weights of {name} ({plan.models[name][:12]}, now {models[name][:12]}): it was trained "
                    "between them. Leave that stage out of reuse, and they are drawn anew"
                )
