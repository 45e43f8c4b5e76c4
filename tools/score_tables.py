"""Tables of scores for the model card (Markdown) and the documentation (reStructuredText).

python tools/score_tables.py scores/scores.json markdown
python tools/score_tables.py scores/scores.json rst
"""

import json
import sys
from pathlib import Path

METHODS = ("network", "trees (7 x 7 patch)", "trees (fibres)", "ridge (7 x 7 patch)", "light x constant EW")
SCORES = (
    "R2 log EW",
    "R2 log EW within galaxies",
    "R2 log flux",
    "r after r-band",
    "MAE log EW [dex]",
    "MAE log flux [dex]",
    "bias log flux [dex]",
    "Spearman EW, median",
    "AUC EW > 3 A",
)
CALIBRATION = ("coverage 68 %", "coverage 95 %")
REGIONS = {"whole": "Whole galaxies", "off-centre": "Off-centre (0.7 to 1.6 Re)"}
LINES = {"Ha": "H-alpha", "N2": "[N II] 6583"}


def cell(row):
    """Value with its interval."""
    if row is None or row["value"] is None:
        return ""
    if row["low"] is None:
        return f"{row['value']:.2f}"
    return f"{row['value']:.2f} ({row['low']:.2f} to {row['high']:.2f})"


def tables(report):
    """Yield (title, header, rows) of each line and region."""
    found = {(r["predictor"], r["quantity"], r["region"], r["stratum"], r["score"]): r for r in report["scores"]}
    known = {r["predictor"] for r in report["scores"]}
    methods = [name for name in METHODS if name in known]
    for line, line_name in LINES.items():
        for region, region_name in REGIONS.items():
            first = found[methods[0], line, region, "all", "R2 log EW"]
            where = region_name[0].lower() + region_name[1:]
            title = f"{line_name}, {where}: {first['galaxies']} galaxies, {first['spaxels']} spaxels"
            rows = [[s, *(cell(found.get((m, line, region, "all", s))) for m in methods)] for s in SCORES]
            for name, quantity in ((f"EW {line}", "EW"), (line, "flux")):
                for s in CALIBRATION:
                    some = [found.get((m, name, region, "all", s)) for m in methods]
                    rows.append([f"{s.split()[1]} % interval of {quantity} covers", *map(cell, some)])
            yield title, ["score", *methods], rows


def main(path, kind):
    """Print the tables."""
    report = json.loads(Path(path).read_text(encoding="utf-8"))
    for title, header, rows in tables(report):
        if kind == "markdown":
            print(f"**{title}**\n\n| {' | '.join(header)} |\n{'|---' * len(header)}|")
            print("\n".join(f"| {' | '.join(row)} |" for row in rows), end="\n\n")
        else:
            print(f".. list-table:: {title}\n   :header-rows: 1\n")
            for row in (header, *rows):
                print("\n".join(f"   {'*' if not i else ' '} - {text}".rstrip() for i, text in enumerate(row)))
            print()


if __name__ == "__main__":
    main(*sys.argv[1:3])
