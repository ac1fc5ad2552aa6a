//! The session's orders to the disk: one task stores, one loads, each in order.
//!
//! In: orders. Out: the answers, given after the sync.
//! Invariant: stores are strictly one after the other; data that has come in while the disk was
//! busy is stored in one go, so that a slow sync costs throughput once, not per frame.
//! May not: drop an order; the session waits for every answer.

use std::sync::Arc;

use journal::{JournalId, Signed, SignedManifest};
use study::Digest;
use sync_proto::{Class, Loaded, Stored};
use tokio::sync::mpsc;

use super::Done;
use crate::shelf::{Arrival, Found, Kept, Shelf, ShelfError, Taken};

/// How many orders are looked at in one go.
const ORDERS_AT_ONCE: usize = 64;

/// An order to the disk that must keep its place.
#[derive(Debug)]
pub(super) enum Order {
    Data { item: u32, arrival: Arrival },
    Other(ToStore),
}

/// Something to store that is no data, or to look up in order with what is stored.
#[derive(Debug)]
pub(super) enum ToStore {
    Manifest {
        item: u32,
        manifest: Box<SignedManifest>,
        class: Class,
    },
    Find {
        item: u32,
        manifest: Digest,
        class: Class,
    },
    Records {
        journal: JournalId,
        records: Vec<Signed>,
    },
    Fleet {
        document: Vec<u8>,
    },
}

/// Something to load.
#[derive(Debug)]
pub(super) enum ToLoad {
    Records {
        journal: JournalId,
        from_seq: u64,
        bytes_max: usize,
    },
    Fleet,
}

/// Stores until `orders` is dropped.
pub(super) async fn store<S: Shelf>(
    shelf: Arc<S>,
    mut orders: mpsc::UnboundedReceiver<Order>,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut batch = Vec::with_capacity(ORDERS_AT_ONCE);
    while orders.recv_many(&mut batch, ORDERS_AT_ONCE).await > 0 {
        if let Err(error) = store_all(&*shelf, &mut batch, &done).await {
            let _ = done.send(Done::Trouble(error));
            return;
        }
    }
}

async fn store_all<S: Shelf>(
    shelf: &S,
    orders: &mut Vec<Order>,
    done: &mpsc::UnboundedSender<Done>,
) -> Result<(), ShelfError> {
    let mut data = Arrivals::default();
    for order in orders.drain(..) {
        match order {
            Order::Data { item, arrival } => data.add(item, arrival),
            Order::Other(other) => {
                data.store(shelf, done).await?;
                let _ = done.send(Done::Stored(store_one(shelf, other).await?));
            }
        }
    }
    data.store(shelf, done).await
}

async fn store_one<S: Shelf>(shelf: &S, order: ToStore) -> Result<Stored, ShelfError> {
    Ok(match order {
        ToStore::Manifest {
            item,
            manifest,
            class,
        } => match shelf.store_manifest(*manifest, class).await? {
            Taken::Held(holding) => Stored::Manifest { item, holding },
            Taken::Complete => Stored::Complete { item },
            Taken::Refused(code, text) => Stored::Refused { item, code, text },
        },
        ToStore::Find {
            item,
            manifest,
            class,
        } => match shelf.find_manifest(manifest, class).await? {
            Found::Held(manifest, holding) => Stored::Found {
                item,
                manifest,
                holding,
            },
            Found::Complete => Stored::Complete { item },
            Found::Unknown => Stored::Unknown { item },
            Found::Refused(code, text) => Stored::Refused { item, code, text },
        },
        ToStore::Records { journal, records } => {
            let seq = records.last().map_or(0, |last| last.head.seq);
            shelf.store_records(journal, records).await?;
            Stored::Records { journal, seq }
        }
        ToStore::Fleet { document } => match shelf.store_fleet(document).await? {
            Some(version) => Stored::Fleet { version },
            None => Stored::FleetRefused,
        },
    })
}

/// Data that is stored in one go.
#[derive(Default)]
struct Arrivals {
    /// Item, chunk and end of each arrival.
    ends: Vec<(u32, u32, u32)>,
    arrivals: Vec<Arrival>,
}

impl Arrivals {
    fn add(&mut self, item: u32, arrival: Arrival) {
        self.ends.push((item, arrival.chunk, arrival.upto()));
        self.arrivals.push(arrival);
    }

    async fn store<S: Shelf>(
        &mut self,
        shelf: &S,
        done: &mpsc::UnboundedSender<Done>,
    ) -> Result<(), ShelfError> {
        if self.arrivals.is_empty() {
            return Ok(());
        }
        let kept = shelf.store_data(std::mem::take(&mut self.arrivals)).await?;
        assert_eq!(kept.len(), self.ends.len(), "a shelf answers every arrival");
        for ((item, chunk, upto), kept) in self.ends.drain(..).zip(kept) {
            let _ = done.send(Done::Stored(match kept {
                Kept::Durable => Stored::Data { item, chunk, upto },
                Kept::Damaged => Stored::Damaged { item, chunk },
                Kept::Refused(code, text) => Stored::Refused { item, code, text },
            }));
        }
        Ok(())
    }
}

/// Loads until `orders` is dropped.
pub(super) async fn load<S: Shelf>(
    shelf: Arc<S>,
    mut orders: mpsc::UnboundedReceiver<ToLoad>,
    done: mpsc::UnboundedSender<Done>,
) {
    while let Some(order) = orders.recv().await {
        let loaded = match order {
            ToLoad::Records {
                journal,
                from_seq,
                bytes_max,
            } => {
                // No records stop their journal for this session, not the session.
                let records = shelf.load_records(journal, from_seq, bytes_max).await;
                let records = records.unwrap_or_else(|error| {
                    tracing::warn!(author = %journal.author.short(), %error, "records not loaded");
                    Vec::new()
                });
                Ok(Loaded::Records {
                    journal,
                    from_seq,
                    records,
                })
            }
            ToLoad::Fleet => shelf
                .load_fleet()
                .await
                .map(|(version, document)| Loaded::Fleet { version, document }),
        };
        let _ = done.send(match loaded {
            Ok(loaded) => Done::Loaded(loaded),
            Err(error) => Done::Trouble(error),
        });
    }
}
