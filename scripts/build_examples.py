"""Build the binary example documents: `python scripts/build_examples.py [FOLDER]`.

The same text gives the same bytes with the same library versions, so that a rebuild without a
change of content is no change for git. Needs the `dev` extra, and for the PDF a TrueType font with
Vietnamese letters (Debian's package fonts-dejavu-core).
"""

from __future__ import annotations

import argparse
import io
import re
import sys
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from xml.sax.saxutils import escape

from docx import Document as WordDocument
from openpyxl import Workbook
from openpyxl.styles import Font
from pptx import Presentation
from reportlab.lib.pagesizes import A4
from reportlab.lib.styles import ParagraphStyle
from reportlab.pdfbase import pdfmetrics
from reportlab.pdfbase.ttfonts import TTFError, TTFont
from reportlab.platypus import PageBreak, Paragraph, SimpleDocTemplate, Spacer

FONT = Path("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf")
EXAMPLES = Path(__file__).resolve().parent.parent / "examples"
WRITTEN_ON = datetime(2026, 1, 5, 8, 0, 0)

# PDF: one list a page; a line that starts with "# " or "## " is a heading, "- " a list item.

TRAFFIC_GUIDE = (
    (
        "# Sổ tay giao thông cho nhân viên",
        "Công ty Cầu Mây là một công ty giả định; sổ tay này được viết để làm ví dụ. Sổ tay nêu "
        "quy định nội bộ và những điều chung nhất, không thay cho luật. Khi luật chặt hơn thì theo "
        "luật.",
        "## 1. Nguyên tắc chung",
        "Người và an toàn luôn đi trước thời hạn giao hàng. Không ai bị phê bình vì giao muộn do "
        "đường ngập, do sương mù hay do quá mệt. Người lái thấy mệt phải dừng ở chỗ an toàn và báo "
        "cho điều phối viên.",
        "Nhân viên tuyệt đối không uống rượu, bia trước và trong khi lái xe. Công ty kiểm tra nồng "
        "độ cồn ngẫu nhiên vào đầu ca; người vi phạm bị đình chỉ lái xe 6 tháng.",
        "## 2. Đi xe máy",
        "Mũ bảo hiểm của công ty được thay mới sau 3 năm hoặc ngay sau một lần va đập mạnh. Quai "
        "mũ phải được cài khi xe lăn bánh, kể cả trong sân kho.",
        "- Thùng hàng sau xe máy không cao quá 80 cm và không nặng quá 30 kg.",
        "- Mỗi xe máy giao hàng có một áo mưa hai mảnh, không dùng áo choàng dài.",
        "- Đèn chiếu gần được bật cả ban ngày khi trời mưa.",
    ),
    (
        "## 3. Đi xe tải và xe con",
        "Mọi người trong xe phải thắt dây an toàn, kể cả hàng ghế sau. Tài xế giữ khoảng cách tối "
        "thiểu 3 giây với xe phía trước, và 5 giây khi trời mưa.",
        "Trong sân kho, mọi loại xe chạy không quá 15 km/h và nhường đường cho người đi bộ. Xe tải "
        "lùi phải có người hướng dẫn đứng ở phía sau bên trái.",
        "Một ca lái xe kéo dài không quá 9 giờ. Giữa hai ca phải có ít nhất 11 giờ nghỉ. Sau 4 giờ "
        "lái liên tục, tài xế xe tải nghỉ 30 phút.",
        "## 4. Giấy tờ mang theo",
        "Mỗi xe có một túi hồ sơ màu xanh gồm giấy đăng ký xe, giấy chứng nhận kiểm định, giấy "
        "chứng nhận bảo hiểm và lệnh điều xe. Người lái tự mang giấy phép lái xe của mình.",
        "Phòng đội xe nhắc gia hạn kiểm định trước ngày hết hạn 21 ngày.",
        "## 5. Mưa bão và đường ngập",
        "Khi nước ngập quá nửa bánh xe, người lái không đi tiếp và chọn đường khác. Khi có bão từ "
        "cấp 8 trở lên, mọi chuyến xe máy bị huỷ; chuyến xe tải do trưởng phòng điều phối quyết "
        "định.",
    ),
    (
        "## 6. Khi xảy ra tai nạn",
        "Dừng xe, bật đèn cảnh báo, giúp người bị thương trước rồi mới đến hàng hoá. Số điện thoại "
        "khẩn cấp: 113 là công an, 114 là cứu hoả, 115 là cấp cứu.",
        "Sau đó gọi trực ban an toàn của công ty, bà Lý Ngọc Trâm, số nội bộ 7933. Không ký giấy "
        "tờ nhận lỗi tại hiện trường. Bản tường trình được gửi trong vòng 48 giờ.",
        "## 7. Khen thưởng",
        "Tài xế không có va chạm trong 12 tháng được thưởng 3.000.000 đồng và một ngày nghỉ có "
        "lương. Đề xuất cải thiện an toàn được áp dụng sẽ được thưởng 500.000 đồng.",
        "## 8. Đào tạo",
        "Mọi tài xế học lớp lái xe an toàn mỗi năm một lần, vào tháng 9, tại kho Hoà Khánh. Người "
        "mới phải đi kèm một tài xế kinh nghiệm trong 10 chuyến đầu tiên.",
    ),
)

TRAVEL_INTRO = (
    "Quy định này của Công ty Cầu Mây, một công ty giả định, được viết để làm ví dụ. Quy định áp "
    "dụng cho mọi chuyến công tác trong nước và nước ngoài."
)
TRAVEL_SECTIONS: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Đăng ký chuyến đi",
        (
            "Người đi công tác gửi đề nghị trên cổng nội bộ ít nhất 5 ngày làm việc trước ngày đi. "
            "Chuyến đi nước ngoài cần thêm chữ ký của giám đốc tài chính, ông Hồ Vĩnh Sơn.",
            "Vé máy bay do phòng hành chính đặt, hạng phổ thông. Chặng bay dài hơn 7 giờ được đặt "
            "hạng phổ thông đặc biệt.",
        ),
    ),
    (
        "Tạm ứng và thanh toán",
        (
            "Tạm ứng tối đa bằng 70% chi phí dự kiến, chuyển khoản trước ngày đi 2 ngày.",
            "Hồ sơ thanh toán nộp trong vòng 10 ngày sau khi về. Hoá đơn từ 200.000 đồng trở lên "
            "phải là hoá đơn điện tử mang mã số thuế của công ty.",
        ),
    ),
)
TRAVEL_RATES = (
    ("Khu vực", "Tiền ăn mỗi ngày", "Tiền phòng tối đa mỗi đêm"),
    ("Thành phố trực thuộc trung ương", "320.000 đồng", "1.250.000 đồng"),
    ("Các tỉnh khác", "260.000 đồng", "850.000 đồng"),
    ("Đông Nam Á", "45 đô la Mỹ", "110 đô la Mỹ"),
)
TRAVEL_LAST = (
    "Đi bằng xe riêng",
    "Người dùng xe riêng đi công tác được thanh toán 4.200 đồng mỗi ki-lô-mét, kèm vé cầu đường.",
)

SLIDES: tuple[tuple[str, tuple[str, ...]], ...] = (
    (
        "Your first day",
        (
            "Be at reception at 8:15 and ask for your buddy.",
            "Bring your identity card and two photographs of 3 by 4 cm.",
            "You get your badge, your laptop and locker key before 10:00.",
        ),
    ),
    (
        "Your first week",
        (
            "Tuesday: tour of the Hoa Khanh warehouse, bus leaves at 13:20.",
            "Wednesday: fire drill and first-aid lesson with Mr. Cao Thanh Tùng.",
            "Friday: lunch with the whole team, paid by the company.",
        ),
    ),
    (
        "Your first hundred days",
        (
            "Day 30: first feedback talk with your manager.",
            "Day 55: decision about the end of probation.",
            "Day 100: breakfast with the managing director, Ms. Mai Phương Anh.",
        ),
    ),
    (
        "Where to ask",
        (
            "Service desk: extension 7070, ticket answered within 4 hours.",
            "Payroll: window 3 on the second floor, Tuesday and Thursday afternoons.",
            "Canteen menu: on the notice board, lunch from 11:30 to 13:00.",
        ),
    ),
)
SPEAKER_NOTES = {0: "The buddy is named in the welcome letter. Sponsors do not replace buddies."}

QUESTIONS_AND_ANSWERS = (
    ("Câu hỏi", "Trả lời", "Phòng phụ trách"),
    (
        "Làm thế nào để xin giấy xác nhận công tác?",
        "Gửi yêu cầu trên cổng nội bộ, mục Giấy tờ; phòng nhân sự ký và trả trong 2 ngày làm việc.",
        "Nhân sự",
    ),
    (
        "Công ty có khám sức khoẻ định kỳ không?",
        "Có, mỗi năm một lần vào tháng 4 tại Bệnh viện Sông Xanh; nhân viên không phải trả tiền.",
        "Nhân sự",
    ),
    (
        "Phụ cấp điện thoại của nhân viên kinh doanh là bao nhiêu?",
        "Phụ cấp điện thoại là 270.000 đồng mỗi tháng, trả cùng kỳ lương.",
        "Kế toán",
    ),
    (
        "Con của nhân viên được hỗ trợ học phí như thế nào?",
        "Mỗi cháu dưới 15 tuổi được hỗ trợ 1.200.000 đồng vào đầu năm học.",
        "Công đoàn",
    ),
    (
        "Ai được dùng xe đưa đón?",
        "Nhân viên ca đêm và phụ nữ mang thai; đăng ký với tổ hành chính trước 15 giờ hằng ngày.",
        "Hành chính",
    ),
    (
        "Quên chấm công thì làm gì?",
        "Gửi giải trình trên cổng nội bộ trong vòng 3 ngày; mỗi tháng được bổ sung tối đa 2 lần.",
        "Nhân sự",
    ),
)

COURSES = (
    ("Course", "Trainer", "Place", "Length", "Next date", "Seats"),
    ("Forklift licence", "Đỗ Gia Huy", "Bien Hoa yard", "5 days", "2026-03-09", 8),
    ("First aid", "Cao Thanh Tùng", "Hall A", "1 day", "2026-02-17", 20),
    ("Customs forms", "Ngô Bích Liên", "Online", "3 evenings", "2026-04-21", 35),
    ("Presenting in English", "Sarah Whitcombe", "Room 402", "6 mornings", "2026-05-05", 12),
    ("Spreadsheets for planners", "Tạ Hoài Nam", "Room 305", "2 days", "2026-03-24", 16),
)
COURSE_RULES = (
    ("Rule", "Detail"),
    ("Registration", "Closes 9 days before the course starts"),
    ("Cancelling", "Free until 48 hours before, then your team pays 600,000 VND"),
    ("Budget", "Every employee may spend 6,500,000 VND a year on outside courses"),
)


def build(folder: Path, font: Path = FONT) -> list[Path]:
    """Write the binary examples under `folder`; returns their paths.

    Raises:
        OSError, TTFError: the font or the folder cannot be used.
    """
    made = {
        "traffic/Sổ tay giao thông.pdf": _pdf(TRAFFIC_GUIDE, font),
        "company/cong-tac-phi.docx": _docx(),
        "company/onboarding.pptx": _pptx(),
        "company/hoi-dap-nhan-su.xlsx": _xlsx({"Hỏi đáp": QUESTIONS_AND_ANSWERS}),
        "company/training-courses.xlsx": _xlsx({"Courses": COURSES, "Rules": COURSE_RULES}),
    }
    for name, content in made.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return [folder / name for name in made]


def _pdf(pages: Sequence[Sequence[str]], font: Path) -> bytes:
    pdfmetrics.registerFont(TTFont("Body", font))
    body = ParagraphStyle("body", fontName="Body", fontSize=11, leading=16, spaceAfter=8)
    styles = {
        "# ": ParagraphStyle("title", body, fontSize=18, leading=24, spaceAfter=14),
        "## ": ParagraphStyle("heading", body, fontSize=14, leading=20, spaceBefore=8),
    }
    story: list[object] = []
    for page in pages:
        for line in page:
            mark = next((mark for mark in styles if line.startswith(mark)), "")
            text = escape(line.removeprefix(mark))
            story.append(
                Paragraph(
                    text.replace("- ", "• ", 1) if line.startswith("- ") else text,
                    styles.get(mark, body),
                )
            )
        story.extend([Spacer(1, 12), PageBreak()])
    buffer = io.BytesIO()
    template = SimpleDocTemplate(
        buffer, pagesize=A4, title=pages[0][0].removeprefix("# "), author="Cầu Mây", invariant=1
    )
    template.build(story[:-1])
    return buffer.getvalue()


def _docx() -> bytes:
    document = WordDocument()
    document.core_properties.title = "Quy định công tác phí"
    document.core_properties.author = "Cầu Mây"
    document.core_properties.created = document.core_properties.modified = WRITTEN_ON
    document.add_heading("Quy định công tác phí", level=1)
    document.add_paragraph(TRAVEL_INTRO)
    for heading, paragraphs in TRAVEL_SECTIONS:
        document.add_heading(heading, level=2)
        for paragraph in paragraphs:
            document.add_paragraph(paragraph)
    document.add_heading("Mức chi", level=2)
    table = document.add_table(rows=0, cols=len(TRAVEL_RATES[0]), style="Table Grid")
    for row in TRAVEL_RATES:
        for cell, text in zip(table.add_row().cells, row, strict=True):
            cell.text = text
    document.add_heading(TRAVEL_LAST[0], level=2)
    document.add_paragraph(TRAVEL_LAST[1])
    buffer = io.BytesIO()
    document.save(buffer)
    return _without_times(buffer)


def _pptx() -> bytes:
    deck = Presentation()
    deck.core_properties.title = "Welcome to Cầu Mây Logistics"
    deck.core_properties.author = "Cầu Mây"
    deck.core_properties.created = deck.core_properties.modified = WRITTEN_ON
    opening = deck.slides.add_slide(deck.slide_layouts[0])
    opening.shapes.title.text = "Welcome to Cầu Mây Logistics"
    opening.placeholders[1].text = "Onboarding at an invented company: an example"
    for number, (title, lines) in enumerate(SLIDES):
        slide = deck.slides.add_slide(deck.slide_layouts[1])
        slide.shapes.title.text = title
        slide.placeholders[1].text = "\n".join(lines)
        if number in SPEAKER_NOTES:
            slide.notes_slide.notes_text_frame.text = SPEAKER_NOTES[number]
    buffer = io.BytesIO()
    deck.save(buffer)
    return _without_times(buffer)


def _xlsx(sheets: dict[str, Sequence[Sequence[object]]]) -> bytes:
    book = Workbook()
    book.remove(book.worksheets[0])
    book.properties.creator = "Cầu Mây"
    book.properties.created = WRITTEN_ON
    for name, rows in sheets.items():
        sheet = book.create_sheet(name)
        for row in rows:
            sheet.append(list(row))
        for cell in sheet[1]:
            cell.font = Font(bold=True)
        for column, first in zip("ABCDEF", rows[0], strict=False):
            sheet.column_dimensions[column].width = max(14, len(str(first)) + 4)
    buffer = io.BytesIO()
    book.save(buffer)
    return _without_times(buffer)


def _without_times(packed: io.BytesIO) -> bytes:
    """The same Office file with the times of its making replaced by `WRITTEN_ON`."""
    out = io.BytesIO()
    stamp = WRITTEN_ON.strftime("%Y-%m-%dT%H:%M:%SZ").encode()
    with zipfile.ZipFile(packed) as source, zipfile.ZipFile(out, "w") as target:
        for name in source.namelist():
            content = source.read(name)
            if name == "docProps/core.xml":
                content = re.sub(rb"(<dcterms:modified[^>]*>)[^<]*", rb"\g<1>" + stamp, content)
            entry = zipfile.ZipInfo(name, WRITTEN_ON.timetuple()[:6])
            target.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)
    return out.getvalue()


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0, or 2 with one line when it cannot write or finds no font."""
    parser = argparse.ArgumentParser(description="Build the binary example documents.")
    parser.add_argument("folder", nargs="?", type=Path, default=EXAMPLES)
    parser.add_argument("--font", type=Path, default=FONT, help="TrueType font with Vietnamese")
    options = parser.parse_args(arguments)
    try:
        for path in build(options.folder, options.font):
            print(path)
    except (OSError, TTFError) as error:
        print(f"build_examples: {error} (the font comes with fonts-dejavu-core)", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
