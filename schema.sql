-- The index of a store (index.sqlite), version by version.
--
-- Everything here is derived. The files under entries/ are the truth about entries, and a memo only saves hashing
-- the same files again. If index.sqlite is deleted, it is recreated; so rows may be missing (after a crash between
-- writing an entry's file and its row), and a row guarantees nothing about the file it describes.
--
-- The database is in WAL mode with synchronous=FULL. Its version is PRAGMA user_version, set in the same
-- transaction that creates the tables. A later version is a chapter at the end that upgrades the version before it;
-- the statements above it are never changed. A chapter begins with a line `-- Version N`.

-- Version 1

-- The entries of the store, one row each.
CREATE TABLE entry (
    key      BLOB    NOT NULL PRIMARY KEY CHECK (length(key) = 32),
    built    INTEGER NOT NULL CHECK (built IN (0, 1)),  -- 0: a remembered failure
    size     INTEGER NOT NULL,                          -- total size of the outputs in bytes, uncompressed
    created  INTEGER NOT NULL,                          -- seconds since 1970, from the entry
    used     INTEGER NOT NULL                           -- last use: seconds since 1970, to the hour; lost with the index
) STRICT, WITHOUT ROWID;

-- Labels of entries, chosen by the caller. Looked up by name and value, and read back by key.
CREATE TABLE label (
    name     TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    key      BLOB    NOT NULL REFERENCES entry (key) ON DELETE CASCADE,
    PRIMARY KEY (name, value, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX label_of_key ON label (key);

-- Remembered results of costly computations: from a signature of data that is cheap to obtain (names, sizes and
-- times of files) to the result (their digest).
CREATE TABLE memo (
    kind       TEXT    NOT NULL,
    signature  BLOB    NOT NULL CHECK (length(signature) = 32),
    value      BLOB    NOT NULL,
    made       INTEGER NOT NULL,                        -- seconds since 1970
    PRIMARY KEY (kind, signature)
) STRICT, WITHOUT ROWID;

-- Version 2

-- Counters, named by the caller. They are lost with the index and then restart at 0, so nothing may depend on
-- them.
CREATE TABLE counter (
    name   TEXT    NOT NULL PRIMARY KEY,
    value  INTEGER NOT NULL CHECK (value >= 0)
) STRICT, WITHOUT ROWID;

-- Version 3

-- Memos in a table with row ids: a search in one without reads a row as a whole in order to compare it, and the list of
-- a tree's files has 200 KB (https://www.sqlite.org/withoutrowid.html). The time comes before the value, so that it is
-- found without reading that.
ALTER TABLE memo RENAME TO memo_of_version_1;
CREATE TABLE memo (
    kind       TEXT    NOT NULL,
    signature  BLOB    NOT NULL CHECK (length(signature) = 32),
    made       INTEGER NOT NULL,                        -- seconds since 1970
    value      BLOB    NOT NULL,
    UNIQUE (kind, signature)
) STRICT;
INSERT INTO memo (kind, signature, made, value) SELECT kind, signature, made, value FROM memo_of_version_1;
DROP TABLE memo_of_version_1;
