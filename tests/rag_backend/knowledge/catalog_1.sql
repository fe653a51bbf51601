-- A catalog as the first release made it, with one file in one store.
CREATE TABLE files ( id VARCHAR(64) NOT NULL, filename TEXT NOT NULL, bytes BIGINT NOT NULL, sha256 VARCHAR(64) NOT NULL, purpose VARCHAR(32) NOT NULL, created_at BIGINT NOT NULL, PRIMARY KEY (id) );
CREATE TABLE stores ( id VARCHAR(64) NOT NULL, name VARCHAR(256) NOT NULL, created_at BIGINT NOT NULL, last_active_at BIGINT NOT NULL, metadata JSON NOT NULL, revision INTEGER NOT NULL, generation INTEGER NOT NULL, rebuilding BOOLEAN NOT NULL, embedding_model TEXT, embedding_probe BLOB, PRIMARY KEY (id), UNIQUE (name) );
CREATE TABLE garbage ( id INTEGER NOT NULL, kind VARCHAR(16) NOT NULL, store_id VARCHAR(64), file_id VARCHAR(64), collection VARCHAR(128), PRIMARY KEY (id) );
CREATE TABLE fusion_weights ( store_id VARCHAR(64) NOT NULL, collection VARCHAR(128) NOT NULL, learnt_from INTEGER NOT NULL, dense_weight JSON NOT NULL, PRIMARY KEY (store_id) );
CREATE TABLE store_files ( store_id VARCHAR(64) NOT NULL, file_id VARCHAR(64) NOT NULL, status VARCHAR(16) NOT NULL, sequence INTEGER NOT NULL, created_at BIGINT NOT NULL, usage_bytes BIGINT NOT NULL, attributes JSON NOT NULL, identity TEXT NOT NULL, error_code VARCHAR(32), error_message TEXT, PRIMARY KEY (store_id, file_id), FOREIGN KEY(store_id) REFERENCES stores (id), FOREIGN KEY(file_id) REFERENCES files (id) );
CREATE INDEX store_files_identity ON store_files (store_id, identity);
CREATE INDEX store_files_status ON store_files (status);
CREATE INDEX store_files_file ON store_files (file_id);
CREATE TABLE chunks ( store_id VARCHAR(64) NOT NULL, file_id VARCHAR(64) NOT NULL, ordinal INTEGER NOT NULL, text TEXT NOT NULL, start INTEGER NOT NULL, "end" INTEGER NOT NULL, page INTEGER, heading_path JSON NOT NULL, question TEXT, answer TEXT, question_key TEXT, PRIMARY KEY (store_id, file_id, ordinal), FOREIGN KEY(store_id, file_id) REFERENCES store_files (store_id, file_id) );
CREATE INDEX chunks_question ON chunks (store_id, question_key);
INSERT INTO files VALUES ('file-old', 'old.txt', 9, 'abc', 'user_data', 1);
INSERT INTO stores VALUES ('vs_old', 'old', 1, 1, '{}', 3, 0, 0, NULL, NULL);
INSERT INTO store_files VALUES ('vs_old', 'file-old', 'completed', 1, 1, 9, '{}', 'old.txt', NULL, NULL);
INSERT INTO chunks VALUES ('vs_old', 'file-old', 0, 'Old text.', 0, 9, NULL, '[]', NULL, NULL, NULL);
PRAGMA user_version = 1;
