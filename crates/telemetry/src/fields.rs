//! The names of fields in spans and events, so that one search finds all rooms.
//!
//! Used as `tracing::info!({ fields::STUDY } = %study, "study stable")`. There is no name here for a
//! patient's name, ID, birth date or accession number, and none may be added.

/// A study instance UID.
pub const STUDY: &str = "study";
/// A series instance UID.
pub const SERIES: &str = "series";
/// A SOP instance UID.
pub const INSTANCE: &str = "instance";
/// A transfer syntax UID.
pub const TRANSFER_SYNTAX: &str = "transfer_syntax";
/// An application entity title.
pub const AE: &str = "ae";
/// The number of an association, counted from the program's start.
pub const ASSOCIATION: &str = "association";
/// The number of a contact, counted from the program's start.
pub const CONTACT: &str = "contact";
/// The short form of a node's id.
pub const NODE: &str = "node";
/// A network address.
pub const PEER: &str = "peer";
/// A site's name.
pub const SITE: &str = "site";
/// The number of a study's revision.
pub const REVISION: &str = "revision";
/// A digest: of a chunk, a manifest, a study's root.
pub const DIGEST: &str = "digest";
/// The name of a segment file.
pub const SEGMENT: &str = "segment";
/// A path on this machine.
pub const PATH: &str = "path";
/// An amount of bytes.
pub const BYTES: &str = "bytes";
/// How many things there were.
pub const COUNT: &str = "count";
/// The number of an attempt, from 1.
pub const ATTEMPT: &str = "attempt";
/// How long it took, in milliseconds.
pub const ELAPSED_MS: &str = "elapsed_ms";
/// An error and its causes, one line.
pub const ERROR: &str = "error";
/// Why something was decided.
pub const REASON: &str = "reason";
/// The name of a room.
pub const ROOM: &str = "room";
