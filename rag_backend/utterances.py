"""What people put around a question, and where one message asks several things.

Read by whoever answers (`answering`, `llm`), which do not know each other's words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from rag_backend.text import bare_key, content_terms, is_unaccented_vietnamese, nfc

_LONGEST = 400
"""Characters; what is longer is a text, and not a question with a courtesy around it."""
_MOST_PARTS = 3

_TO_WHOM = r"( (ban|anh|chi|em|ca nha|moi nguoi|quy vi|there|all|everyone))*"
_GREETING = re.compile(
    rf"(xin )?(chao|hello|hi|hey|good (morning|afternoon|evening)){_TO_WHOM}",
)
_THANKS = re.compile(
    rf"(xin )?(cam on|thanks?|thank you){_TO_WHOM}( (nhieu|very much|so much|a lot))*{_TO_WHOM}"
)

_WHOM = (
    "you|someone|anyone|bạn|anh|chị|em|ad|admin|mọi người|quý vị|all|there|everyone|team|sir|madam"
)
_ME = "tôi|mình|em|anh|chị|tui|chúng tôi|chúng em"
_ASKS_ABOUT = r"(?: (?:chút|một chút|xíu|thêm))?(?: (?:là|về|rằng|xem))?"
_BORDER = r"(?=[\s,.!:?]|$)[\s,.!:]*"
# How questions begin that says nothing of what is asked; each is cut while there is one. Phrases,
# since most single words begin other things too: "Dạ dày", "Hỏi thăm", "Can you give notice".
_OPENING = (
    r"(?:(?:hi|hello|hey|good (?:morning|afternoon|evening)|(?:em |mình )?(?:xin )?chào|thưa|dạ)"
    rf"(?:(?: (?:{_WHOM}))+|(?=\s*[,.!:]|\s+(?:cho|xin) (?:{_ME}|cho|hỏi)\b))"
    rf"|(?:(?:{_WHOM}) )+ơi"
    r"|please|kindly|vui lòng|làm ơn|xin(?= hỏi| cho| được hỏi)"
    rf"|(?:can|could|would|will) (?:{_WHOM}) (?:please |kindly )?"
    r"(?:explain|(?:tell|show|help|give|let|find) (?:me|us))(?: know| find| understand)?"
    r"(?: about| please)*"
    r"|(?:tell|show|give) (?:me|us)(?: about| please)*|do you (?:happen to )?know"
    r"|(?:can|could|may) i (?:please )?ask(?: you)?|i was wondering|i wonder"
    r"|i(?: would|'d|’d)? (?:want|need|like|wish) to (?:know|ask|understand|find out)(?: about)?"
    r"|i have a (?:quick )?question(?: about)?|(?:just )?a quick question"
    rf"|(?:(?:{_WHOM}) )*(?:(?:có thể|làm ơn|vui lòng|giúp) )?(?:cho|xin)(?: (?:{_ME}))*(?: xin)?"
    rf" (?:hỏi|biết){_ASKS_ABOUT}"
    rf"|(?:{_ME}) (?:muốn|cần|xin|định)(?: được)? (?:hỏi|biết|tìm hiểu){_ASKS_ABOUT}"
    rf"|(?:xin được|xin|được) hỏi{_ASKS_ABOUT}|có ai biết{_ASKS_ABOUT})"
)
# ... which "whether" may follow.
_OPENINGS = rf"{_OPENING}(?:,? (?:if|whether))?{_BORDER}"
# And how they end.
_ENDINGS = (
    r"[\s,.!]*(?<=[\s,.!?])(?:please|thanks|thank you(?: (?:so|very) much)?"
    rf"|(?:(?:{_ME}) )?(?:xin )?(?:cảm|cám) ơn(?: [^,.!?]{{1,20}})?|ạ|nhỉ|nhé|hả|vậy"
    rf"|(?:giúp|hộ)(?: (?:{_ME}|với))+)[\s,.!?]*$"
)
# Without diacritics "hội" and "hỏi", "vay" and "vậy" are alike: only what nothing else is alike.
_BARE_ME = "toi|minh|em|tui|chung toi|chung em"
_BARE_ABOUT = r"(?: (?:chut|mot chut))?(?: (?:la|ve|rang|xem))?"
_BARE_OPENINGS = (
    r"(?:(?:em |minh )?(?:xin )?chao (?:anh|chi|moi nguoi|quy vi|ca nha)(?: (?:anh|chi|em))*"
    r"|(?:(?:anh|chi|ban|moi nguoi|quy vi) )*(?:oi )?(?:(?:co the|lam on|vui long|giup) )?"
    rf"(?:cho (?:{_BARE_ME})(?: xin)? (?:hoi|biet)|xin (?:cho (?:{_BARE_ME} )?)?(?:hoi|biet)"
    rf"|(?:lam on|vui long) cho biet){_BARE_ABOUT}"
    rf"|(?:{_BARE_ME}) (?:muon|can) (?:hoi|biet){_BARE_ABOUT}){_BORDER}"
)
_BARE_ENDINGS = r"[\s,.!]*(?<=[\s,.!?])(?:(?:xin )?cam on(?: [^,.!?]{1,20})?|vay a)[\s,.!?]*$"

_ASKS = re.compile(
    r"\b(?:how|what|when|where|which|who|whom|whose|why"
    r"|bao (?:nhieu|lau|gio|xa)|khi nao|luc nao|the nao|ra sao|lam sao|tai sao|vi sao|o dau|may"
    r"|ai|gi|nao)\b"
    r"|^(?:is|are|was|do|does|did|can|may|must|should|will|has|have) "
    r"|\b(?:khong|chua)$"
)
_BETWEEN = re.compile(
    r"\s*[?;]+\s+(?:(?:and|also|và|va|còn|con)\s+)?"
    r"|\s*,\s+(?:(?:and|also|và|va|còn|con|rồi|roi)\s+)?"
    r"|\s+(?:and|và|va|rồi|roi)\s+",
    re.IGNORECASE,
)


def is_greeting(text: str) -> bool:
    """A greeting and nothing else, with diacritics or without."""
    return _GREETING.fullmatch(bare_key(text)) is not None


def is_thanks(text: str) -> bool:
    """Thanks and nothing else."""
    return _THANKS.fullmatch(bare_key(text)) is not None


def without_courtesies(question: str) -> str:
    """A question without "Anh chị cho em hỏi ... ạ?" or "Could you please tell me ...".

    As it is where there are none, or where nothing that means anything would be left.
    """
    text = nfc(question).strip()
    if len(text) > _LONGEST:
        return question
    bare = is_unaccented_vietnamese(text)
    before = text
    for pattern, at_its_end in _BARE_PATTERNS if bare else _PATTERNS:
        while found := pattern.search(text) if at_its_end else pattern.match(text):
            left = text[: found.start()] if at_its_end else text[found.end() :]
            if left == text or not content_terms(left):
                break
            text = left
    return question if text == before else text


def parts(question: str) -> list[str]:
    """The questions that one message asks: "How long is it, and who approves it?" → two.

    One, the message itself, where it asks one thing: a part is what has a question word of its
    own and a word that means something. More than `_MOST_PARTS` are a text, looked at as one.
    """
    if len(question) > _LONGEST:
        return [question]
    found: list[str] = []
    for piece, border in _pieces(question):
        if found and _asks(piece) and _asks(found[-1]):
            found.append(piece)
        elif found:
            found[-1] += border + piece
        else:
            found.append(piece)
    return found if 1 < len(found) <= _MOST_PARTS else [question]


def _pieces(question: str) -> Iterator[tuple[str, str]]:
    """(text, what stood before it)."""
    text, at, border = question.strip(), 0, ""
    for between in _BETWEEN.finditer(text):
        yield text[at : between.start()], border
        at, border = between.end(), between[0]
    if text[at:]:
        yield text[at:], border


def _asks(text: str) -> bool:
    plain = bare_key(text)
    found = _ASKS.search(plain)
    return found is not None and bool(set(plain.split()) - set(found[0].split()))


_PATTERNS = [
    (re.compile(_OPENINGS, re.IGNORECASE), False),
    (re.compile(_ENDINGS, re.IGNORECASE), True),
]
_BARE_PATTERNS = [
    (re.compile(_BARE_OPENINGS, re.IGNORECASE), False),
    (re.compile(_BARE_ENDINGS, re.IGNORECASE), True),
]
