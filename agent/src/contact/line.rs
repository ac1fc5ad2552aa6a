//! A contact, as far as the choice of uplinks and roads is concerned.

use std::collections::VecDeque;

use sync_proto::{ByeCode, Command};
use sync_quic::{End, Link};
use tokio::time::Instant;

use super::caller::{Answered, Calling};
use crate::uplink::{Ended, Meter, Work};

/// What is to be said in a contact, what was counted of it, and where it goes on.
pub(super) struct Line {
    pub(super) link: Link,
    pub(super) uplink: String,
    pub(super) work: Work,
    pub(super) to_tell: VecDeque<Command>,
    pub(super) counted: Meter,
    /// What had been heard when it was last looked.
    pub(super) heard_bytes: u64,
    pub(super) put_off_since: Instant,
    /// A goodbye is being said, since then.
    pub(super) closing: Option<Instant>,
    /// Nothing was to be said, or nothing may be.
    pub(super) hung_up: bool,
    /// The call over another uplink.
    pub(super) calling: Calling,
    /// That call was answered, or a better road was found.
    pub(super) moved: Option<Answered>,
}

impl Line {
    pub(super) fn new(answered: &Answered, work: Work) -> Self {
        Self {
            link: answered.link.clone(),
            uplink: answered.way.uplink.name.clone(),
            work,
            to_tell: VecDeque::new(),
            counted: Meter::default(),
            heard_bytes: 0,
            put_off_since: Instant::now(),
            closing: None,
            hung_up: false,
            calling: Calling::default(),
            moved: None,
        }
    }

    pub(super) fn close(&mut self, text: &str) {
        self.closing = Some(Instant::now());
        self.calling = Calling::default();
        let (code, text) = (ByeCode::Done, text.to_owned());
        self.to_tell.push_back(Command::Close { code, text });
    }

    /// Whether it may go on elsewhere; if not it is ending, or does so already.
    pub(super) const fn may_move(&self) -> bool {
        self.moved.is_none() && self.closing.is_none()
    }

    /// It goes on over a link beside it: the first that was found, as the hub knows of that.
    pub(super) fn go_on(&mut self, next: Answered) {
        let (uplink, road) = (&next.way.uplink.name, next.link.road().as_str());
        tracing::info!(from = self.uplink, uplink, road, "contact moves");
        self.calling = Calling::default();
        self.moved = Some(next);
        self.link.close();
    }

    /// How it ended for its uplink; none when it goes on there.
    pub(super) fn how(&self, why: &End) -> Option<Ended> {
        match &self.moved {
            Some(next) if next.way.uplink.name == self.uplink => None,
            Some(_) => Some(Ended::Moved),
            None if self.hung_up && matches!(why, End::Done | End::Closed | End::PeerStopped) => {
                Some(Ended::HungUp)
            }
            None => Some(Ended::Lost {
                repeats: repeats(why),
            }),
        }
    }
}

/// Whether a contact that ended so is likely to end so again: it is not called for at once.
fn repeats(end: &End) -> bool {
    match end {
        // Only another machine with this box's key takes its place: each would wake the other.
        End::Replaced
        | End::Refused(_)
        | End::Blamed(_)
        | End::PeerFault(_)
        | End::Trouble(_)
        | End::PeerTrouble(_) => true,
        End::Done | End::PeerStopped | End::TimedOut | End::Closed | End::Broken(_) => false,
    }
}
