//! The receiving side of lanes: tasks that turn streams into frames.
//!
//! In: lanes of the peer. Out: frames, one at a time, to a channel that is nearly always empty.
//! Invariant: a frame comes out only on the kind of lane where it belongs; when nobody takes
//! frames, the transport's flow control holds the peer up.
//! May not: buffer.

use sync_proto::Frame;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use super::Done;
use super::wire::{self, ReadEnd};
use crate::line::{LaneReceiver, Line};

/// What a lane carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Everything but an item's own frames.
    Control,
    /// One item's frames.
    Item,
}

/// Reads all item lanes, each in a task of its own, until the connection ends.
pub(super) async fn items(
    line: Line,
    frames: mpsc::Sender<Frame>,
    done: mpsc::UnboundedSender<Done>,
) {
    let mut lanes = JoinSet::new();
    while let Some(receive) = line.accept_item().await {
        lanes.spawn(lane(receive, Kind::Item, frames.clone(), done.clone()));
        while lanes.try_join_next().is_some() {}
    }
}

/// Reads one lane until it ends.
pub(super) async fn lane(
    mut receive: LaneReceiver,
    kind: Kind,
    frames: mpsc::Sender<Frame>,
    done: mpsc::UnboundedSender<Done>,
) {
    loop {
        let fault = match wire::read(&mut receive).await {
            Ok(frame) if frame.is_of_item_lane() == (kind == Kind::Item) => {
                if frames.send(frame).await.is_err() {
                    return;
                }
                continue;
            }
            Ok(frame) => format!(
                "the peer sent {} on a lane where it does not belong",
                frame.name()
            ),
            Err(ReadEnd::Fault(text)) => text,
            Err(ReadEnd::Over) => return,
        };
        let _ = done.send(Done::Fault(fault));
        return;
    }
}
