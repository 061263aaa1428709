"""The style sheet of every page: two colours for data, three for verdicts, light and dark, one column on a phone."""

__all__ = ["CSS"]

CSS = """
:root{--bg:#fbfbfa;--card:#fff;--ink:#1b1f24;--muted:#5d6671;--line:#e2e4e8;--track:#eceef1;--s1:#2f6fc4;--s2:#e08a3c;
--band:#2f6fc429;--good:#1a7f4b;--bad:#c0392f;--warn:#946200}
@media(prefers-color-scheme:dark){:root{--bg:#14171b;--card:#1c2026;--ink:#e7eaee;--muted:#9aa4b0;--line:#30363f;
--track:#2a3038;--s1:#6aa5ee;--s2:#eda562;--band:#6aa5ee33;--good:#58c48a;--bad:#f0827a;--warn:#e3b341}}
*{box-sizing:border-box}
html{-webkit-text-size-adjust:100%}
body{margin:0;background:var(--bg);color:var(--ink);font:16px/1.5 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main{max-width:1040px;margin:0 auto;padding:0 20px}
header{padding-top:32px}
h1{font-size:1.7rem;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:1.15rem;margin:0 0 12px}
.sub,.muted{color:var(--muted)}
.sub{margin:0 0 8px;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:4px 16px;margin:10px 0 4px}
a{color:var(--s1);text-decoration:none}
a:hover{text-decoration:underline}
section{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:18px 20px;margin:16px 0}
main{padding-bottom:40px}
p{margin:0 0 12px;max-width:75ch;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(138px,1fr));gap:12px;margin:0 0 16px}
.tile{border:1px solid var(--line);border-radius:8px;padding:10px 14px}
.tile .label{color:var(--muted);font-size:.82rem}
.tile .value{font-size:1.4rem;font-weight:650;line-height:1.25;font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.tile .note{color:var(--muted);font-size:.82rem}
.tile.good .note,b.good{color:var(--good)}
.tile.bad .note,b.bad{color:var(--bad)}
.tile.warn .note{color:var(--warn)}
.columns{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(300px,100%),1fr));gap:20px;align-items:start}
.columns+*,.scroll+*{margin-top:16px}
figure{margin:0 0 12px;min-width:0}
figcaption{color:var(--muted);font-size:.86rem;max-width:60ch}
svg{display:block;width:100%;max-width:420px;height:auto}
svg .t{font-size:13px;fill:var(--ink)}
svg .muted{fill:var(--muted);font-size:12px}
svg .strong{font-weight:600}
svg .end{text-anchor:end}
svg .middle{text-anchor:middle}
svg .track{fill:var(--track)}
svg .s1{fill:var(--s1)}
svg .s2{fill:var(--s2)}
svg .grid{stroke:var(--line);stroke-width:1;fill:none}
svg .target{stroke:var(--muted);stroke-width:1.5;stroke-dasharray:4 4;fill:none}
svg .whisker{stroke:var(--ink);stroke-width:2;fill:none}
svg .whisker.thin{stroke:var(--s1);stroke-width:1}
svg .whisker-halo{stroke:var(--card);stroke-width:5;fill:none}
svg .band{fill:var(--band)}
svg .line{fill:none;stroke:var(--s1);stroke-width:2}
svg .dot{fill:var(--s1);stroke:var(--card);stroke-width:2}
.video{border:1px solid var(--line);border-radius:8px;overflow:hidden}
.video img,.novideo{display:block;width:100%;aspect-ratio:1;object-fit:contain;background:var(--track)}
.video.bad{border-color:var(--bad)}
.video figcaption{padding:6px 10px 8px}
.videos .columns{grid-template-columns:repeat(auto-fill,minmax(min(180px,44%),1fr));gap:12px}
.novideo{display:grid;place-items:center;color:var(--muted);font-size:.82rem;padding:8px}
.scroll{overflow-x:auto;max-height:70vh}
table{border-collapse:collapse;font-size:.88rem;min-width:min(100%,420px);font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:5px 12px 5px 0;border-bottom:1px solid var(--line);white-space:nowrap}
th{color:var(--muted);font-weight:600;position:sticky;top:0;background:var(--card)}
td.num,th.num{text-align:right;padding-right:16px}
tr.bad td{background:color-mix(in srgb,var(--bad) 9%,transparent)}
tr.good td{background:color-mix(in srgb,var(--good) 9%,transparent)}
h3{font-size:1rem;margin:0 0 8px;overflow-wrap:anywhere}
a.meter{display:block;color:var(--ink);padding:2px 8px;border-radius:5px;
background:linear-gradient(90deg,var(--band) var(--v),var(--track) var(--v))}
dl{display:grid;grid-template-columns:max-content 1fr;gap:3px 18px;margin:0 0 12px;font-size:.92rem}
dt{color:var(--muted)}
dd{margin:0;overflow-wrap:anywhere;min-width:0}
pre{background:var(--track);border-radius:6px;padding:10px 12px;overflow-x:auto;margin:0 0 12px;font-size:.86rem}
summary{cursor:pointer;color:var(--s1);margin:4px 0 10px}
@media(max-width:560px){header,main{padding-left:12px;padding-right:12px}section{padding:14px}
.tiles{grid-template-columns:1fr 1fr;gap:8px}.tile .value{font-size:1.25rem}dl{grid-template-columns:1fr;gap:0}
dd{margin-bottom:6px}}
@media print{body{background:#fff}section{break-inside:avoid}}
"""
"""No quotation of a file, font or address: a page with this sheet works without a network."""
