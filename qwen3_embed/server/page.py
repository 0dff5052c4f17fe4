"""The page at /, for people: the version, the models, and a command that works."""

from __future__ import annotations

from html import escape

from ..version import __version__
from .example import example_command
from .exchange import Answer, Exchange

__all__ = ["page"]

_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 46rem; margin: 3rem auto; padding: 0 1rem;
       color: #222; background: #fff }
pre { background: #f4f4f4; padding: 1rem; white-space: pre-wrap;
      overflow-wrap: anywhere; border-radius: 4px }
td, th { text-align: left; padding: .2rem 1.5rem .2rem 0; vertical-align: top }
td:first-child { white-space: nowrap }
@media (prefers-color-scheme: dark) {
  body { color: #ddd; background: #1b1b1b } pre { background: #2a2a2a } a { color: #8ab4f8 }
}
"""
_HEADERS = (
    (b"content-security-policy", b"default-src 'none'; style-src 'unsafe-inline'"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
)


async def page(exchange: Exchange) -> Answer:
    """GET /."""
    registry = exchange.registry
    rows = []
    for name, embedder in {**registry.embedders, **registry.adapters}.items():
        kind = "embedding model" if name in registry.embedders else "the same with an adapter"
        shape = f"{embedder.dim} dimensions, {embedder.max_length} tokens"
        rows.append((name, kind, f"{shape}, {embedder.device}, {embedder.dtype}"))
        rows.append((f"{name}-query", "the same", "puts the query's instruction before each text"))
    for name, ranker in registry.rerankers.items():
        shape = f"{ranker.max_length} tokens, {ranker.device}, {ranker.dtype}"
        rows.append((name, "reranker", shape))
    for alias, name in registry.aliases.items():
        rows.append((alias, "alias", f"of {name}"))
    table = "\n".join(
        "<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    key = "KEY" if b"authorization" in exchange.headers else None
    command = escape(example_command(registry, exchange.url, key))
    content = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>qwen3-embed</title>
<style>{_STYLE}</style>
<h1>qwen3-embed {escape(__version__)}</h1>
<table>
<tr><th>model</th><th>kind</th><th></th></tr>
{table}
</table>
<p>A request:</p>
<pre>{command}</pre>
<p><a href="/openapi.json">/openapi.json</a> describes every route;
<a href="/metrics">/metrics</a> is for Prometheus, <a href="/health">/health</a> for probes.</p>
</html>
"""
    return Answer(200, content.encode(), b"text/html; charset=utf-8", _HEADERS)
