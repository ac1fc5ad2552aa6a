//! What was used of each uplink and what a person has said about them, in the index.

use store::rusqlite::{Connection, Row, params};

use super::columns::int;
use super::{Vault, VaultError};
use crate::uplink::{Order, Pause, Period};

/// What is kept of one uplink.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KeptUplink {
    /// Its name.
    pub name: String,
    /// What was used of it this day, or is going to be.
    pub day: Period,
    /// The same of this month.
    pub month: Period,
    /// The rate that it was last seen to deliver, in kbit/s; 0 when that is not known.
    pub rate_kbits: u64,
    /// Its round trip; 0 when that is not known.
    pub rtt_ms: u64,
    /// When that was, by the latest time of the clock that was believed.
    pub seen_ms: u64,
}

/// What is kept of all uplinks.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Airtime {
    /// What a person has said.
    pub order: Order,
    /// The latest time of the clock that was believed.
    pub newest_ms: u64,
    /// The uplinks, also those that are not in use any more.
    pub uplinks: Vec<KeptUplink>,
}

impl Vault {
    /// What is kept of the uplinks.
    pub fn airtime(&self) -> Result<Airtime, VaultError> {
        Ok(self.0.readers.with(read)?)
    }

    /// Keeps what was used of an uplink, and the latest time that was believed.
    pub async fn keep_uplink(&self, uplink: KeptUplink, newest_ms: u64) -> Result<(), VaultError> {
        // Also on a full disk: to send is what makes room again.
        self.make_room(0)?;
        let kept = self.0.writer.run(move |work| -> Result<(), VaultError> {
            write_uplink(work.sql(), &uplink)?;
            work.sql()
                .prepare_cached("UPDATE airtime SET newest_ms = ?1")?
                .execute([int(newest_ms)])?;
            Ok(())
        });
        kept.await?;
        Ok(())
    }

    /// Keeps what a person has said about the uplinks.
    pub async fn keep_order(&self, order: Order) -> Result<(), VaultError> {
        self.make_room(0)?;
        let kept = self.0.writer.run(move |work| -> Result<(), VaultError> {
            work.sql()
                .prepare_cached("UPDATE airtime SET only_uplink = ?1, pause = ?2")?
                .execute(params![order.only, pause_code(order.pause)])?;
            Ok(())
        });
        kept.await?;
        Ok(())
    }
}

fn read(sql: &Connection) -> store::rusqlite::Result<Airtime> {
    let mut airtime = sql
        .prepare_cached("SELECT only_uplink, pause, newest_ms FROM airtime")?
        .query_row([], |row| {
            Ok(Airtime {
                order: Order {
                    only: row.get(0)?,
                    pause: pause(row.get(1)?),
                },
                newest_ms: row.get(2)?,
                uplinks: Vec::new(),
            })
        })?;
    airtime.uplinks = sql
        .prepare_cached(
            "SELECT name, rate_kbits, rtt_ms, day, day_run_ms, day_bytes, day_cost,
                    month, month_run_ms, month_bytes, month_cost, seen_ms
             FROM uplink ORDER BY name",
        )?
        .query_map([], |row| {
            Ok(KeptUplink {
                name: row.get(0)?,
                rate_kbits: row.get(1)?,
                rtt_ms: row.get(2)?,
                day: period(row, 3)?,
                month: period(row, 7)?,
                seen_ms: row.get(11)?,
            })
        })?
        .collect::<store::rusqlite::Result<_>>()?;
    Ok(airtime)
}

fn period(row: &Row<'_>, first: usize) -> store::rusqlite::Result<Period> {
    Ok(Period {
        number: row.get(first)?,
        run_ms: row.get(first + 1)?,
        bytes: row.get(first + 2)?,
        cost: row.get(first + 3)?,
    })
}

fn write_uplink(sql: &Connection, uplink: &KeptUplink) -> store::rusqlite::Result<()> {
    let KeptUplink { day, month, .. } = uplink;
    sql.prepare_cached(
        "INSERT OR REPLACE INTO uplink VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
    )?
    .execute(params![
        uplink.name,
        int(uplink.rate_kbits),
        int(uplink.rtt_ms),
        int(uplink.seen_ms),
        day.number.map(int),
        int(day.run_ms),
        int(day.bytes),
        int(day.cost),
        month.number.map(int),
        int(month.run_ms),
        int(month.bytes),
        int(month.cost),
    ])?;
    Ok(())
}

const fn pause_code(pause: Pause) -> u8 {
    match pause {
        Pause::No => 0,
        Pause::All => 1,
        Pause::ExceptStat => 2,
    }
}

/// The pause with this number; what is unknown sends nothing.
const fn pause(code: u8) -> Pause {
    match code {
        0 => Pause::No,
        2 => Pause::ExceptStat,
        _ => Pause::All,
    }
}

#[cfg(test)]
mod tests {
    use super::super::schema::MIGRATIONS;
    use super::super::tests::open_vault;
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_used_and_said_is_there_after_a_start() {
        let folder = tempfile::tempdir().unwrap();
        let period = |number| Period {
            number,
            run_ms: 1,
            bytes: 2,
            cost: u64::MAX >> 1,
        };
        let uplink = KeptUplink {
            name: "bgan".to_owned(),
            day: period(Some(20_779)),
            month: period(None),
            rate_kbits: 384,
            rtt_ms: 900,
            seen_ms: 6,
        };
        let order = Order {
            only: Some("bgan".to_owned()),
            pause: Pause::ExceptStat,
        };
        let vault = open_vault(folder.path()).await;
        assert_eq!(vault.airtime().unwrap(), Airtime::default());
        vault.keep_order(order.clone()).await.unwrap();
        vault.keep_uplink(uplink.clone(), 7).await.unwrap();
        vault.keep_uplink(uplink.clone(), 8).await.unwrap();
        let kept = Airtime {
            order,
            newest_ms: 8,
            uplinks: vec![uplink],
        };
        assert_eq!(vault.airtime().unwrap(), kept);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn an_index_without_airtime_gets_it() {
        let folder = tempfile::tempdir().unwrap();
        let index = folder.path().join("index.sqlite");
        crate::keys::Keys::open_or_found(folder.path(), None).unwrap();
        drop(store::open_database(&index, &MIGRATIONS[..3]).unwrap());
        let vault = open_vault(folder.path()).await;
        assert_eq!(vault.airtime().unwrap(), Airtime::default());
    }
}
