-- The index of a store (index.sqlite), version by version.
--
-- Everything here is derived. The truth about entries lies in the files under entries/, and a memo only saves
-- hashing again what was hashed before. Delete the file and it is built again; so it may be wrong by omission
-- (a crash between an entry's file and its row), and a row promises nothing about the file it speaks of.
--
-- The database is in WAL mode with synchronous=FULL. Its version is PRAGMA user_version, set in the same
-- transaction that makes the tables. A later version is a chapter at the end, taken from the version before it;
-- what stands above it is never changed. A chapter begins with a line `-- Version N`.

-- Version 1

-- What is in the store, one row for each entry.
CREATE TABLE entry (
    key      BLOB    NOT NULL PRIMARY KEY CHECK (length(key) = 32),
    built    INTEGER NOT NULL CHECK (built IN (0, 1)),  -- 0: a failure that is remembered
    size     INTEGER NOT NULL,                          -- of all outputs in bytes, uncompressed
    created  INTEGER NOT NULL,                          -- seconds since 1970, from the entry
    used     INTEGER NOT NULL                           -- seconds since 1970, to the hour; lost with the index
) STRICT, WITHOUT ROWID;

-- What an entry is about, in its maker's words. Found by name and value; read back by key.
CREATE TABLE label (
    name     TEXT    NOT NULL,
    value    TEXT    NOT NULL,
    key      BLOB    NOT NULL REFERENCES entry (key) ON DELETE CASCADE,
    PRIMARY KEY (name, value, key)
) STRICT, WITHOUT ROWID;

CREATE INDEX label_of_key ON label (key);

-- What was computed once and would come out the same: a signature of cheap facts (names, sizes and times of
-- files) -> the costly answer (their digest).
CREATE TABLE memo (
    kind       TEXT    NOT NULL,
    signature  BLOB    NOT NULL CHECK (length(signature) = 32),
    value      BLOB    NOT NULL,
    made       INTEGER NOT NULL,                        -- seconds since 1970
    PRIMARY KEY (kind, signature)
) STRICT, WITHOUT ROWID;

-- Version 2

-- How often something happened, under its counter's name in the words of whoever counts. Lost with the index, which
-- is why nothing depends on them: they begin at 0 again.
CREATE TABLE counter (
    name   TEXT    NOT NULL PRIMARY KEY,
    value  INTEGER NOT NULL CHECK (value >= 0)
) STRICT, WITHOUT ROWID;
