"""How the page looks: one style sheet, light and dark, from 320 pixels on."""

STYLE = """
:root {
  color-scheme: light dark;
  --ground: #ffffff; --raised: #f6f7f9; --line: #dfe3e8; --text: #1c2127; --soft: #5c6670;
  --faint: #b4bcc5; --accent: #2563c9; --good: #1f7a4d; --bad: #c0392b;
  --c0: #2563c9; --c1: #d9730d; --c2: #1f8a5b; --c3: #c23b3b; --c4: #7b4fc4;
  --c5: #8a6144; --c6: #d14f9a; --c7: #707984; --c8: #a3a016; --c9: #159eb3;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15181c; --raised: #1e2329; --line: #353c45; --text: #e6e9ed; --soft: #a0aab5;
    --faint: #59636e; --accent: #79a8f5; --good: #63c795; --bad: #f08a80;
    --c0: #79a8f5; --c1: #f2a65a; --c2: #63c795; --c3: #f08a80; --c4: #b596f0;
    --c5: #c79f83; --c6: #f093c4; --c7: #a0aab5; --c8: #d3d04f; --c9: #5fd0e3;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0; background: var(--ground); color: var(--text);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif;
}
main, header { max-width: 1120px; margin: 0 auto; padding: 0 20px; }
header { padding-top: 28px; }
h1 { margin: 0; font-size: 1.75rem; line-height: 1.2; overflow-wrap: anywhere; }
h2 { margin: 44px 0 12px; padding-top: 12px; border-top: 1px solid var(--line); font-size: 1.3rem; }
h3 { margin: 26px 0 8px; font-size: 1.02rem; }
p { margin: 6px 0 12px; max-width: 75ch; }
a { color: var(--accent); }
.soft { color: var(--soft); }
nav ul { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 14px 0 0; padding: 0; }
nav li { list-style: none; }
.note {
  margin: 12px 0; padding: 8px 12px; border-left: 3px solid var(--c1);
  background: var(--raised); border-radius: 0 6px 6px 0; max-width: 75ch;
}
.cards { display: flex; flex-wrap: wrap; gap: 10px; margin: 16px 0; padding: 0; }
.cards div { flex: 1 1 138px; max-width: 260px; padding: 10px 14px; background: var(--raised);
  border-radius: 8px; }
.cards dt { color: var(--soft); font-size: .84rem; }
.cards dd { margin: 0; font-size: 1.4rem; font-variant-numeric: tabular-nums; }
.cards dd small { display: block; color: var(--soft); font-size: .8rem; }
.scroll { overflow: auto; max-height: 460px; border: 1px solid var(--line); border-radius: 8px;
  width: fit-content; max-width: 100%; }
.scroll:has(.texts) { max-height: none; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: 5px 12px; text-align: right; white-space: nowrap; }
th:first-child, td:first-child, td.name, .texts th, .pairs th:nth-child(2) { text-align: left; }
td.name, th[scope=row] { max-width: min(340px, 42vw); overflow: hidden; text-overflow: ellipsis; }
thead th { position: sticky; top: 0; background: var(--raised); font-weight: 600; z-index: 1; }
tbody tr + tr { border-top: 1px solid var(--line); }
tbody th { font-weight: 500; }
tr.total { font-weight: 600; }
td.share { position: relative; min-width: 130px; }
td.share i { position: absolute; left: 0; top: 4px; bottom: 4px; background: var(--accent);
  opacity: .2; border-radius: 0 3px 3px 0; }
td.share b { position: relative; font-weight: inherit; }
td.wrap { white-space: normal; text-align: left; overflow-wrap: anywhere; min-width: 200px; }
pre { margin: 8px 0; padding: 10px 14px; background: var(--raised); border-radius: 8px;
  overflow: auto; max-height: 420px; font-size: .84rem; }
pre.command { white-space: pre-wrap; }
pre.command span { display: inline-block; max-width: 100%; overflow-wrap: anywhere; }
details { margin: 10px 0; }
summary { cursor: pointer; color: var(--accent); }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 310px), 1fr));
  gap: 18px; }
.examples { grid-template-columns: repeat(auto-fill, minmax(138px, 1fr)); }
.wide { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 440px), 1fr));
  gap: 18px; align-items: start; }
figure { margin: 0; min-width: 0; }
figcaption { font-weight: 600; margin-bottom: 4px; }
svg.chart { display: block; width: 100%; height: auto; max-width: 760px; }
.wide > figure { max-width: 540px; }
svg text { fill: var(--soft); font-size: 11px; }
svg text.label { font-size: 12px; }
svg .mid { text-anchor: middle; } svg .end { text-anchor: end; }
svg .grid { stroke: var(--line); } svg .axis { stroke: var(--faint); }
svg .curve { fill: none; stroke-width: 1.8; stroke-linejoin: round; }
svg .bar { fill: var(--accent); }
svg .gap { fill: var(--bad); fill-opacity: .3; }
svg .diagonal { stroke: var(--soft); stroke-dasharray: 4 4; }
svg .dot { fill-opacity: .65; }
svg .marked { fill-opacity: 1; stroke: var(--text); stroke-width: 1; }
svg .cell { fill: var(--accent); } svg .wrong { fill: var(--bad); }
svg text.count { fill: var(--text); font-size: 11px; text-anchor: middle; }
svg text.light { fill: var(--ground); }
svg .frame { fill: none; stroke: var(--faint); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 14px; margin: 6px 0 0; padding: 0;
  font-size: .84rem; color: var(--soft); }
.legend li { list-style: none; overflow-wrap: anywhere; }
.legend i { display: inline-block; width: 10px; height: 10px; margin-right: 5px;
  border-radius: 50%; }
img { display: block; background: var(--raised); border-radius: 4px; object-fit: contain; }
img.tiny { image-rendering: pixelated; }
.strip { display: flex; flex-wrap: wrap; gap: 6px; }
.strip img { width: 64px; height: 64px; }
.shown { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 10px;
  margin: 0; padding: 0; }
.shown li { display: flex; gap: 10px; list-style: none; padding: 8px; background: var(--raised);
  border-radius: 8px; min-width: 0; }
.shown img { width: 84px; height: 84px; flex: none; }
.shown div { min-width: 0; overflow-wrap: anywhere; font-size: .86rem; }
.shown .path { color: var(--soft); font-size: .78rem; }
.views th, .views td { text-align: left; font-weight: 400; vertical-align: top; }
.views thead th { color: var(--soft); font-size: .84rem; }
.views img { width: 72px; height: 72px; }
.views .strip { flex-wrap: nowrap; }
footer { margin: 48px 0 32px; color: var(--soft); font-size: .84rem; }
@media print { .scroll, pre { max-height: none; overflow: visible; } }
"""
