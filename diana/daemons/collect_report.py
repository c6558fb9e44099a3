"""What became of a collection: row by row as CSV and JSON, and as one HTML page with a picture of the run."""

from __future__ import annotations

import csv
import datetime as dt
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any, Final  # outcomes are JSON

from attrs import define, field, frozen

from diana.daemons.collect_plan import READY, Plan, Verdict
from diana.ledger.work_rows import Item

WORST: Final = ("failed", "incomplete", "running", "waiting", "unverifiable", "verified")
COLUMNS: Final = ("row", "state", "planned", "reason", "studies", "expected", "verified", "missing", "same_as")
COLOURS: Final = {
    "verified": "#2e7d32",
    "unverifiable": "#f9a825",
    "incomplete": "#ef6c00",
    "failed": "#c62828",
    "waiting": "#90a4ae",
    "running": "#1565c0",
}
OTHER_COLOURS: Final = ("#757575", "#bdbdbd", "#8d6e63", "#5c6bc0", "#26a69a", "#ab47bc")
MAX_BARS: Final = 2000
WIDTH, BAR = 960, 4


@frozen
class RowReport:
    """Say what became of one row: ``state`` is that of its worst study, or what the plan said when there is none."""

    row: int
    state: str
    planned: str
    reason: str = ""
    studies: int = 0
    expected: int | None = None
    verified: int = 0
    missing: int = 0
    same_as: int = 0

    def asdict(self) -> dict[str, Any]:
        """Return the row as JSON data."""
        return {name: getattr(self, name) for name in COLUMNS}


@define(eq=False)
class CollectReport:
    """
    Join a plan with what the ledger knows. It names rows by their number and holds no value of the worklist.

    ``items`` maps study UIDs to items of the ledger; it is empty before the run.
    """

    plan: Plan
    items: Mapping[str, Item] = field(factory=dict, repr=False)

    def rows(self) -> Iterator[RowReport]:
        """Yield what became of each row, in the order of the worklist."""
        for verdict in self.plan.rows:
            yield self._row(verdict)

    def _row(self, verdict: Verdict) -> RowReport:
        own = [self.items[uid] for uid in verdict.studies if uid in self.items]
        if verdict.state not in (READY, "duplicate", "delivered") or not own:
            return RowReport(
                verdict.row, verdict.state, verdict.state, verdict.reason, len(verdict.studies), same_as=verdict.same_as
            )
        worst = min(own, key=lambda one: WORST.index(one.state) if one.state in WORST else 0)
        counted: list[Any] = [one.outcome.get("expected") for one in own]
        return RowReport(
            verdict.row,
            worst.state,
            verdict.state,
            worst.reason or verdict.reason,
            len(verdict.studies),
            None if None in counted else sum(counted),
            sum(one.outcome.get("verified", 0) for one in own),
            sum(len(one.outcome.get("missing", ())) for one in own),
            verdict.same_as,
        )

    def summary(self) -> dict[str, Any]:
        """Return the numbers of the whole: rows and studies by state, instances, bytes and seconds."""
        outcomes = [one.outcome for one in self.items.values() if one.outcome]
        starts = [one["started"] for one in outcomes if one.get("started")]
        ends = [one["ended"] for one in outcomes if one.get("ended")]
        return {
            "project": self.plan.project,
            "source": self.plan.source,
            "dest": self.plan.dest,
            "rows": dict(Counter(one.state for one in self.rows())),
            "studies": dict(Counter(one.state for one in self.items.values())) or {"planned": len(self.plan.studies)},
            "instances": sum(one.get("verified", 0) for one in outcomes),
            "missing": sum(len(one.get("missing", ())) for one in outcomes),
            "rejected": sum(len(one.get("rejected", ())) for one in outcomes),
            "bytes": sum(one.get("bytes", 0) for one in outcomes),
            "seconds": round(max(ends) - min(starts), 1) if starts and ends else 0.0,
        }

    def csv(self) -> str:
        """Return the rows as CSV with a heading."""
        text = StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(one.asdict() for one in self.rows())
        return text.getvalue()

    def html(self) -> str:
        """Return one page that needs nothing else: the numbers, a picture of the run, each row, and what is missing."""
        summary = self.summary()
        rows = list(self.rows())
        parts = [
            _HEAD.format(title=escape(f"Collection {self.plan.project}")),
            f"<h1>Collection {escape(self.plan.project)}</h1>",
            f"<p>{escape(self.plan.source)} to {escape(self.plan.dest)}</p>",
            _tiles(summary),
            "<h2>Outcomes</h2>",
            _shares("rows", summary["rows"]),
            _shares("studies", summary["studies"]),
            "<h2>Run</h2>",
            self._timeline(),
            "<h2>What is missing</h2>",
            self._missing(),
            "<h2>Rows</h2>",
            _table(COLUMNS, [[value or None for value in one.asdict().values()] for one in rows]),
            "</main></body></html>\n",
        ]
        return "\n".join(parts)

    def _timeline(self) -> str:
        """Draw each study as a bar from its start to its end, one below the other in the order of their starts."""
        done = [
            (one.outcome["started"], one.outcome["ended"], one)
            for one in self.items.values()
            if one.outcome.get("started") and one.outcome.get("ended")
        ]
        if not done:
            return "<p>Nothing has run yet.</p>"
        done.sort(key=lambda one: one[0])
        first, last = done[0][0], max(one[1] for one in done)
        span = max(last - first, 0.001)
        step = max(1, len(done) // MAX_BARS + (len(done) % MAX_BARS > 0))
        shown = done[::step]
        bars = []
        for at, (start, end, item) in enumerate(shown):
            left, wide = (start - first) / span * WIDTH, max((end - start) / span * WIDTH, 1.5)
            label = f"study {item.id}: {item.state}, {end - start:.1f} s"
            bars.append(
                f'<rect x="{left:.1f}" y="{at * BAR}" width="{wide:.1f}" height="{BAR - 1}"'
                f' fill="{COLOURS.get(item.state, "#616161")}"><title>{escape(label)}</title></rect>'
            )
        began = dt.datetime.fromtimestamp(first).astimezone().isoformat(timespec="seconds")
        ended = dt.datetime.fromtimestamp(last).astimezone().isoformat(timespec="seconds")
        height = len(shown) * BAR
        return (
            f'<svg role="img" aria-label="Studies over time" viewBox="0 0 {WIDTH} {height}" width="100%"'
            f' height="{min(height, 600)}" preserveAspectRatio="none">{"".join(bars)}</svg>'
            f'<p class="ends"><span>{escape(began)}</span><span>{escape(ended)}</span></p>'
        )

    def _missing(self) -> str:
        """List the studies that are not verified and why, then the instances that are not there."""
        bad = [one for one in self.items.values() if one.state != "verified"]
        if not bad:
            return "<p>Nothing.</p>"
        studies = [
            (f"study {one.id}", one.state, one.outcome.get("expected"), one.outcome.get("verified", 0), one.reason)
            for one in bad
        ]
        shown = _table(("study", "state", "expected", "verified", "why"), studies)
        lines = []
        for item in bad:
            lines += [[f"study {item.id}", uid, item.reason] for uid in item.outcome.get("missing", ())]
            lines += [[f"study {item.id}", uid, note] for uid, note in item.outcome.get("rejected", {}).items()]
        return shown + (_table(("study", "SOP Instance UID", "why"), lines) if lines else "")


def _shares(name: str, counts: Mapping[str, int]) -> str:
    """Draw how many are in each state, as one bar with its legend."""
    total, left = sum(counts.values()), 0.0
    bars: list[str] = []
    legend: list[str] = []
    for state, count in counts.items():
        wide = count / total * WIDTH
        colour = COLOURS.get(state, OTHER_COLOURS[len(bars) % len(OTHER_COLOURS)])
        label = escape(f"{count} {name} {state}")
        bars.append(
            f'<rect x="{left:.1f}" width="{wide:.1f}" height="24" fill="{colour}"><title>{label}</title></rect>'
        )
        legend.append(f'<span><i style="background:{colour}"></i>{label}</span>')
        left += wide
    return (
        f'<svg role="img" aria-label="{name} by state" viewBox="0 0 {WIDTH} 24" width="100%" height="24"'
        f' preserveAspectRatio="none">{"".join(bars)}</svg><p class="legend">{"".join(legend)}</p>'
    )


def _tiles(summary: Mapping[str, Any]) -> str:
    numbers = {
        **{f"rows {state}": count for state, count in summary["rows"].items()},
        **{f"studies {state}": count for state, count in summary["studies"].items()},
        "instances": summary["instances"],
        "instances missing": summary["missing"],
        "instances held back": summary["rejected"],
        "MB": round(summary["bytes"] / 1e6, 1),
        "seconds": summary["seconds"],
    }
    tiles = (f"<div><b>{escape(str(value))}</b>{escape(name)}</div>" for name, value in numbers.items())
    return f'<section class="tiles">{"".join(tiles)}</section>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in heads)
    body = "".join(
        "<tr>" + "".join(f"<td>{'' if one is None else escape(str(one))}</td>" for one in row) + "</tr>" for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


_HEAD: Final = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title><style>
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 0; color: #212121; background: #fafafa }}
main {{ max-width: 1000px; margin: 2rem auto; padding: 0 1rem }}
.tiles {{ display: flex; flex-wrap: wrap; gap: .6rem }}
.tiles div {{ background: #fff; border: 1px solid #ddd; border-radius: 6px; padding: .5rem .9rem }}
.tiles b {{ display: block; font-size: 1.5rem }}
svg {{ background: #fff; border: 1px solid #ddd }}
.legend {{ display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .3rem 0 1rem }}
.legend i {{ display: inline-block; width: .8em; height: .8em; margin-right: .4em }}
.ends {{ display: flex; justify-content: space-between; margin: 0; color: #616161 }}
table {{ border-collapse: collapse; width: 100%; background: #fff; margin-bottom: 1rem }}
th, td {{ border: 1px solid #ddd; padding: .2rem .5rem; text-align: left; overflow-wrap: break-word }}
</style></head><body><main>"""
