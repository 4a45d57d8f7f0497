"""What every page of this library is written into: one HTML file, no network, no scripts."""

import html
from importlib.resources import files


def document(title: str, body: str, clips: bool = False) -> str:
    """A whole page. title: plain text; body: HTML that stands in `<main>`; clips: whether films inside the page may play."""
    media = "media-src data:; " if clips else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; {media}img-src data:">
<link rel="icon" href="data:,">
<title>{html.escape(title)}</title>
<style>
{files("tutelage.experiment").joinpath("report.css").read_text(encoding="utf-8")}</style>
</head>
<body>
<main>
{body}</main>
</body>
</html>
"""
