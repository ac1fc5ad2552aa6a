-- The hub's index. Bytes are in segments; here is where they lie and what is known of them.

-- Vouchers that were redeemed: each is bound for good to the key that brought it first.
CREATE TABLE redeemed (
    voucher      BLOB PRIMARY KEY,
    node         BLOB NOT NULL,
    signed_grant BLOB NOT NULL
) STRICT, WITHOUT ROWID;

-- Units of the fleet; a unit that was enrolled again stands by its newest voucher.
CREATE TABLE unit (
    node            BLOB PRIMARY KEY,
    voucher         BLOB NOT NULL REFERENCES redeemed,
    site            TEXT NOT NULL,
    -- the unit's store key, as its grant says: what is sent to it is sealed to this
    store           BLOB NOT NULL,
    enrolled_ms     INTEGER NOT NULL,
    last_contact_ms INTEGER
) STRICT, WITHOUT ROWID;

-- The newest record of each journal that is held here, our own included.
CREATE TABLE journal (
    author   BLOB NOT NULL,
    stream   BLOB NOT NULL,
    seq      INTEGER NOT NULL,
    digest   BLOB NOT NULL,
    count_ms INTEGER NOT NULL,
    PRIMARY KEY (author, stream)
) STRICT, WITHOUT ROWID;

-- Journals of which a unit has another copy than we; the finding stays.
CREATE TABLE divergence (
    author   BLOB NOT NULL,
    stream   BLOB NOT NULL,
    -- 1 set back, 2 forked
    state    INTEGER NOT NULL,
    PRIMARY KEY (author, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE record (
    author BLOB NOT NULL,
    stream BLOB NOT NULL,
    seq    INTEGER NOT NULL,
    kind   INTEGER NOT NULL,
    bytes  BLOB NOT NULL,
    PRIMARY KEY (author, stream, seq)
) STRICT;

-- A study belongs to the unit that sent it; two units may send one UID.
CREATE TABLE study (
    id          INTEGER PRIMARY KEY,
    unit        BLOB NOT NULL,
    uid         TEXT NOT NULL,
    priority    INTEGER NOT NULL,       -- study::Priority, 1 to 4
    received_ms INTEGER NOT NULL,
    UNIQUE (unit, uid)
) STRICT;
CREATE INDEX study_by_uid ON study (uid);

-- One signed manifest per revision.
CREATE TABLE manifest (
    id             INTEGER PRIMARY KEY,
    study          INTEGER NOT NULL REFERENCES study,
    digest         BLOB NOT NULL UNIQUE,
    revision       INTEGER NOT NULL,
    previous       BLOB,
    root           BLOB NOT NULL,
    instances      INTEGER NOT NULL,
    closed         INTEGER NOT NULL,
    bytes_to_cross INTEGER NOT NULL,
    bytes_original INTEGER NOT NULL,
    bytes_held     INTEGER NOT NULL DEFAULT 0,
    signed         BLOB NOT NULL,
    -- the data key of its chunks, sealed to the hub's store key; null where there is no chunk
    envelope       BLOB,
    -- 0 arriving, 1 decoded, 2 accepted (receipt given), 3 refused
    state          INTEGER NOT NULL DEFAULT 0,
    -- its unit is asked for damaged chunks: 0 no, 1 what has changed is still to be said, 2 yes
    asked          INTEGER NOT NULL DEFAULT 0,
    UNIQUE (study, revision)
) STRICT;
CREATE INDEX manifest_to_ask ON manifest (id) WHERE asked = 1;
CREATE INDEX manifest_open ON manifest (state) WHERE state < 2;

CREATE TABLE chunk_group (
    manifest INTEGER NOT NULL REFERENCES manifest,
    number   INTEGER NOT NULL,
    first    INTEGER NOT NULL,
    chunks   INTEGER NOT NULL,
    instances INTEGER NOT NULL,
    -- the opened chunks are: 0 units of the codec, 1 pieces of one file
    form     INTEGER NOT NULL,
    bytes_original INTEGER NOT NULL,
    decoded  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (manifest, number)
) STRICT, WITHOUT ROWID;

-- The chunks that a manifest names, as they crossed: sealed. `segment` is null until the chunk is
-- whole, checked and synced.
CREATE TABLE chunk (
    manifest INTEGER NOT NULL REFERENCES manifest,
    number   INTEGER NOT NULL,
    digest   BLOB NOT NULL,
    bytes    INTEGER NOT NULL,
    segment  TEXT,
    at       INTEGER,
    stored   INTEGER,
    -- 1: what lies there is not the chunk any more, for which a receipt was given
    damaged  INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (manifest, number)
) STRICT, WITHOUT ROWID;

-- What is durable of chunks that are not whole, as records of spool segments.
CREATE TABLE part (
    manifest INTEGER NOT NULL REFERENCES manifest,
    chunk    INTEGER NOT NULL,
    start    INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,
    segment  TEXT NOT NULL,
    at       INTEGER NOT NULL,
    stored   INTEGER NOT NULL,
    PRIMARY KEY (manifest, chunk, start)
) STRICT, WITHOUT ROWID;
CREATE INDEX part_by_segment ON part (segment);

-- Revisions of which their unit has lost chunks, and wants them back.
CREATE TABLE wanted (
    manifest INTEGER PRIMARY KEY REFERENCES manifest
) STRICT;

-- Instances that can be read. Other bytes under a UID that is known are a row of their own.
CREATE TABLE instance (
    id              INTEGER PRIMARY KEY,
    study           INTEGER NOT NULL REFERENCES study,
    sop             TEXT NOT NULL,
    digest          BLOB NOT NULL,
    sop_class       TEXT NOT NULL,
    series          TEXT NOT NULL,
    transfer_syntax TEXT NOT NULL,
    number          INTEGER,
    bytes           INTEGER NOT NULL,
    revision        INTEGER NOT NULL,
    manifest        INTEGER NOT NULL REFERENCES manifest,
    chunk_group     INTEGER NOT NULL,
    file            INTEGER NOT NULL,
    UNIQUE (study, sop, digest)
) STRICT;
CREATE INDEX instance_by_sop ON instance (sop);

CREATE TABLE report (
    id        INTEGER PRIMARY KEY,
    study     INTEGER NOT NULL REFERENCES study,
    seq       INTEGER NOT NULL,
    status    TEXT NOT NULL,
    critical  INTEGER NOT NULL,
    signed_ms INTEGER NOT NULL,
    digest    BLOB NOT NULL UNIQUE,
    -- the unit has said that it holds and verified it
    delivered INTEGER NOT NULL DEFAULT 0,
    -- the signed report, sealed to the hub's store key
    sealed    BLOB NOT NULL
) STRICT;
CREATE INDEX report_by_study ON report (study);

-- Bearer tokens, by their digest; the token itself is shown once and kept nowhere.
CREATE TABLE token (
    digest     BLOB PRIMARY KEY,
    role       TEXT NOT NULL,
    expires_ms INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
