//! Web: HTTP only; turns requests into room calls and errors into status codes.
//!
//! In: requests. Out: health, figures, the list of studies.
//! Invariant: whatever tells of studies needs a token; what is not named here does not exist.
//! May not: decide anything, hold state.

use std::fmt::Write as _;
use std::future::Future;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use serde_json::json;
use tokio::net::TcpListener;

use crate::run::Rooms;

/// Serves until `stop` is ready.
pub(crate) async fn serve(
    listener: TcpListener,
    rooms: Arc<Rooms>,
    stop: impl Future<Output = ()> + Send + 'static,
) {
    let served = axum::serve(listener, routes(rooms))
        .with_graceful_shutdown(stop)
        .await;
    if let Err(error) = served {
        tracing::error!(%error, "the web pages ended");
    }
}

fn routes(rooms: Arc<Rooms>) -> Router {
    Router::new()
        .route("/health/live", get(|| async { "live\n" }))
        .route("/health/ready", get(ready))
        .route("/metrics", get(metrics))
        .route("/api/studies", get(studies))
        .with_state(rooms)
}

/// Ready is who can read its index; a store that cannot be written ends the program.
async fn ready(State(rooms): State<Arc<Rooms>>) -> Response {
    match in_room(rooms, |rooms| rooms.fleet.list()).await {
        Ok(_) => "ready\n".into_response(),
        Err(error) => failed(&error),
    }
}

async fn studies(State(rooms): State<Arc<Rooms>>, headers: HeaderMap) -> Response {
    let Some(token) = bearer(&headers) else {
        return unauthorised();
    };
    let token = token.to_owned();
    match in_room(Arc::clone(&rooms), move |rooms| {
        rooms.access.role_of(&token)
    })
    .await
    {
        Ok(Some(_)) => {}
        Ok(None) => return unauthorised(),
        Err(error) => return failed(&error),
    }
    match in_room(rooms, |rooms| rooms.archive.list()).await {
        Ok(studies) => axum::Json(json!({ "studies": studies })).into_response(),
        Err(error) => failed(&error),
    }
}

/// Figures in the text form of Prometheus; nothing of patients, no UID.
async fn metrics(State(rooms): State<Arc<Rooms>>) -> Response {
    let contacts = rooms.outbox.open_contacts();
    let figures = match in_room(rooms, |rooms| rooms.archive.figures()).await {
        Ok(figures) => figures,
        Err(error) => return failed(&error),
    };
    let mut text = String::new();
    for (name, help, value) in [
        (
            "chasqui_hub_contacts_open",
            "Units on the line.",
            contacts as u64,
        ),
        ("chasqui_hub_studies", "Studies known.", figures.studies),
        (
            "chasqui_hub_studies_at_hub",
            "Studies with custody here.",
            figures.studies_at_hub,
        ),
        (
            "chasqui_hub_instances_readable",
            "Instances that can be read.",
            figures.instances_readable,
        ),
        (
            "chasqui_hub_instance_conflicts",
            "Instances with a known UID and other bytes.",
            figures.conflicts,
        ),
        (
            "chasqui_hub_bytes_held",
            "Bytes of chunks held.",
            figures.bytes_held,
        ),
    ] {
        write!(
            text,
            "# HELP {name} {help}\n# TYPE {name} gauge\n{name} {value}\n"
        )
        .expect("writing to a String does not fail");
    }
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

fn unauthorised() -> Response {
    let challenge = [(header::WWW_AUTHENTICATE, "Bearer")];
    (
        StatusCode::UNAUTHORIZED,
        challenge,
        "a bearer token is needed\n",
    )
        .into_response()
}

/// The one place where a room's error becomes a status code; the words stay in the log.
fn failed(error: &dyn std::error::Error) -> Response {
    tracing::error!(error = crate::chain(error), "a request failed");
    (StatusCode::INTERNAL_SERVER_ERROR, "the hub cannot answer\n").into_response()
}

/// Runs what reads the disk off the runtime's own threads.
async fn in_room<T: Send + 'static>(
    rooms: Arc<Rooms>,
    work: impl FnOnce(&Rooms) -> T + Send + 'static,
) -> T {
    tokio::task::spawn_blocking(move || work(&rooms))
        .await
        .expect("a room does not panic")
}
