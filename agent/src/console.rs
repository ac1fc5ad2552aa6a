//! Console: the technician's pages and API. HTTP only.
//!
//! In: HTTP requests on loopback. Out: health for the service manager; figures; studies for whoever
//! has a session.
//! Invariant: what needs a session is refused without one, also where nobody can have one yet.
//! May not: change anything.

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::commands::Rooms;
use crate::status;

/// Serves until it is told to stop.
pub async fn run(
    listener: TcpListener,
    rooms: Rooms,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let pages = Router::new()
        .route("/metrics", get(metrics))
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(|| async { "ready\n" }))
        .route("/api/studies", get(no_session))
        .with_state(rooms);
    axum::serve(listener, pages)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

/// Figures in the text form of Prometheus; nothing of patients, no UID.
async fn metrics(State(rooms): State<Rooms>) -> Response {
    let read = tokio::task::spawn_blocking(move || status::metrics(&rooms)).await;
    match read.expect("reading the vault does not panic") {
        Ok(text) => ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response(),
        Err(error) => {
            let error = &error as &dyn std::error::Error;
            tracing::error!(error, "the figures cannot be read");
            (StatusCode::INTERNAL_SERVER_ERROR, "the box cannot answer\n").into_response()
        }
    }
}

async fn no_session() -> Response {
    let reason = "a session is needed; this console has no accounts yet\n";
    (StatusCode::UNAUTHORIZED, reason).into_response()
}
