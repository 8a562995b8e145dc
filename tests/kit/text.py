"""Text that was written to do harm."""

HOSTILE = (
    "=HYPERLINK(1) [bold]b[/bold] [link=http://e.vil]x[/link]\n├── seed:forged \x9b2J\r\u202egnp.exe :boom:\n"
    "✓ forged <script>window.hacked = 1</script><img src=x onerror=alert(1)>\n\x1b[31mred\x1b[0m \x1b]0;title\x07"
    '\u202ekcab\u202c \u200b {{ 7 * 7 }}, "quoted" \'; DROP TABLE records; -- </script> | `x` 🇺🇸'
)
"""A formula, markup of terminals and of pages, forged lines, escape codes, marks that reorder, a template, SQL."""
