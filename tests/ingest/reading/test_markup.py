"""Markdown, HTML and EPUB: the tree walker and what is pruned from pages."""

from __future__ import annotations

from tests.ingest.reading import samples
from tests.ingest.reading.conftest import ReadBytes, Refusal

MARKDOWN = """---
title: "Sổ tay nhân viên"
---
# Sổ tay

Đoạn **đầu** với [liên kết](http://x).
Dòng tiếp.

## Nghỉ phép

- Mười bốn ngày
- Báo trước
  ba ngày

3. Khoản ba

| Loại | Ngày |
|------|-----:|
| Năm  | 14   |
| Ốm   | 30   |

```python
if x:
    y = 1
```

**Điều 5. Tốc độ**

<div>HTML trong Markdown</div>
"""
PAGE = """<!doctype html><html lang="vi"><head><meta charset="utf-8"><title>Mức phạt | Báo</title>
<script>var secret = 1</script></head><body>
<header><a href="/">Trang chủ</a><nav><ul><li><a href="/a">Thời sự</a></li></ul></nav></header>
<div class="breadcrumb"><a href="/">Trang chủ</a> › <a href="/b">Pháp luật</a></div>
<article><h1>Mức phạt vượt đèn đỏ</h1><p>Mức phạt <b>tăng</b> từ ngày 1/1.</p>
<h2>Xe máy</h2><p>Từ 4.000.000 đồng<br>đến 6.000.000 đồng.</p>
<table><tr><th>Loại xe</th><th>Mức</th></tr><tr><td rowspan="2">Ô tô</td><td>18 triệu</td></tr>
<tr><td>20 triệu</td></tr></table><ol start="2"><li><p>Trừ điểm</p></li><li>Giữ xe</li></ol>
<p>Ngắn.</p></article>
<aside><h3>Tin liên quan</h3><a href="/x">Giá xăng</a></aside>
<div class="comments"><p>Bài viết hay quá!</p></div>
<footer>© 2026 Báo. Liên hệ quảng cáo</footer></body></html>"""


def test_markdown(read_bytes: ReadBytes) -> None:
    document = read_bytes(MARKDOWN.encode(), "a.md")
    assert document.title == "Sổ tay nhân viên"
    assert [(b.kind, b.level, b.text) for b in document.blocks] == [
        ("heading", 1, "Sổ tay"),
        ("paragraph", 0, "Đoạn đầu với liên kết. Dòng tiếp."),
        ("heading", 2, "Nghỉ phép"),
        ("list_item", 0, "Mười bốn ngày"),
        ("list_item", 0, "Báo trước ba ngày"),
        ("list_item", 0, "3. Khoản ba"),
        ("table_row", 0, "Năm | 14"),
        ("table_row", 0, "Ốm | 30"),
        ("code", 0, "if x:\n    y = 1"),
        ("heading", 6, "Điều 5. Tốc độ"),
        ("paragraph", 0, "HTML trong Markdown"),
    ]
    assert {b.header for b in document.blocks if b.kind == "table_row"} == {"Loại | Ngày"}


def test_html_keeps_the_article_and_drops_the_frame(read_bytes: ReadBytes) -> None:
    document = read_bytes(PAGE.encode(), "a.html")
    assert document.title == "Mức phạt | Báo"
    assert [(b.kind, b.text) for b in document.blocks] == [
        ("heading", "Mức phạt vượt đèn đỏ"),
        ("paragraph", "Mức phạt tăng từ ngày 1/1."),
        ("heading", "Xe máy"),
        ("paragraph", "Từ 4.000.000 đồng đến 6.000.000 đồng."),
        ("table_row", "Ô tô | 18 triệu"),
        ("table_row", "Ô tô | 20 triệu"),
        ("list_item", "2. Trừ điểm"),
        ("list_item", "3. Giữ xe"),
        ("paragraph", "Ngắn."),
    ]


def test_html_without_main_or_article_drops_menus_and_keeps_the_rest(read_bytes: ReadBytes) -> None:
    page = """<html><head><title>Handbook</title></head><body><div id="menu"><a href="#">Home</a>
    <a href="#">Policies</a> <a href="#">Login</a></div><h1>Handbook</h1><h2>Leave</h2>
    <p>14 days of <a href="/x">paid leave</a>.</p><dl><dt>Taxi</dt><dd>20 USD</dd></dl>
    <footer><p>Printed by the portal</p></footer></body></html>"""
    assert [b.text for b in read_bytes(page.encode(), "a.htm").blocks] == [
        "Handbook",
        "Leave",
        "14 days of paid leave.",
        "Taxi",
        "20 USD",
    ]


def test_a_section_named_like_a_side_bar_is_kept(read_bytes: ReadBytes) -> None:
    page = """<html><body><section id="editing-and-navigation"><h2>Editing</h2><p>Press F5.</p>
    </section><div id="related-work"><p>Others did it.</p></div></body></html>"""
    assert len(read_bytes(page.encode(), "a.html").blocks) == 3


def test_a_page_of_links_only_is_kept(read_bytes: ReadBytes) -> None:
    links = "".join(f'<li><a href="/{i}">Tài liệu số {i}</a></li>' for i in range(5))
    blocks = read_bytes(f"<html><body><ul>{links}</ul></body></html>".encode(), "a.html").blocks
    assert len(blocks) == 5


def test_html_in_a_declared_code_page(read_bytes: ReadBytes) -> None:
    page = '<html><head><meta charset="windows-1258"></head><body><p>{}</p></body></html>'
    data = page.encode().replace(b"{}", samples.cp1258(samples.VIETNAMESE))
    assert "đông dân cư" in read_bytes(data, "a.html").blocks[-1].text


def test_deeply_nested_html_is_read(read_bytes: ReadBytes) -> None:
    page = "<html><body>" + "<div>" * 1500 + "Sâu" + "</div>" * 1500 + "</body></html>"
    assert read_bytes(page.encode(), "a.html").blocks[0].text == "Sâu"


def test_xhtml_with_an_entity_bomb_does_not_expand(read_bytes: ReadBytes) -> None:
    page = (
        '<?xml version="1.0"?><!DOCTYPE html [<!ENTITY a "aaaaaaaaaa"><!ENTITY b '
        '"&a;&a;&a;&a;&a;&a;&a;&a;">]><html><body><p>Text &b;&b;</p></body></html>'
    )
    assert sum(len(b.text) for b in read_bytes(page.encode(), "a.html").blocks) < 200


def test_epub(read_bytes: ReadBytes) -> None:
    book = samples.epub_bytes(
        {"one.xhtml": "<h1>Chương một</h1><p>Nội dung.</p>", "two.xhtml": "<h1>Hai</h1><p>B.</p>"}
    )
    document = read_bytes(book, "a.epub")
    assert document.title == "Sổ tay"
    assert [b.text for b in document.blocks] == ["Chương một", "Nội dung.", "Hai", "B."]


def test_a_protected_or_broken_book(refusal: Refusal) -> None:
    noise = bytes(range(256)) * 8
    book = samples.epub_bytes({}, {"META-INF/encryption.xml": "<e/>", "OEBPS/x": noise})
    assert "copy-protected" in str(refusal(book, "a.epub"))
    broken = samples.zip_bytes({"META-INF/container.xml": "<container/>"})
    assert "damaged" in str(refusal(broken, "a.epub"))
