"""What happened, in ten lines for a newcomer. Pure."""

from pathlib import Path

from serving.demo.results import Results
from serving.demo.standing import Judgement
from serving.demo.world import Told

__all__ = ["story"]


def story(results: Results, *, folder: Path, told: Told) -> list[str]:
    """Ten lines."""
    f = results.figures
    accounted = ", ".join(f"{f[name]:,} {name}" for name in ("joined", "pending", "expired", "quarantined"))
    return [
        f"1. Visits: {f['answered']:,} {told.asked}; Select answered in {f['select_p50_ms']:.1f} ms (median).",
        f"2. Beginning: {told.began.format(reward=f['reward_uniform'] or float('nan'))}.",
        f"3. Log before reply: {f['acknowledged']:,} acknowledged, {f['logged']:,} in the log, each with its exact probabilities.",
        f"4. Join: impressions and rewards met their decisions: {accounted}.",
        f"5. Producers misbehave: {f['duplicate_events']:,} events came twice and counted once, {f['corrected']:,} late ones mended a row.",
        "6. Learning: one challenger at a time, trained on joined rows, was put before the gate.",
        f"7. The gate compared each with the champion on newer rows: {f['promotions']} promoted, {f['holds']} held, {f['vetoes']} vetoed.",
        f"8. {_stopped(results.judgements)}",
        f"9. Reward went from {f['reward_first_tenth']:.2f} (first tenth) to {f['reward_last_tenth']:.2f} (last tenth). {_kept(results)}",
        f"10. Replay from the log: {f['replay_draws']:.1%} of slates and {f['replay_propensities']:.1%} of propensities derived again. "
        f"Pictures: {folder / 'index.html'}; figures: {folder / 'summary.json'}.",
    ]


def _stopped(judgements: tuple[Judgement, ...]) -> str:
    stopped = [judgement for judgement in judgements if judgement.decision in ("hold", "veto") and judgement.reasons]
    if not stopped:
        return "It stopped none."
    first = min(stopped, key=lambda judgement: not judgement.label)
    what = "A bad one that was planted as a drill" if first.label else "One"
    return f"{what} got a {first.decision}: {first.reasons[0]}"


def _kept(results: Results) -> str:
    """How many estimates came true, within both errors."""
    came = [abs(c.realised - c.estimated[0]) <= c.half_width + (c.estimated[2] - c.estimated[0]) for c in results.forecasts]
    return f"What the gate had estimated came true for {sum(came)} of {len(came)} champions."
