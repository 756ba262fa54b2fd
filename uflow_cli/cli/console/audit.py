"""What fresh good images say of a run's promise."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape  # noqa: TID251
from rich.table import Table  # noqa: TID251

from uflow_cli.cli.console.terminal import err, out, print_json

if TYPE_CHECKING:
    from uflow_cli.check import Audit

FLAGGED_SHOWN = 5
COLOURS = {"holds": "bold green", "cannot tell yet": "bold yellow", "broken": "bold red"}


def print_audit(audit: Audit, *, as_json: bool) -> None:
    """Promises beside what was seen, the drift per scale, and a plain verdict; or all of it as JSON."""
    if as_json:
        from uflow_cli.check import audit_to_dict

        print_json(audit_to_dict(audit))
    else:
        _print_tables(audit)
    for _, message in audit.errors:
        err().print(f"uflow: {escape(message)}")


def _print_tables(audit: Audit) -> None:
    console = out()
    promises = Table(box=None, pad_edge=False)
    promises.add_column("promise", no_wrap=True)
    for name in ("at most", "seen", "95 % interval", "verdict"):
        promises.add_column(name, justify="right", no_wrap=True)
    for j in audit.judgements:
        verdict = f"[{COLOURS[j.verdict]}]{j.verdict}[/]"
        promises.add_row(j.what, f"{j.promised:.3g}", f"{j.seen:.3g}", f"{j.low:.3f}-{j.high:.3f}", verdict)
    console.print(promises)
    console.print()
    drift = Table(box=None, pad_edge=False)
    for name in ("scale", "v then", "v now", "k then", "k now", "moved"):
        drift.add_column(name, justify="right", no_wrap=True)
    for scale, d in enumerate(audit.drifts, start=1):
        drift.add_row(
            str(scale), f"{d.v_then:.3f}", f"{d.v_now:.3f}", f"{d.k_then:.1f}", f"{d.k_now:.1f}",
            f"yes, by {d.z:+.1f} standard errors" if d.moved else "no",
        )  # fmt: skip
    console.print(drift)
    console.print()
    console.print(_sentence(audit), soft_wrap=True)
    if audit.cause:
        console.print(f"likely cause: {audit.cause}", soft_wrap=True)
    if audit.flagged:
        shown = ", ".join(path.name for path in audit.flagged[:FLAGGED_SHOWN])
        more = f" and {len(audit.flagged) - FLAGGED_SHOWN} more" if len(audit.flagged) > FLAGGED_SHOWN else ""
        console.print(escape(f"flagged: {shown}{more}"), soft_wrap=True)
    if audit.recalibrated is not None:
        kept = audit.recalibrated
        console.print(
            f"recalibrated on {kept.n_images} images: the smallest false-alarm rate that can be promised is "
            f"{kept.smallest_rate:.3f}; the calibration before is kept in the run folder", soft_wrap=True,
        )  # fmt: skip


def _sentence(audit: Audit) -> str:
    n = audit.n_images
    images = f"{n} good image{'s' if n != 1 else ''}"
    if audit.verdict == "broken":
        return f"[{COLOURS['broken']}]broken[/]: on {images} there are more false alarms than promised"
    if audit.verdict == "holds":
        return f"[{COLOURS['holds']}]holds[/]: {images} say nothing against it, and twice the promise would have shown"
    return (
        f"[{COLOURS['cannot tell yet']}]cannot tell yet[/]: {images} do not suffice; about {audit.n_more} more like "
        "these would settle it"
    )
