//! The index of the vault: what the ledger knows, as SQLite tables.

/// Schema changes in order, forward only; the database's `user_version` counts those applied.
pub(super) const MIGRATIONS: &[&str] = &["
CREATE TABLE study (
    study_uid       TEXT PRIMARY KEY,
    priority        INTEGER NOT NULL,       -- study::Priority, 1 to 4
    consent         INTEGER NOT NULL,       -- 0 waiting, 1 given, 2 by site policy
    received_at_ms  INTEGER NOT NULL,       -- first instance held, wall clock
    open            INTEGER NOT NULL        -- 0 when the newest revision is closed and holds all
) STRICT, WITHOUT ROWID;
CREATE INDEX study_open ON study (study_uid) WHERE open;
CREATE INDEX study_waiting ON study (study_uid) WHERE consent = 0;

CREATE TABLE pack_group (                   -- one codec group, packed
    group_id        INTEGER PRIMARY KEY,
    study_uid       TEXT NOT NULL REFERENCES study,
    revision        INTEGER NOT NULL
) STRICT;

CREATE TABLE chunk (                        -- one codec unit of a group, as stored and as it crosses
    study_uid       TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    number          INTEGER NOT NULL,       -- its place in the manifest
    group_id        INTEGER NOT NULL REFERENCES pack_group,
    digest          BLOB NOT NULL,
    bytes           INTEGER NOT NULL,
    segment         TEXT NOT NULL,
    offset          INTEGER NOT NULL,
    length          INTEGER NOT NULL,       -- of the whole record, header included
    PRIMARY KEY (study_uid, revision, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX chunk_of_group ON chunk (group_id, number);
CREATE INDEX chunk_in_segment ON chunk (segment);

CREATE TABLE instance (                     -- one held instance; packed when group_id is set
    instance_id     INTEGER PRIMARY KEY,
    study_uid       TEXT NOT NULL REFERENCES study,
    sop_uid         TEXT NOT NULL,
    digest          BLOB NOT NULL,          -- study::InstanceDigest
    file_bytes      INTEGER NOT NULL,
    held_at_ms      INTEGER NOT NULL,
    segment         TEXT,                   -- the intake record, until it is packed
    offset          INTEGER,
    length          INTEGER,
    group_id        INTEGER REFERENCES pack_group,
    file_number     INTEGER,                -- its place in the group
    set_aside       INTEGER NOT NULL DEFAULT 0, -- 1 when its intake record cannot be packed
    UNIQUE (sop_uid, digest)
) STRICT;
CREATE INDEX instance_of_study ON instance (study_uid);
CREATE INDEX instance_unpacked ON instance (study_uid, instance_id) WHERE group_id IS NULL;
CREATE INDEX instance_in_segment ON instance (segment) WHERE segment IS NOT NULL;

CREATE TABLE revision (                     -- one signed manifest
    study_uid       TEXT NOT NULL REFERENCES study,
    revision        INTEGER NOT NULL,
    root            BLOB NOT NULL,
    closed          INTEGER NOT NULL,
    manifest        BLOB NOT NULL,          -- COSE_Sign1 over study::Manifest
    manifest_digest BLOB NOT NULL UNIQUE,
    bytes_to_cross  INTEGER NOT NULL,
    bytes_at_hub    INTEGER NOT NULL DEFAULT 0,
    receipt_seq     INTEGER,                -- place of the receipt in the hub's journal for us
    refused         TEXT,                   -- the hub's reason, when it refused the revision
    PRIMARY KEY (study_uid, revision)
) STRICT, WITHOUT ROWID;
CREATE INDEX revision_unreceipted ON revision (study_uid, revision) WHERE receipt_seq IS NULL;

CREATE TABLE record (                       -- journals: ours and the hub's for us
    author          BLOB NOT NULL,
    stream          BLOB NOT NULL,
    seq             INTEGER NOT NULL,
    digest          BLOB NOT NULL,
    kind            INTEGER NOT NULL,
    count_ms        INTEGER NOT NULL,
    bytes           BLOB NOT NULL,
    PRIMARY KEY (author, stream, seq)
) STRICT, WITHOUT ROWID;

CREATE TABLE report (                       -- reports in the hub's journal for us
    seq             INTEGER PRIMARY KEY,    -- the record's place
    study_uid       TEXT NOT NULL,
    digest          BLOB NOT NULL,          -- BLAKE3 of the signed report
    signed          BLOB NOT NULL,          -- COSE_Sign1 by a radiologist
    confirmed       INTEGER NOT NULL DEFAULT 0  -- our journal says that it came and was verified
) STRICT;
CREATE INDEX report_of_study ON report (study_uid, seq);
"];
