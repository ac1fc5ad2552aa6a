//! Console: the technician's pages and API. HTTP only.
//!
//! In: HTTP requests on loopback. Out: health for the service manager; studies for whoever has a
//! session.
//! Invariant: what needs a session is refused without one, also where nobody can have one yet.
//! May not: change anything.

use axum::Router;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Serves until it is told to stop.
pub async fn run(listener: TcpListener, stop: CancellationToken) -> std::io::Result<()> {
    let pages = Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(|| async { "ready\n" }))
        .route("/api/studies", get(no_session));
    axum::serve(listener, pages)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

async fn no_session() -> Response {
    let reason = "a session is needed; this console has no accounts yet\n";
    (StatusCode::UNAUTHORIZED, reason).into_response()
}
