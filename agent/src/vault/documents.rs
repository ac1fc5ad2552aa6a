//! Documents: what the DICOM services and people at the box leave to be kept beside the images.
//!
//! An order, a performed step, a commitment that is owed. Each is a row of the index, and a record in
//! a segment family of its own: the index can be made anew from it, and a document that is shredded
//! leaves nothing behind. What is a patient's in a body is sealed by whoever files it.

use std::sync::Arc;

use journal::Fact;
use store::rusqlite::{Connection, OptionalExtension, Row, params};
use store::{SegmentName, Segments, Synced, Work};
use study::{Digest, StudyUid};

use super::columns::uid;
use super::formats::{self, FiledDocument};
use super::{Vault, VaultError, records, sealed};

/// What kind of document it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Drawer {
    /// Orders, by Study Instance UID.
    Orders,
    /// Performed procedure steps, by SOP Instance UID.
    PerformedSteps,
    /// Commitments asked for, by Transaction UID.
    Commitments,
    /// Modalities, by AE title.
    Modalities,
    /// What was found wrong with a study, by Study Instance UID.
    Findings,
}

impl Drawer {
    /// The number that stands for it at rest.
    pub const fn code(self) -> u8 {
        match self {
            Self::Orders => 1,
            Self::PerformedSteps => 2,
            Self::Commitments => 3,
            Self::Modalities => 4,
            Self::Findings => 5,
        }
    }
}

/// One document.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// The study that it goes with when that is erased.
    pub study: Option<StudyUid>,
    /// What its drawer takes for a state.
    pub state: u8,
    /// The document itself.
    pub body: Vec<u8>,
}

/// What is to become of a document.
#[derive(Debug)]
pub enum Change {
    /// It stays as it is, or is not made.
    Nothing,
    /// It is filed in this form.
    File(Document),
    /// It is shredded.
    Shred,
    /// It is shredded, and our journal says what became of it.
    ShredAndSay(Fact),
}

impl Vault {
    /// A document, if there is one of that name.
    pub fn document(&self, drawer: Drawer, name: &str) -> Result<Option<Document>, VaultError> {
        Ok(self.0.readers.with(|sql| document(sql, drawer, name))?)
    }

    /// All documents of a drawer, by name.
    pub fn documents(&self, drawer: Drawer) -> Result<Vec<(String, Document)>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached(
                "SELECT study_uid, state, body, name FROM document WHERE drawer = ?1 ORDER BY name",
            )?
            .query_map([drawer.code()], |row| Ok((row.get(3)?, from_row(row)?)))?
            .collect::<store::rusqlite::Result<_>>()
        })?)
    }

    /// The documents of a drawer that go with a study, by name.
    pub fn documents_of(
        &self,
        drawer: Drawer,
        study: &StudyUid,
    ) -> Result<Vec<(String, Document)>, VaultError> {
        Ok(self.0.readers.with(|sql| {
            sql.prepare_cached(
                "SELECT study_uid, state, body, name FROM document
                 WHERE study_uid = ?2 AND drawer = ?1 ORDER BY name",
            )?
            .query_map(params![drawer.code(), study.as_str()], |row| {
                Ok((row.get(3)?, from_row(row)?))
            })?
            .collect::<store::rusqlite::Result<_>>()
        })?)
    }

    /// Decides on a document by what there is of it, alone with the index; returns when that is synced.
    pub async fn change_document<E: From<VaultError> + Send + 'static>(
        &self,
        drawer: Drawer,
        name: String,
        decide: impl FnOnce(Option<Document>) -> Result<Change, E> + Send + 'static,
    ) -> Result<Synced<()>, E> {
        self.room_to_write(0).map_err(VaultError::from)?;
        let key = Arc::clone(&self.0.key);
        let segments = Arc::clone(self.0.writer.segments());
        let changed = self.0.writer.run(move |work| -> Result<(), Decided<E>> {
            let found = document(work.sql(), drawer, &name).map_err(VaultError::from)?;
            match decide(found).map_err(Decided::Refused)? {
                Change::Nothing => {}
                Change::File(document) => file(work, drawer, &name, document)?,
                Change::Shred => shred(work, &segments, drawer, &name)?,
                Change::ShredAndSay(fact) => {
                    shred(work, &segments, drawer, &name)?;
                    records::append(work, &key, &fact)?;
                }
            }
            Ok(())
        });
        match changed.await {
            Ok(synced) => Ok(self.note_change(synced)),
            Err(store::WriteError::Job(Decided::Refused(error))) => Err(error),
            Err(store::WriteError::Job(Decided::Failed(error))) => Err(error.into()),
            Err(store::WriteError::Poisoned) => Err(VaultError::Poisoned.into()),
        }
    }

    /// How long this box has been running, whatever its clock says; counts up in steps of a minute.
    pub fn running_ms(&self) -> Result<u64, VaultError> {
        Ok(self
            .0
            .readers
            .with(|sql| sql.query_row("SELECT run_ms FROM odometer", [], |row| row.get(0)))?)
    }
}

/// How a decision may fail.
enum Decided<E> {
    /// Whoever decides says so.
    Refused(E),
    /// The vault could not do it.
    Failed(VaultError),
}

impl<E> From<VaultError> for Decided<E> {
    fn from(error: VaultError) -> Self {
        Self::Failed(error)
    }
}

fn document(
    sql: &Connection,
    drawer: Drawer,
    name: &str,
) -> store::rusqlite::Result<Option<Document>> {
    sql.prepare_cached(
        "SELECT study_uid, state, body FROM document WHERE drawer = ?1 AND name = ?2",
    )?
    .query_row(params![drawer.code(), name], from_row)
    .optional()
}

fn from_row(row: &Row<'_>) -> store::rusqlite::Result<Document> {
    let has_study = row.get::<_, Option<String>>(0)?.is_some();
    let study = has_study
        .then(|| uid(row, 0, StudyUid::parse))
        .transpose()?;
    Ok(Document {
        study,
        state: row.get(1)?,
        body: row.get(2)?,
    })
}

fn file(
    work: &mut Work<'_>,
    drawer: Drawer,
    name: &str,
    document: Document,
) -> Result<(), VaultError> {
    let filed = FiledDocument {
        drawer: drawer.code(),
        name: name.to_owned(),
        study: document.study,
        state: document.state,
        body: document.body,
    };
    enter(work.sql(), &filed)?;
    let record = formats::plain_record(formats::FILED_DOCUMENT, formats::to_meta(&filed))?;
    let location = work.append(&family(drawer.code(), name), &record)?;
    sealed::note_end(work.sql(), &location)?;
    Ok(())
}

/// Enters a document into the index, in the place of an earlier form of it.
pub(super) fn enter(sql: &Connection, filed: &FiledDocument) -> store::rusqlite::Result<()> {
    sql.prepare_cached(
        "INSERT INTO document (drawer, name, study_uid, state, body) VALUES (?1, ?2, ?3, ?4, ?5)
         ON CONFLICT DO UPDATE SET study_uid = excluded.study_uid, state = excluded.state,
                                   body = excluded.body",
    )?
    .execute(params![
        filed.drawer,
        filed.name,
        filed.study.as_ref().map(StudyUid::as_str),
        filed.state,
        filed.body
    ])?;
    Ok(())
}

fn shred(
    work: &mut Work<'_>,
    segments: &Segments,
    drawer: Drawer,
    name: &str,
) -> Result<(), VaultError> {
    work.sql()
        .prepare_cached("DELETE FROM document WHERE drawer = ?1 AND name = ?2")?
        .execute(params![drawer.code(), name])?;
    wipe(work, segments, &[family(drawer.code(), name)])
}

/// Shreds every document that goes with a study.
pub(super) fn shred_of(
    work: &mut Work<'_>,
    segments: &Segments,
    study: &StudyUid,
) -> Result<(), VaultError> {
    let families: Vec<String> = work
        .sql()
        .prepare_cached("DELETE FROM document WHERE study_uid = ?1 RETURNING drawer, name")?
        .query_map([study.as_str()], |row| {
            let name: String = row.get(1)?;
            Ok(family(row.get(0)?, &name))
        })?
        .collect::<store::rusqlite::Result<_>>()?;
    wipe(work, segments, &families)
}

fn wipe(work: &mut Work<'_>, segments: &Segments, families: &[String]) -> Result<(), VaultError> {
    let of_one = |segment: &SegmentName| families.iter().any(|f| f == segment.family());
    for segment in segments.list().into_iter().filter(of_one) {
        sealed::forget_end(work.sql(), &segment)?;
        work.wipe_segment_after_commit(&segment)?;
    }
    Ok(())
}

/// The segment family of a document, which holds nothing else.
fn family(drawer: u8, name: &str) -> String {
    let digest = Digest::of(format!("{drawer}/{name}").as_bytes()).to_string();
    let digits = digest.get(..32);
    let digits = digits.expect("a digest has 64 hexadecimal digits");
    format!("{}{digits}", formats::DOCUMENT_FAMILY)
}

#[cfg(test)]
mod tests {
    use super::super::schema;
    use super::super::tests::World;
    use super::*;

    fn document(state: u8, body: &str) -> Document {
        Document {
            study: Some(StudyUid::parse("1.2.3").unwrap()),
            state,
            body: body.as_bytes().to_vec(),
        }
    }

    async fn file(vault: &Vault, name: &str, filed: Document) {
        let decide = move |_| Ok::<_, VaultError>(Change::File(filed));
        let changed = vault.change_document(Drawer::Orders, name.to_owned(), decide);
        changed.await.unwrap();
    }

    fn files(world: &World) -> usize {
        let segments = std::fs::read_dir(world.folder.path().join("segments")).unwrap();
        let names = segments.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        names.filter(|name| name.starts_with("document-")).count()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn the_last_form_counts_also_after_a_start_and_in_an_index_made_anew() {
        let world = World::new();
        let vault = world.open().await;
        file(&vault, "1.2.3", document(1, "first")).await;
        file(&vault, "1.2.3", document(2, "last")).await;
        drop(vault);
        let vault = world.open().await;
        let kept = vault.document(Drawer::Orders, "1.2.3").unwrap();
        assert_eq!(kept, Some(document(2, "last")));
        assert_eq!(vault.document(Drawer::Findings, "1.2.3").unwrap(), None);
        // In a segment of its own, as each start begins new ones.
        file(&vault, "1.2.3", document(3, "later")).await;
        drop(vault);
        Vault::put_index_aside(world.folder.path()).unwrap();
        let (vault, absorbed) = world.rebuild().await;
        assert_eq!(absorbed.documents, 3);
        let kept = vault.documents(Drawer::Orders).unwrap();
        assert_eq!(kept, [("1.2.3".to_owned(), document(3, "later"))]);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_of_before_there_were_documents_is_brought_up_to_date() {
        let world = World::new();
        world.keys();
        let index = world.folder.path().join("index.sqlite");
        drop(store::open_database(&index, &schema::MIGRATIONS[..1]).unwrap());
        let vault = world.open().await;
        file(&vault, "1.2.3", document(1, "first")).await;
        let kept = vault.document(Drawer::Orders, "1.2.3").unwrap();
        assert_eq!(kept, Some(document(1, "first")));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_refused_changes_nothing_and_what_is_shredded_leaves_no_file() {
        let world = World::new();
        let vault = world.open().await;
        file(&vault, "1.2.3", document(1, "kept")).await;
        file(&vault, "1.2.4", document(1, "other")).await;
        let refuse = |_| Err(VaultError::Poisoned);
        let refused = vault.change_document(Drawer::Orders, "1.2.3".to_owned(), refuse);
        assert!(refused.await.is_err());
        let kept = vault.document(Drawer::Orders, "1.2.3").unwrap();
        assert_eq!(kept, Some(document(1, "kept")));
        assert_eq!(files(&world), 2);
        let shred = |_| Ok::<_, VaultError>(Change::Shred);
        let shredded = vault.change_document(Drawer::Orders, "1.2.3".to_owned(), shred);
        shredded.await.unwrap();
        assert_eq!(vault.document(Drawer::Orders, "1.2.3").unwrap(), None);
        assert_eq!(files(&world), 1);
    }
}
