"""Style of the player, on top of :mod:`robopolicy.evaluation.style` and in its colours."""

__all__ = ["STYLE"]

STYLE = """
header,main{max-width:1360px}
header .tiles{margin:14px 0 0}
.player{display:grid;grid-template-columns:minmax(210px,270px) 1fr;gap:0;padding:0;overflow:hidden}
.list{border-right:1px solid var(--line);overflow-y:auto;max-height:min(1080px,92vh);outline-offset:-3px}
.list button{display:grid;grid-template-columns:1.2em 1fr auto;gap:2px 8px;width:100%;text-align:left;font:inherit;
color:inherit;background:none;border:0;border-bottom:1px solid var(--line);padding:8px 12px;cursor:pointer}
.list button:hover{background:var(--track)}
.list button[aria-selected=true]{background:var(--band);box-shadow:inset 3px 0 0 var(--s1)}
.list .mark{font-weight:700}.list .good{color:var(--good)}.list .bad{color:var(--bad)}
.list .text{grid-column:2/4;color:var(--muted);font-size:.84rem;overflow:hidden;text-overflow:ellipsis;
display:-webkit-box;-webkit-line-clamp:2;-webkit-box-orient:vertical;overflow-wrap:anywhere}
.list .rows{color:var(--muted);font-size:.84rem;font-variant-numeric:tabular-nums}
.stage{padding:16px 20px;min-width:0}
.head{display:flex;flex-wrap:wrap;gap:6px 14px;align-items:baseline}
.head h2{margin:0}
.badges{display:flex;flex-wrap:wrap;gap:6px}
.badges span{border:1px solid var(--line);border-radius:20px;padding:1px 10px;font-size:.82rem;color:var(--muted)}
.badges .good{color:var(--good);border-color:currentColor}.badges .bad{color:var(--bad);border-color:currentColor}
.badges .warn{color:var(--warn);border-color:currentColor}
.said{margin:4px 0 12px;font-size:1.05rem}
.cameras{display:flex;flex-wrap:wrap;gap:12px}
.cameras figure{margin:0;flex:0 1 auto}
.cameras canvas{display:block;border-radius:8px;background:var(--track);height:min(224px,40vw);width:auto;
max-width:100%;image-rendering:auto}
.bar{display:flex;gap:10px;align-items:center;margin:12px 0}
.bar input{flex:1;min-width:80px;accent-color:var(--s1)}
.bar button,.bar select,.choices button{font:inherit;color:var(--ink);background:var(--card);
border:1px solid var(--line);border-radius:7px;padding:3px 10px;cursor:pointer}
.bar button{min-width:44px;min-height:34px}
.bar output{font-variant-numeric:tabular-nums;color:var(--muted);min-width:13ch;text-align:right;font-size:.88rem}
.choices{display:flex;flex-wrap:wrap;gap:6px;margin:0 0 10px}
.choices button{font-size:.84rem;border-radius:20px;color:var(--muted)}
.choices button[aria-pressed=true]{color:var(--ink);border-color:var(--s1)}
.choices i{display:inline-block;width:14px;height:3px;border-radius:2px;vertical-align:middle;margin-right:7px}
.plots{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(240px,100%),1fr));gap:10px}
.plot{border:1px solid var(--line);border-radius:8px;padding:6px 8px 4px;min-width:0}
.plot div{display:flex;justify-content:space-between;gap:8px;font-size:.8rem;white-space:nowrap}
.plot b{font-weight:600;overflow:hidden;text-overflow:ellipsis}
.plot span{color:var(--muted);font-variant-numeric:tabular-nums;font-size:.8rem}
.plot canvas{display:block;width:100%;height:74px;cursor:crosshair;touch-action:none}
#findings ul{margin:12px 0;padding-left:1.2em;font-size:.9rem}
#findings .error{color:var(--bad)}#findings .warning{color:var(--warn)}
.small{font-size:.82rem;margin-top:10px}
svg.mini{width:96px;height:22px;max-width:none}
button:focus-visible,select:focus-visible,input:focus-visible{outline:2px solid var(--s1);outline-offset:1px}
@media(max-width:760px){.player{grid-template-columns:1fr}.list{border-right:0;border-bottom:1px solid var(--line);
max-height:190px}.stage{padding:12px 14px}}
"""
