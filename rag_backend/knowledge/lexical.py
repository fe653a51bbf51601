"""Postings in tantivy (BM25): one index a store generation.

Text is tokenised here and handed over joined by blanks, since no tokenizer of tantivy's knows
Vietnamese. Two fields: `body` holds words (English ones stemmed) and, for Vietnamese, syllable
bigrams; `folded` holds the same without diacritics, and only for chunks that have any, so that a
query typed without them finds Vietnamese text and does not count English text twice.

Each has a second field over the chunk and its neighbours: what a document says about a question is
spread over its chunks, and BM25 over longer texts finds the right document more often. A file of
one chunk has the same in both.
"""

from __future__ import annotations

import math
import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain, groupby, pairwise
from pathlib import Path

import tantivy

from rag_backend.errors import StorageBroken, StorageFull, StorageLost
from rag_backend.knowledge.filters import Selection
from rag_backend.knowledge.suspects import Suspects
from rag_backend.text import (
    bigrams,
    fold,
    has_vietnamese_letters,
    pieces,
    query_terms,
    stem,
    stop_words,
    words,
)

Posting = tuple[str | None, str, str]
"""(chunk id, file id, text); without an id, a chunk that is only there to be read around others."""
Document = tantivy.Document
_TERMS = 2
"""Grows when the same text gets other terms than before."""
REACH = 2
"""Chunks before and after a chunk that say what it is about: up to five together."""
_STOP_WORD = 0.1
"""What a stop word of a query counts, against one for any other word."""
_AROUND = {"body": "around_body", "folded": "around_folded"}
_WRITER_BYTES = 32_000_000
_LOOSE = 0.08
"""A filter that lets through this share of the files or more is applied to the best of all chunks;
below, tantivy looks the files up itself."""
_FEWEST = 100
"""Chunks of a store that weighs words by their rarity in it. A smaller one is weighed as if it had
as many, the rest of them without any of the words: that its one page says "leave" everywhere makes
no stop word of it, beside which a word that the page happens to lack is all that counts."""
_QUERY_TERMS = 256
"""Distinct terms of a query that count: a pasted page is not a better query than its first part."""


def _schema() -> tantivy.Schema:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw", index_option="basic")
    builder.add_text_field("file_id", tokenizer_name="raw", index_option="basic")
    # Never filled: an index whose terms were made by another rule does not fit, and is made anew.
    builder.add_text_field(f"terms_{_TERMS}", tokenizer_name="raw", index_option="basic")
    for field in (*_AROUND.keys(), *_AROUND.values()):
        builder.add_text_field(field, tokenizer_name="whitespace", index_option="freq")
    return builder.build()


def body_tokens(text: str) -> list[str]:
    """Stemmed words, and syllable bigrams where the text is Vietnamese.

    Pairs of characters where words are not written apart (Chinese, Japanese, Thai …).
    """
    listed = words(text)
    pairs = bigrams(listed) if has_vietnamese_letters(text) else []
    return [stem(piece) for word in listed for piece in pieces(word)] + pairs


def folded_tokens(text: str) -> list[str]:
    """Syllables and bigrams without diacritics."""
    listed = [fold(word) for word in words(text)]
    return listed + bigrams(listed)


def query_clauses(text: str) -> list[tuple[str, str, float]]:
    """(field, token, weight) of everything that a query asks for.

    A stop word weighs little: "why" is rare in documents, so BM25 by itself would follow it first.
    What stands around a chunk counts as much as what stands in it. Vietnamese typed with its
    diacritics asks for exactly these; anything else for Vietnamese without them too.
    """
    listed, stops = words(text), stop_words(text)

    def weighed(token: Callable[[str], str], parts: Callable[[str], list[str]]) -> dict[str, float]:
        return {
            token(part): _STOP_WORD if part in stops else 1.0
            for word in listed
            for part in parts(word)
        }

    def pairs(token: Callable[[str], str]) -> dict[str, float]:
        return {
            f"{token(a)}_{token(b)}": _STOP_WORD if stops_both(a, b) else 1.0
            for a, b in pairwise(listed)
        }

    def stops_both(a: str, b: str) -> bool:
        return a in stops and b in stops

    if has_vietnamese_letters(text):
        asked = {"body": weighed(stem, pieces) | pairs(str)}
    else:
        asked = {
            "body": weighed(stem, pieces),
            "folded": weighed(fold, lambda word: [word]) | pairs(fold),
        }
    return [
        (field, token, weight)
        for part, tokens in asked.items()
        for token, weight in list(tokens.items())[:_QUERY_TERMS]
        for field in (part, _AROUND[part])
    ]


class LexicalIndex:
    """BM25 over chunks. One thread may write at a time; searching is free from any thread."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._schema = _schema()
        self._open: dict[str, tantivy.Index] = {}
        self._cleaned: set[str] = set()
        self._opening = threading.Lock()
        self.suspects = Suspects()

    def replace(
        self,
        collection: str,
        gone: Sequence[str],
        added: Sequence[Posting],
    ) -> None:
        """In one commit, delete every posting of the files `gone`, then add.

        Args:
            gone: File ids.
            added: Each new chunk; a file's come together and in order, those that are only read
                around the others among them.
        """
        self._commit(collection, gone, prepared(added))

    def _commit(self, collection: str, gone: Sequence[str], documents: Sequence[Document]) -> None:
        with self._guarded(collection):
            index = self._created(collection) if documents else self._existing(collection)
            if index is None:
                return
            writer = index.writer(_WRITER_BYTES, 1)
            try:
                if collection not in self._cleaned:
                    # A process that was killed in a commit leaves files with the names that the
                    # next commit wants to use.
                    writer.garbage_collect_files()
                    self._cleaned.add(collection)
                for file_id in gone:
                    writer.delete_documents_by_term("file_id", file_id)
                for document in documents:
                    writer.add_document(document)
                writer.commit()
            finally:
                # Without this the writer's lock lives until the garbage collector comes by.
                writer.wait_merging_threads()
            index.reload()

    def search(
        self, collection: str, query: str, k: int, allowed: Selection | None = None
    ) -> list[tuple[str, float]]:
        """(chunk id, BM25 score) of the k best, best first; [] when no word occurs.

        Args:
            allowed: Only chunks of these files; None for all. Changes no score.
        """
        with self._guarded(collection):
            parsed, index = self._query(query), self._existing(collection)
            if parsed is None or index is None:
                return []
            searcher = index.searcher()
            if allowed is None:
                return _best(searcher, parsed, k)
            if allowed.share >= _LOOSE:
                enough = allowed.enough(k)
                all_found = _best(searcher, parsed, enough)
                found = [pair for pair in all_found if pair[0] in allowed][:k]
                if len(found) == k or len(all_found) < enough:
                    return found
            files = tantivy.Query.term_set_query(self._schema, "file_id", list(allowed.versions))
            unscored = tantivy.Query.const_score_query(files, 0.0)
            both = [(tantivy.Occur.Must, parsed), (tantivy.Occur.Must, unscored)]
            return _best(searcher, tantivy.Query.boolean_query(both), k)

    def term_weights(self, collection: str, query: str) -> dict[str, float]:
        """Inverse document frequency of each of the query's terms (see `text.query_terms`).

        The idf is BM25's, ln(1 + (N - n + 0.5) / (n + 0.5)), over the store's chunks, or over
        `_FEWEST` where it has fewer.
        """
        with self._guarded(collection):
            terms = dict(list(query_terms(query).items())[:_QUERY_TERMS])
            index = self._existing(collection)
            if index is None:
                return dict.fromkeys(terms, 1.0)
            searcher = index.searcher()
            total = max(searcher.num_docs, _FEWEST)

            def frequency(word: str) -> int:
                in_body: int = searcher.doc_freq("body", stem(word))
                folded: int = searcher.doc_freq("folded", word) if word.isascii() else 0
                return max(in_body, folded)

            return {
                term: math.log(1 + max(total - n + 0.5, 0.5) / (n + 0.5))
                for term, n in ((term, frequency(word)) for term, word in terms.items())
            }

    def count(self, collection: str) -> int:
        """Number of chunks indexed."""
        with self._guarded(collection):
            index = self._existing(collection)
            return int(index.searcher().num_docs) if index else 0

    def ids(self, collection: str) -> set[str]:
        """Every chunk id."""
        with self._guarded(collection):
            index = self._existing(collection)
            if index is None:
                return set()
            searcher = index.searcher()
            found = searcher.search(tantivy.Query.all_query(), max(1, searcher.num_docs))
            return {searcher.doc(at)["id"][0] for _, at in found.hits}

    def drop(self, collection: str) -> None:
        """Delete the index and its directory."""
        with self._guarded(collection), self._opening:
            self._open.pop(collection, None)
            with suppress(FileNotFoundError):
                shutil.rmtree(self._directory / collection)

    def discard(self, collection: str) -> None:
        """Delete what is damaged; the store serves what is put back into it."""
        LexicalIndex.drop(self, collection)

    def _query(self, text: str) -> tantivy.Query | None:
        clauses = []
        for field, token, weight in query_clauses(text):
            term = tantivy.Query.term_query(self._schema, field, token)
            if weight != 1:
                term = tantivy.Query.boost_query(term, weight)
            clauses.append((tantivy.Occur.Should, term))
        return tantivy.Query.boolean_query(clauses) if clauses else None

    def _existing(self, collection: str) -> tantivy.Index | None:
        with self._opening:
            if (self._directory / collection).is_dir():
                return self._at(collection)
            if self._open.pop(collection, None) is not None:
                self.suspects.add(collection)
            return None

    def _created(self, collection: str) -> tantivy.Index:
        with self._opening:
            if not (self._directory / collection).is_dir() and collection in self._open:
                del self._open[collection]
                self.suspects.add(collection)
            (self._directory / collection).mkdir(parents=True, exist_ok=True)
            return self._at(collection)

    def _at(self, collection: str) -> tantivy.Index:
        if collection not in self._open:
            path = str(self._directory / collection)
            self._open[collection] = tantivy.Index(self._schema, path=path, reuse=True)
        return self._open[collection]

    @contextmanager
    def _guarded(self, collection: str) -> Iterator[None]:
        try:
            yield
        except (ValueError, OSError) as error:
            if "No space left" in str(error):
                raise StorageFull(
                    "The disk that holds DATA_DIR is full: free some space, then try again."
                ) from error
            if "Lock" in str(error):  # another process writes there
                raise StorageBroken(
                    f"The word index in {self._directory / collection} cannot be used: {error}."
                ) from error
            self.suspects.add(collection)
            raise StorageLost(
                f"The word index in {self._directory / collection} is damaged: {error}. It is made "
                "anew from the catalog; so it is by `python -m ingest rebuild --all`."
            ) from error


def _best(searcher: tantivy.Searcher, query: tantivy.Query, k: int) -> list[tuple[str, float]]:
    # Not counted: to know how many chunks match, all of them would have to be scored.
    found = searcher.search(query, k, count=False)
    return [(searcher.doc(at)["id"][0], float(score)) for score, at in found.hits]


def prepared(added: Sequence[Posting]) -> list[Document]:
    """What a commit writes of them: most of the work, in Python, without holding anything."""
    return list(_documents(added))


def _documents(added: Sequence[Posting]) -> Iterator[tantivy.Document]:
    """Each chunk with what stands around it."""
    for file_id, group in groupby(added, lambda posting: posting[1]):
        chunks = list(group)
        tokens = {
            "body": [body_tokens(text) for _, _, text in chunks],
            "folded": [_folded_or_none(text) for _, _, text in chunks],
        }
        for at, (chunk_id, _, _) in enumerate(chunks):
            if chunk_id is None:
                continue
            near = slice(max(0, at - REACH), at + REACH + 1)
            document = tantivy.Document()
            document.add_text("id", chunk_id)
            document.add_text("file_id", file_id)
            for field, listed in tokens.items():
                document.add_text(field, " ".join(listed[at]))
                document.add_text(_AROUND[field], " ".join(chain.from_iterable(listed[near])))
            yield document


def _folded_or_none(text: str) -> list[str]:
    return folded_tokens(text) if has_vietnamese_letters(text) else []
