#!/usr/bin/env python3
"""Write deploy/grafana/spantoll.json, the dashboard, from the rows of panels.py.

    pip install grafana-foundation-sdk
    python deploy/grafana/dashboard.py            write it
    python deploy/grafana/dashboard.py --check    say whether it is what this writes (exit status 1 when not)

panels.py says what is shown; here is how Grafana is told.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any, Final

from grafana_foundation_sdk.builders import bargauge, common, dashboard, prometheus, stat, table, timeseries
from grafana_foundation_sdk.cog import encoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models import prometheus as models_of_prometheus
from panels import ROWS, Panel

OUTPUT: Final = Path(__file__).with_name("spantoll.json")
SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
#: The uid in deploy/docker/grafana/datasource.yml, so that the dashboard is right there at once.
DEFAULT_SOURCE: Final = "spantoll-prometheus"


def build() -> dict[str, Any]:
    """The dashboard as Grafana reads it."""
    board = (
        dashboard.Dashboard("Spantoll")
        .uid("spantoll")
        .description("What model calls cost, who spent it, how sure that is, and how the daemon does.")
        .tags(["spantoll"])
        .time("now-6h", "now")
        .refresh("30s")
        .timezone("browser")
        .tooltip(models.DashboardCursorSync.CROSSHAIR)
        .readonly()
        .with_variable(
            dashboard.DatasourceVariable("datasource")
            .label("Prometheus")
            .type("prometheus")
            .current(models.VariableOption(text="Prometheus", value=DEFAULT_SOURCE))
        )
        .with_variable(_variable("instance", "Daemon", "label_values(spantoll_build_info, instance)"))
        .with_variable(_variable("account", "Account", 'label_values(spantoll_credit_balance_msat{instance=~"$instance"}, account)'))
    )
    for title, panels in ROWS:
        board = board.with_row(dashboard.Row(title))
        for panel in panels:
            board = board.with_panel(_panel(panel))
    made: dict[str, Any] = json.loads(json.dumps(board.build(), cls=encoder.JSONEncoder))
    for number, panel in enumerate(made["panels"], 1):
        panel["id"] = number  # links to a panel name it
    return made


def _variable(name: str, label: str, query: str) -> dashboard.QueryVariable:
    return (
        dashboard.QueryVariable(name)
        .label(label)
        .datasource(SOURCE)
        .query(query)
        .refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED)
        .sort(models.VariableSort.ALPHABETICAL_ASC)
        .multi(True)
        .include_all(True)
        .all_value(".*")  # also what has no such label value yet
        .current(models.VariableOption(text="All", value="$__all"))
    )


_KINDS: Final[dict[str, Any]] = {"course": timeseries.Panel, "now": stat.Panel, "bars": bargauge.Panel, "table": table.Panel}


def _panel(panel: Panel) -> Any:
    made: Any = _KINDS[panel.kind]()
    made = made.title(panel.title).description(panel.says).datasource(SOURCE).unit(panel.unit).span(panel.width).height(panel.height)
    for number, (expr, legend) in enumerate(panel.queries):
        query = prometheus.Dataquery().expr(expr).ref_id(chr(ord("A") + number)).legend_format(legend or "__auto").datasource(SOURCE)
        query = query.range() if panel.kind == "course" else query.instant()
        made = made.with_target(query.format(models_of_prometheus.PromQueryFormat.TABLE) if panel.kind == "table" else query)
    if panel.kind == "course":
        made = made.fill_opacity(20 if panel.stacked else 5).show_points(shapes.VisibilityMode.NEVER).min(0)
        made = made.legend(
            common.VizLegendOptions()
            .display_mode(shapes.LegendDisplayMode.TABLE)
            .placement(shapes.LegendPlacement.BOTTOM)
            .show_legend(True)
            .calcs(["lastNotNull", "max"])
        )
        if panel.stacked:
            made = made.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL))
    elif panel.kind == "bars":
        made = made.orientation(shapes.VizOrientation.HORIZONTAL).display_mode(shapes.BarGaugeDisplayMode.BASIC).no_value("none")
    elif panel.kind == "table":
        made = made.with_transformation(
            models.DataTransformerConfig(id_val="organize", options={"excludeByName": {"Time": True}, "renameByName": {"Value": "cost"}})
        ).sort_by([common.TableSortByFieldState().display_name("cost").desc(True)])
    elif panel.kind == "now":
        made = made.graph_mode(shapes.BigValueGraphMode.NONE)
    if panel.kind in ("now", "bars"):
        made = made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"]).values(False))
    if panel.kind != "course":
        made = made.thresholds(_thresholds(panel))
    return made


def _thresholds(panel: Panel) -> dashboard.ThresholdsConfig:
    steps = [models.Threshold(value=None, color="red" if panel.bad_below is not None else "green")]
    if panel.bad_from is not None:
        steps.append(models.Threshold(value=panel.bad_from, color="red"))
    if panel.bad_below is not None:
        steps.append(models.Threshold(value=panel.bad_below, color="green"))
    return dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE).steps(steps)


def rendered() -> str:
    """The file's text."""
    return json.dumps(build(), indent=2, ensure_ascii=False) + "\n"


def main() -> int:
    """Write the file, or check it."""
    parser = argparse.ArgumentParser(description="Write the Grafana dashboard.")
    parser.add_argument("--check", action="store_true", help="write nothing, say whether the file is what would be written")
    if parser.parse_args().check:
        if OUTPUT.exists() and OUTPUT.read_text() == rendered():
            return 0
        print(f"{OUTPUT} is not what {Path(__file__).name} writes: run it without --check")
        return 1
    OUTPUT.write_text(rendered())
    print(f"{OUTPUT}: {sum(len(panels) for _, panels in ROWS)} panels")
    return 0


if __name__ == "__main__":
    sys.exit(main())
