"""The catalog's tables (SQLAlchemy Core)."""

from __future__ import annotations

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    ForeignKeyConstraint,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

metadata = MetaData()

ID = String(64).with_variant(String(64, collation="C"), "postgresql")
"""An identifier; ordered by its characters' codes, as in SQLite, whatever the database's locale."""

SCHEMA_VERSION = 5
"""Grows with every change of these tables; kept in SQLite's `user_version`, in PostgreSQL in a
table.

A column that is new is nullable or has a server default: catalogs of before get it when they are
opened (`opening`), and backends of before refuse what they do not know.
"""

files = Table(
    "files",
    metadata,
    Column("id", ID, primary_key=True),
    Column("filename", Text, nullable=False),
    Column("bytes", BigInteger, nullable=False),
    Column("sha256", String(64), nullable=False),
    Column("purpose", String(32), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger),
    Column("uploaded_by", String(64)),  # a digest of the API key; None: nobody needed one
    Index("files_expires_at", "expires_at"),
    Index("files_created", "created_at", "id"),
    Index("files_uploader", "uploaded_by"),
)

stores = Table(
    "stores",
    metadata,
    Column("id", ID, primary_key=True),
    Column("name", String(256), nullable=False, unique=True),
    Column("created_at", BigInteger, nullable=False),
    Column("last_active_at", BigInteger, nullable=False),
    Column("metadata", JSON, nullable=False),
    Column("revision", Integer, nullable=False, default=0),
    Column("generation", Integer, nullable=False, default=0),
    Column("rebuilding", Boolean, nullable=False, default=False),
    Column("embedding_model", Text),
    Column("embedding_probe", LargeBinary),
    Column("description", Text),
    Column("expires_after_days", Integer),
    Column("expired_at", BigInteger),  # set when its content went for not having been used
    Column("attached", Integer, nullable=False, server_default="0"),  # files ever: next `sequence`
    Column("rebuilder", String(64)),  # the backend that rebuilds it
    Column("learner", String(64)),  # the backend that learns its fusion weights
)

store_files = Table(
    "store_files",
    metadata,
    Column("store_id", ForeignKey("stores.id"), primary_key=True),
    Column("file_id", ForeignKey("files.id"), primary_key=True),
    Column("status", String(16), nullable=False),
    Column("sequence", Integer, nullable=False),  # order of attachment within the store
    Column("created_at", BigInteger, nullable=False),
    Column("usage_bytes", BigInteger, nullable=False, default=0),
    Column("attributes", JSON, nullable=False),
    Column("identity", Text, nullable=False),
    Column("error_code", String(32)),
    Column("error_message", Text),
    Column("chunking", JSON),  # None: by structure; else a fixed window, see OpenAI's `static`
    Column("batch_id", ID),  # who may cancel the job: the batch that asked for it last
    Column("owner", String(64)),  # the backend that indexes it, or did
    Column("shown", Integer),  # the store's revision that made it visible
    Index("store_files_batch", "batch_id"),
    Index("store_files_identity", "store_id", "identity"),
    Index("store_files_file", "file_id"),
    Index("store_files_status", "status"),
    Index("store_files_sequence", "store_id", "sequence"),  # every attachment asks for the last
    Index("store_files_created", "store_id", "created_at", "sequence"),
    Index("store_files_shown", "store_id", "shown"),
)

chunks = Table(
    "chunks",
    metadata,
    Column("store_id", ID, primary_key=True),
    Column("file_id", ID, primary_key=True),
    Column("ordinal", Integer, primary_key=True),
    Column("text", Text, nullable=False),
    Column("start", Integer, nullable=False),
    Column("end", Integer, nullable=False),
    Column("page", Integer),
    Column("heading_path", JSON, nullable=False),
    Column("question", Text),
    Column("answer", Text),
    Column("question_key", Text),
    ForeignKeyConstraint(["store_id", "file_id"], ["store_files.store_id", "store_files.file_id"]),
    Index("chunks_question", "store_id", "question_key"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", ID, primary_key=True),
    Column("store_id", ForeignKey("stores.id"), nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("cancelled", Boolean, nullable=False, default=False),
    Index("batches_store", "store_id"),
)

batch_files = Table(
    "batch_files",
    metadata,
    Column("batch_id", ForeignKey("batches.id"), primary_key=True),
    Column("file_id", ID, primary_key=True),
)
"""The files that a batch named. Whether they are in the store yet, or still, `store_files` says."""

garbage = Table(
    "garbage",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=True),
    Column("kind", String(16), nullable=False),
    Column("store_id", ID),
    Column("file_id", ID),
    Column("collection", String(128)),
    Column("owner", String(64)),  # the backend whose work it may still be; None: anybody's
)

fusion_weights = Table(
    "fusion_weights",
    metadata,
    Column("store_id", ID, primary_key=True),
    Column("collection", String(128), nullable=False),
    Column("learnt_from", Integer, nullable=False),
    Column("dense_weight", JSON, nullable=False),
)
"""What each store has learnt about its encoder; made anew when lost, and absent in older catalogs
until they are opened."""

catalog_version = Table("catalog_version", metadata, Column("version", Integer, nullable=False))
"""One row: `SCHEMA_VERSION`, where the database has no place of its own for it."""

backends = Table(
    "backends",
    metadata,
    Column("id", ID, primary_key=True),
    Column("seen_at", Float, nullable=False),  # Unix seconds by the database's clock
)
"""The backends that share a catalog; empty where there is only one."""

file_parts = Table(
    "file_parts",
    metadata,
    Column("file_id", ID, primary_key=True),
    Column("number", Integer, primary_key=True),
    Column("owner", String(64), nullable=False),  # the backend that uploads it
    Column("data", LargeBinary, nullable=False),
)
"""Bytes of files, in parts of a MiB, where several backends must reach them; see `blobs`."""
