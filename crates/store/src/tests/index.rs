use super::*;
use crate::Readers;

#[test]
fn the_index_is_opened_to_keep_its_promises() {
    let folder = tempfile::tempdir().unwrap();
    let connection = database(folder.path());
    let pragma = |name: &str| {
        connection
            .query_row(&format!("PRAGMA {name}"), (), |row| row.get::<_, i64>(0))
            .unwrap()
    };
    let mode: String = connection
        .query_row("PRAGMA journal_mode", (), |row| row.get(0))
        .unwrap();
    assert_eq!(mode, "wal");
    assert_eq!(pragma("synchronous"), 2, "FULL");
    assert_eq!(pragma("foreign_keys"), 1);
    assert_eq!(pragma("user_version"), 1);
}

#[test]
fn each_migration_runs_once_and_in_order() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.sqlite");
    let steps = [
        "CREATE TABLE a (x)",
        "INSERT INTO a VALUES (1)",
        "INSERT INTO a SELECT x + 1 FROM a",
    ];
    drop(open_database(&path, &steps[..2]).unwrap());
    drop(open_database(&path, &steps).unwrap());
    let connection = open_database(&path, &steps).unwrap();
    let sum: i64 = connection
        .query_row("SELECT sum(x) FROM a", (), |row| row.get(0))
        .unwrap();
    assert_eq!(sum, 3);
}

#[test]
fn a_migration_that_fails_leaves_nothing_and_is_tried_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.sqlite");
    let failed = open_database(
        &path,
        &[
            "CREATE TABLE a (x)",
            "CREATE TABLE b (x); INSERT INTO nowhere VALUES (1)",
        ],
    );
    assert!(
        matches!(failed, Err(StoreError::Migration { number: 2, .. })),
        "{failed:?}"
    );
    let connection = open_database(&path, &["CREATE TABLE a (x)", "CREATE TABLE b (x)"]).unwrap();
    assert_eq!(
        connection.query_row("SELECT count(*) FROM b", (), |row| row.get(0)),
        Ok(0)
    );
}

#[test]
fn a_newer_index_is_refused_and_so_is_what_is_none() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("index.sqlite");
    drop(open_database(&path, &["CREATE TABLE a (x)", "CREATE TABLE b (x)"]).unwrap());
    let refused = open_database(&path, &["CREATE TABLE a (x)"]);
    assert!(
        matches!(
            refused,
            Err(StoreError::NewerIndex {
                found: 2,
                known: 1,
                ..
            })
        ),
        "{refused:?}"
    );
    let path = folder.path().join("garbage");
    std::fs::write(&path, [7; 5000]).unwrap();
    assert!(matches!(
        open_database(&path, &[]),
        Err(StoreError::OpenIndex { .. })
    ));
}

#[test]
fn readers_see_one_moment_and_cannot_write() {
    let (disk, folder) = (CrashDisk::new(), tempfile::tempdir().unwrap());
    let writer = writer(&disk, folder.path()).unwrap();
    let readers = Readers::open(&folder.path().join("index.sqlite")).unwrap();
    let count = |sql: &Connection| {
        sql.query_row("SELECT count(*) FROM held", (), |row| row.get::<_, i64>(0))
    };
    hold(&writer, "packed", 1, 10).unwrap();
    let seen = readers.with(|sql| {
        let first = count(sql)?;
        hold(&writer, "packed", 2, 10).unwrap();
        // A reader within a reader has a connection and a moment of its own.
        let inner = readers.with(count)?;
        Ok::<_, rusqlite::Error>((first, count(sql)?, inner))
    });
    assert_eq!(seen, Ok((1, 1, 2)));
    assert!(
        readers
            .with(|sql| sql.execute("DELETE FROM held", ()))
            .is_err()
    );
    assert_eq!(
        readers.with(count),
        Ok(2),
        "an error does not spoil the connection"
    );
}

#[test]
fn a_path_can_be_stored_and_a_row_that_is_none_is_refused() {
    let connection = Connection::open_in_memory().unwrap();
    let place = |segment: &str, offset: i64, bytes: i64| {
        connection.query_row("SELECT ?1, ?2, ?3", (segment, offset, bytes), |row| {
            Location::from_row(row, 0)
        })
    };
    let location = place("packed-00000003", 5, 6).unwrap();
    assert_eq!(
        location.to_columns(),
        (&"packed-00000003".parse().unwrap(), 5, 6)
    );
    assert!(place("../../etc/x-00000001", 5, 6).is_err());
    assert!(place("packed-00000003", -1, 6).is_err());
}
