//! A contact that goes on over a better link when there is one.

use std::time::Duration;

use sync_quic::{End, Ended, Link};

/// How long the end of a handshake may take to be seen, once the hub has acted on it.
const HANDSHAKE_END: Duration = Duration::from_secs(1);

/// Waits for the session `running` over `link` to end, and ends it when a `better` link is there,
/// which is given too.
pub(super) async fn until_better(
    link: &Link,
    running: impl Future<Output = Ended>,
    better: impl Future<Output = Link>,
) -> (Ended, Option<Link>) {
    tokio::pin!(running, better);
    let ended = tokio::select! {
        ended = &mut running => ended,
        found = &mut better => {
            let (from, to) = (link.road().as_str(), found.road().as_str());
            tracing::info!(from, to, "contact moves");
            link.close();
            return (running.await, Some(found));
        }
    };
    if ended.why != End::Replaced {
        return (ended, None);
    }
    // Most likely by ourselves: the hub may be quicker to leave the one road than we are to see the
    // end of a handshake on the other.
    let found = tokio::time::timeout(HANDSHAKE_END, better).await;
    (ended, found.ok())
}
