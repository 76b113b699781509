"""The style sheet of every page: one column of text, wide tables, galleries, light and dark."""

CSS = """
:root { color-scheme: light dark;
  --paper: #fbfbf9; --card: #ffffff; --ink: #1c1e21; --faint: #666b73; --line: #e1e1dc;
  --accent: #2f6bc4; --good: #1c7a4a; --good-paper: #e3f3ea; --bad: #b0301c; --bad-paper: #fbe7e3; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #131518; --card: #1b1e22; --ink: #e7e8ea; --faint: #9aa0a8; --line: #2f343a;
  --accent: #7fb0f5; --good: #6fd3a0; --good-paper: #15301f; --bad: #f29483;
  --bad-paper: #3a1a15; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -0.01em; }
h2 { font-size: 20px; margin: 52px 0 4px; letter-spacing: -0.005em; }
h3 { font-size: 15px; margin: 28px 0 8px; }
p { margin: 0 0 12px; max-width: 74ch; }
.lead, .small { color: var(--faint); }
.small { font-size: 13px; }
.facts { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr));
  gap: 10px 24px;
  margin: 20px 0 0; padding: 16px 0; border: solid var(--line); border-width: 1px 0; }
.facts dt { font-size: 12px; color: var(--faint); }
.facts dd { margin: 0; overflow-wrap: anywhere; font-variant-numeric: tabular-nums; }
section .facts { border: 0; padding: 0; margin: 10px 0 14px; }
.wide { overflow-x: auto; margin: 12px 0; }
table { border-collapse: collapse; width: 100%; font-size: 14px;
  font-variant-numeric: tabular-nums; }
th { text-align: left; font-weight: 500; font-size: 12px; color: var(--faint); }
th, td { padding: 7px 14px 7px 0; border-bottom: 1px solid var(--line); vertical-align: middle; }
td { white-space: nowrap; }
td.long { white-space: normal; min-width: 190px; }
.num { text-align: right; }
td.value { font-weight: 650; }
tr.suite td { padding-top: 18px; font-size: 12px; color: var(--faint); }
.pill { display: inline-block; padding: 1px 9px; border-radius: 99px; font-size: 12.5px; }
.pass { color: var(--good); background: var(--good-paper); }
.fail { color: var(--bad); background: var(--bad-paper); }
.bar { width: 110px; height: 14px; display: block; }
.bar .track { fill: var(--line); } .bar .range { fill: var(--accent); opacity: 0.4; }
.bar .point { fill: var(--accent); } .bar .base { stroke: var(--bad); stroke-width: 1.5; }
.plots { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 420px), 1fr));
  gap: 20px 28px; margin: 14px 0; align-items: start; }
.plot { width: 100%; height: auto; max-width: 620px; }
.plot text { font-family: inherit; }
.plot path, .plot line { stroke-linejoin: round; stroke-linecap: butt; }
.gallery { display: flex; flex-wrap: wrap; gap: 18px 16px; align-items: flex-start;
  margin: 10px 0; }
figure { margin: 0; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 8px; padding: 8px;
  max-width: 100%; }
.views { display: flex; gap: 6px; align-items: flex-start; }
.views video, .views img { display: block; height: 100%; width: 100%; border-radius: 4px;
  background: var(--line); }
.view { min-width: 0; }
.view small { display: block; color: var(--faint); font-size: 11.5px; margin-top: 3px; }
figcaption { font-size: 13px; line-height: 1.4; margin-top: 7px; overflow-wrap: anywhere; }
.meta { display: block; color: var(--faint); font-size: 11.5px; margin-top: 3px; }
.checks { display: flex; flex-wrap: wrap; gap: 4px; margin-top: 5px; }
.checks .pill { font-size: 11px; padding: 0 7px; }
details { margin: 12px 0; } summary { cursor: pointer; color: var(--accent); font-size: 14px; }
.sheet { max-width: 100%; height: auto; margin-top: 10px; border: 1px solid var(--line);
  border-radius: 6px; }
footer { margin-top: 64px; padding-top: 14px; border-top: 1px solid var(--line);
  color: var(--faint); font-size: 13px; }
"""
