//! The index of the vault: what the ledger knows, as SQLite tables.

/// Schema changes in order, forward only; the database's `user_version` counts those applied.
pub(super) const MIGRATIONS: &[&str] = &[
    "
CREATE TABLE study (
    study_uid       TEXT PRIMARY KEY,
    priority        INTEGER NOT NULL,       -- study::Priority, 1 to 4
    consent         INTEGER NOT NULL,       -- 0 waiting, 1 given, 2 by site policy
    received_at_ms  INTEGER NOT NULL,       -- first instance held, wall clock
    open            INTEGER NOT NULL,       -- 0 when the newest revision is closed and holds all
    legal_hold      INTEGER NOT NULL DEFAULT 0, -- 1: neither let go nor erased
    custody_run_ms  INTEGER,                -- what the odometer showed when custody passed
    damaged_said    INTEGER NOT NULL DEFAULT 0 -- damaged records that our journal last spoke of
) STRICT, WITHOUT ROWID;
CREATE INDEX study_damaged_said ON study (study_uid) WHERE damaged_said > 0;
CREATE INDEX study_open ON study (study_uid) WHERE open;
CREATE INDEX study_waiting ON study (study_uid) WHERE consent = 0;

CREATE TABLE data_key (                     -- what seals the bodies of a study
    key_id          BLOB PRIMARY KEY,
    study_uid       TEXT NOT NULL,
    envelopes       BLOB NOT NULL           -- sealing::KeyEnvelopes
) STRICT, WITHOUT ROWID;
CREATE INDEX data_key_of_study ON data_key (study_uid);

CREATE TABLE pack_group (                   -- one group of a manifest
    group_id        INTEGER PRIMARY KEY,
    study_uid       TEXT NOT NULL REFERENCES study,
    revision        INTEGER NOT NULL,
    form            INTEGER NOT NULL        -- study::GroupForm: 0 codec units, 1 one file
) STRICT;
CREATE INDEX pack_group_of_study ON pack_group (study_uid);

CREATE TABLE chunk (                        -- one record of a group, as stored and as it crosses
    study_uid       TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    number          INTEGER NOT NULL,       -- its place in the manifest
    group_id        INTEGER NOT NULL REFERENCES pack_group,
    digest          BLOB NOT NULL,
    bytes           INTEGER NOT NULL,
    segment         TEXT NOT NULL,
    offset          INTEGER NOT NULL,
    length          INTEGER NOT NULL,       -- of the whole record, header included
    damaged         INTEGER NOT NULL DEFAULT 0, -- 1: what lies there is not what was stored; 2: and the hub was asked
    PRIMARY KEY (study_uid, revision, number)
) STRICT, WITHOUT ROWID;
CREATE INDEX chunk_of_group ON chunk (group_id, number);
CREATE INDEX chunk_in_segment ON chunk (segment, offset);
CREATE INDEX chunk_damaged ON chunk (study_uid) WHERE damaged > 0;

CREATE TABLE instance (                     -- one held instance; packed when group_id is set
    instance_id     INTEGER PRIMARY KEY,
    study_uid       TEXT NOT NULL REFERENCES study,
    sop_uid         TEXT NOT NULL,
    digest          BLOB NOT NULL,          -- study::InstanceDigest
    file_bytes      INTEGER NOT NULL,
    held_at_ms      INTEGER NOT NULL,
    key_id          BLOB NOT NULL,          -- the data key of its intake records
    segment         TEXT,                   -- the run of intake records, until it is packed
    offset          INTEGER,
    length          INTEGER,
    pieces          INTEGER NOT NULL,       -- how many records the run has
    group_id        INTEGER REFERENCES pack_group,
    file_number     INTEGER,                -- its place in the group
    set_aside       INTEGER NOT NULL DEFAULT 0, -- 1 when its intake record cannot be packed
    gone            INTEGER NOT NULL DEFAULT 0, -- 0 held here, 1 let go to the hub, 2 erased
    revision        INTEGER,                -- the first whose root speaks of it; null before that
    damaged         INTEGER NOT NULL DEFAULT 0, -- 1 when its intake records are not what was stored
    UNIQUE (sop_uid, digest)
) STRICT;
CREATE INDEX instance_of_study ON instance (study_uid);
CREATE INDEX instance_unpacked ON instance (study_uid, instance_id)
    WHERE segment IS NOT NULL;
CREATE INDEX instance_in_segment ON instance (segment, offset) WHERE segment IS NOT NULL;
CREATE INDEX instance_damaged ON instance (study_uid) WHERE damaged > 0;

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
    asked           INTEGER NOT NULL DEFAULT 0, -- 1: the hub was asked for chunks of it back
    wanted          INTEGER NOT NULL DEFAULT 0, -- 1: the hub has lost chunks of it and asks for them
    PRIMARY KEY (study_uid, revision)
) STRICT, WITHOUT ROWID;
CREATE INDEX revision_asked ON revision (study_uid) WHERE asked > 0;
CREATE INDEX revision_wanted ON revision (study_uid, revision) WHERE wanted > 0;
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
    status          INTEGER NOT NULL,       -- journal::ReportStatus, as the hub says
    critical        INTEGER NOT NULL,       -- 0 to 3, as the hub says
    sealed          BLOB NOT NULL,          -- the signed report, sealed to this box
    confirmed       INTEGER NOT NULL DEFAULT 0  -- our journal says that it came and was verified
) STRICT;
CREATE INDEX report_of_study ON report (study_uid, seq);

CREATE TABLE unsaid (                       -- facts of studies that may not be named yet
    number          INTEGER PRIMARY KEY,
    study_uid       TEXT NOT NULL,
    kind            INTEGER NOT NULL,       -- journal::Fact
    body            BLOB NOT NULL
) STRICT;
CREATE INDEX unsaid_of_study ON unsaid (study_uid, number);

CREATE TABLE divergence (                   -- journals of which the hub has another copy
    author          BLOB NOT NULL,
    stream          BLOB NOT NULL,
    state           INTEGER NOT NULL,       -- 1 set back, 2 forked
    PRIMARY KEY (author, stream)
) STRICT, WITHOUT ROWID;

CREATE TABLE segment_end (                  -- how far the index knows what is neither instance nor chunk
    segment         TEXT PRIMARY KEY,
    upto            INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE odometer (                     -- how long this box has been running, whatever its clock says
    run_ms          INTEGER NOT NULL
) STRICT;
INSERT INTO odometer VALUES (0);

CREATE TABLE scrub (                        -- the pass over all that is held, or the one that is to begin
    after           TEXT NOT NULL,          -- the last segment that it is through with; empty: none
    began_run_ms    INTEGER                 -- what the odometer showed when it began, or the last one did
) STRICT;
INSERT INTO scrub VALUES ('', NULL);
",
    "
ALTER TABLE revision ADD COLUMN offered INTEGER NOT NULL DEFAULT 0; -- 1: it may have left, and our journal names it
UPDATE revision SET offered = 1 WHERE study_uid IN (SELECT study_uid FROM study WHERE consent != 0);
CREATE INDEX revision_unoffered ON revision (study_uid, revision) WHERE offered = 0;
ALTER TABLE pack_group ADD COLUMN tier INTEGER;     -- codec::Tier it was packed in; null: not known
",
    "
ALTER TABLE study ADD COLUMN called INTEGER NOT NULL DEFAULT 0; -- 1: asked for as a prior, so it goes before the rest of its class
ALTER TABLE pack_group ADD COLUMN waited_for INTEGER NOT NULL DEFAULT 0; -- 1: a reader waits for it
CREATE INDEX pack_group_waited_for ON pack_group (study_uid) WHERE waited_for;
CREATE TABLE priors_wanted (                -- studies whose patient's other studies are wanted
    study_uid       TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
", "
ALTER TABLE instance ADD COLUMN sop_class TEXT; -- null where it was taken in before this was kept

CREATE TABLE document (                     -- what services and people leave beside the images
    drawer          INTEGER NOT NULL,       -- vault::documents::Drawer
    name            TEXT NOT NULL,
    study_uid       TEXT,                   -- it goes with this study when that is erased
    state           INTEGER NOT NULL,
    body            BLOB NOT NULL,
    PRIMARY KEY (drawer, name)
) STRICT, WITHOUT ROWID;
CREATE INDEX document_of_study ON document (study_uid) WHERE study_uid IS NOT NULL;
",
    "
CREATE TABLE uplink (                       -- what was used of each way to the hub
    name            TEXT PRIMARY KEY,
    rate_kbits      INTEGER NOT NULL,       -- as it was last seen; 0 unknown
    rtt_ms          INTEGER NOT NULL,
    seen_ms         INTEGER NOT NULL,       -- when that was, by the latest time that was believed
    day             INTEGER,                -- number of the local day; null: no clock is believed
    day_run_ms      INTEGER NOT NULL,       -- how long the program ran in it
    day_bytes       INTEGER NOT NULL,       -- used of it, or going to be
    day_cost        INTEGER NOT NULL,       -- the same in money, in 2^-20 millionths
    month           INTEGER,                -- number of the local month, from year 0
    month_run_ms    INTEGER NOT NULL,
    month_bytes     INTEGER NOT NULL,
    month_cost      INTEGER NOT NULL
) STRICT, WITHOUT ROWID;

CREATE TABLE airtime (                      -- one row, of all uplinks
    only_uplink     TEXT,                   -- the only one that a person lets be used
    pause           INTEGER NOT NULL,       -- 0 no, 1 nothing is sent, 2 nothing but STAT
    newest_ms       INTEGER NOT NULL        -- the latest time of the clock that was believed
) STRICT;
INSERT INTO airtime VALUES (NULL, 0, 0);
",
];
